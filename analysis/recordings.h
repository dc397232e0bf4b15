// The recordings of one run, as far as they can be read.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "transport/status.h"
#include "transport/telemetry/recording.h"

namespace gradwire::analysis {

struct Recordings {
  int world_size = 0;
  std::vector<telemetry::Recording> ranks;  // by rank; those that are missing are left out
  std::vector<std::string> problems;        // what is missing and why, in sentences
};

// Reads every rank-N.gwr in `folder`. Files that cannot be read, belong to another run or claim
// another world are left out and named among the problems. NotFound without any file; the reason
// of the first when none can be used.
absl::StatusOr<Recordings> ReadRecordings(const std::filesystem::path& folder);

}  // namespace gradwire::analysis
