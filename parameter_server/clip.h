// Limits for gradients that explode.
#pragma once

#include <span>

#include "transport/status.h"

namespace gradwire::ps {

struct ClipOptions {
  // --clip-norm: the whole gradient is scaled down to this L2 norm (Pascanu, Mikolov and Bengio,
  // 2013); 0: off.
  double norm = 0;
  // --clip-value: each element is cut to [-value, value], before the norm is taken; 0: off.
  double value = 0;
};

// InvalidArgument names the flag.
absl::Status Validate(const ClipOptions& options);

// Sum of squares in float64. The same bits for the same values, wherever they lie in memory; norms
// of parts add up, so that a caller may go bucket by bucket.
double SquaredNorm(std::span<const float> values);

// What to multiply a gradient with so that its norm is at most `limit`; 1 when it is already, or
// when the norm is not finite: scaling would hide that.
float ClipScale(double squared_norm, double limit);

void Scale(std::span<float> values, float factor);
// NaN stays NaN.
void ClipValues(std::span<float> values, float limit);

}  // namespace gradwire::ps
