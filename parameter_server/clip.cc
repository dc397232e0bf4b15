#include "parameter_server/clip.h"

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <cmath>

namespace gradwire::ps {

absl::Status Validate(const ClipOptions& options) {
  const auto check = [](const char* flag, double limit) {
    if (std::isfinite(limit) && limit >= 0) return absl::OkStatus();
    return InvalidArgument("{} {}: must be positive, or 0 for no limit", flag, limit);
  };
  GW_RETURN_IF_ERROR(check("--clip-norm", options.norm));
  return check("--clip-value", options.value);
}

double SquaredNorm(std::span<const float> values) {
  // Lanes of our own, not a library's reduction: that may start at an aligned address and so add in
  // another order.
  constexpr size_t kLanes = 8;
  std::array<double, kLanes> sums{};
  size_t i = 0;
  for (; i + kLanes <= values.size(); i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const double value = values[i + lane];
      sums[lane] += value * value;
    }
  }
  for (size_t lane = 0; i < values.size(); ++i, ++lane) {
    const double value = values[i];
    sums[lane] += value * value;
  }
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

float ClipScale(double squared_norm, double limit) {
  const double norm = std::sqrt(squared_norm);
  if (!std::isfinite(norm) || norm <= limit) return 1.0f;
  return static_cast<float>(limit / norm);
}

void Scale(std::span<float> values, float factor) {
  Eigen::Map<Eigen::ArrayXf>(values.data(), static_cast<Eigen::Index>(values.size())) *= factor;
}

void ClipValues(std::span<float> values, float limit) {
  for (float& value : values) {
    // Comparisons with NaN are false, so that it stays.
    value = value > limit ? limit : value < -limit ? -limit : value;
  }
}

}  // namespace gradwire::ps
