// From a folder of recordings to what is known of the run.
#pragma once

#include <filesystem>

#include "analysis/result.h"
#include "transport/status.h"

namespace gradwire::analysis {

struct AnalyseOptions {
  size_t flows = 1'000'000;  // most arrows kept, evenly over time; a page shows fewer
  bool barriers = false;     // also operations that move no data
};

// The errors of ReadRecordings; what is wrong with a part of the recordings is among the problems
// of the run. FailedPrecondition when no operation was recorded.
absl::StatusOr<Run> Analyse(const std::filesystem::path& folder, const AnalyseOptions& options);

}  // namespace gradwire::analysis
