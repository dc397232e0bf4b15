// How subcommands put text and JSON out.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "transport/status.h"

namespace gradwire::cli {

// `text` broken at blanks into lines of at most 80 columns, each indented by `indent` and ended.
std::string Wrapped(std::string_view text, size_t indent);

// Writes `json` to `path`, "-" for standard output, and a newline. The error names the file.
absl::Status WriteJson(const nlohmann::ordered_json& json, const std::string& path);

}  // namespace gradwire::cli
