#include "cli/report.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstdio>
#include <system_error>

#include "cli/standard_output.h"
#include "transport/file_io.h"

namespace gradwire::cli {
namespace {
constexpr size_t kColumns = 80;
}

std::string Wrapped(std::string_view text, size_t indent) {
  const size_t width = kColumns - std::min(indent, kColumns / 2);
  std::string lines;
  do {
    size_t end = text.size();
    if (end > width) {
      end = text.rfind(' ', width);
      // A word longer than the line stands alone and whole.
      if (end == std::string_view::npos || end == 0) end = std::min(text.find(' '), text.size());
    }
    lines.append(indent, ' ').append(text.substr(0, end)).push_back('\n');
    text.remove_prefix(std::min(text.find_first_not_of(' ', end), text.size()));
  } while (!text.empty());
  return lines;
}

absl::StatusOr<bench::JsonOutput> OpenJson(const std::string& path) {
  GW_ASSIGN_OR_RETURN(bench::JsonOutput output, bench::JsonOutput::Create(path));
  if (output.is_standard_output()) {
    KeepStandardOutputForJson();
  } else if (output.path() != path) {
    PrintError("gradwire: {} exists and is kept; the JSON goes to {}\n", path, output.path());
  }
  return output;
}

absl::Status MakeOutputFolder(const std::filesystem::path& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (!error && !std::filesystem::is_directory(path)) {
    error = std::make_error_code(std::errc::not_a_directory);
  }
  if (error) {
    return InvalidArgument("--out {}: cannot make the folder: {}; name another", path.string(),
                           error.message());
  }
  // Permissions do not say it all: a file system may be read-only, or the kernel's own.
  const absl::Status tried = AtomicFile::Create(path / "report").status();
  return tried.ok() ? tried : InvalidArgument("--out {}; name another folder", Message(tried));
}

}  // namespace gradwire::cli
