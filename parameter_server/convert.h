// Numbers of half width on the wire: float32 to and from float16 and bfloat16, rounded to nearest
// even, by the widest instructions of the CPU. Infinities, denormals and signed zeros come through
// exactly; what exceeds the range becomes infinite; NaN stays a (quiet) NaN.
#pragma once

#include <span>

#include "collectives/types.h"
#include "transport/memory.h"

namespace gradwire::ps {

// `type` is kFloat32 (copied), kFloat16 or kBfloat16, else nothing is done and the result is
// InvalidArgument, as it is when `bytes` does not hold exactly values.size() of them. The spans do
// not overlap; alignment does not matter.
absl::Status Pack(std::span<const float> values, DataType type, Bytes bytes);
absl::Status Unpack(ConstBytes bytes, DataType type, std::span<float> values);
// values[i] += bytes[i]
absl::Status Accumulate(ConstBytes bytes, DataType type, std::span<float> values);

}  // namespace gradwire::ps
