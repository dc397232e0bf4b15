// A run as a Chrome trace, for Perfetto (ui.perfetto.dev) and chrome://tracing: a process per rank
// with its operations, its classes and its part of critical paths; arrows are writes.
#pragma once

#include <filesystem>

#include "analysis/result.h"
#include "transport/status.h"

namespace gradwire::analysis {

absl::Status WriteTrace(const Run& run, const std::filesystem::path& path);

}  // namespace gradwire::analysis
