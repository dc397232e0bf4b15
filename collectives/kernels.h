// Reduction kernels: element-wise, vectorised, chosen once by type and operation.
#pragma once

#include <cstddef>

#include "collectives/types.h"

namespace gradwire {

// out[i] = a[i] op b[i] for `count` elements. `out` may be `a` or `b` but not overlap them
// otherwise. The operand order matters for the sign of zero and NaN in min and max: callers keep it
// the same on every rank. kAvg adds; Divide() follows once the sum is complete.
using ReduceKernel = void (*)(void* out, const void* a, const void* b, size_t count);
ReduceKernel KernelFor(DataType type, ReduceOp op);

// data[i] /= divisor; half types divide in float32, integers round towards zero.
void Divide(DataType type, void* data, size_t count, int divisor);

}  // namespace gradwire
