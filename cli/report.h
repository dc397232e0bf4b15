// How subcommands put text and JSON out.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "bench/report.h"
#include "transport/status.h"

namespace gradwire::cli {

// `text` broken at blanks into lines of at most 80 columns, each indented by `indent` and ended.
std::string Wrapped(std::string_view text, size_t indent);

// Opens the FILE of --json, before the work. With "-", standard output is for JSON alone from here
// on; of a file that exists and is kept, a line on standard error tells.
absl::StatusOr<bench::JsonOutput> OpenJson(const std::string& path);

// Makes the folder `path` of --out where it is missing, before the work: InvalidArgument when it
// cannot be, or when nothing can be written there.
absl::Status MakeOutputFolder(const std::filesystem::path& path);

}  // namespace gradwire::cli
