// What the critical paths of a run say, in sentences.
#pragma once

#include <vector>

#include "analysis/result.h"

namespace gradwire::analysis {

// Causes by their share of all critical paths, largest first; without paths, of all ranks' time.
std::vector<Finding> FindingsOf(const Run& run);

}  // namespace gradwire::analysis
