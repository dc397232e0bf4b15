#include "cli/report.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <memory>

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

absl::Status WriteJson(const nlohmann::ordered_json& json, const std::string& path) {
  // Names of devices and files need not be UTF-8; JSON must be.
  const std::string text =
      json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
  if (path == "-") {
    std::fwrite(text.data(), 1, text.size(), stdout);
    return std::fflush(stdout) == 0 ? absl::OkStatus()
                                    : ErrnoError(errno, "cannot write to standard output");
  }
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "w"),
                                                             &std::fclose);
  if (file == nullptr) return ErrnoError(errno, "cannot write {}", path);
  if (std::fwrite(text.data(), 1, text.size(), file.get()) != text.size() ||
      std::fflush(file.get()) != 0) {
    return ErrnoError(errno, "cannot write {}", path);
  }
  return absl::OkStatus();
}

}  // namespace gradwire::cli
