// A report as one HTML file that needs nothing else: no network, no server, no other file.
#pragma once

#include <filesystem>
#include <string>

#include "analysis/study.h"
#include "transport/status.h"

namespace gradwire::analysis {

// Large recordings are thinned out (see thin.h); the page says what it leaves out.
absl::Status WriteHtml(const Report& report, const std::filesystem::path& path);

}  // namespace gradwire::analysis
