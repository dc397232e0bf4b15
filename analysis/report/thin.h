// Bounds what a page shows of a large recording, and says what it leaves out.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "analysis/result.h"

namespace gradwire::analysis {

// Of one run.
struct Limits {
  size_t operations = 2'000;
  size_t intervals = 100'000;  // and steps of critical paths, together
  size_t flows = 20'000;
};

struct Thinned {
  Run run;                            // operations without intervals have their sums all the same
  std::vector<std::string> left_out;  // sentences; none when the run is whole
};

// Keeps the slowest operations and the median one in detail, and at the same class and length
// whatever of them is drawn.
Thinned Thin(const Run& run, const Limits& limits);

// Joins neighbours until at most `limit` steps are left: each piece that is shorter than some
// length (returned in ns; 0 when nothing was joined) takes the rank, class and peer that fill most
// of it. Longer steps stay as they are. Gaps stay gaps.
int64_t Coarsen(std::vector<PathStep>& steps, size_t limit);

}  // namespace gradwire::analysis
