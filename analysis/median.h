// The median, one way everywhere.
#pragma once

#include <algorithm>
#include <vector>

namespace gradwire::analysis {

// Middle of the sorted values, the lower one of two; 0 of none.
template <typename T>
T Median(std::vector<T> values) {
  if (values.empty()) return T{};
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>((values.size() - 1) / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace gradwire::analysis
