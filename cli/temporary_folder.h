// A folder that vanishes with its files.
#pragma once

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <utility>

#include "transport/status.h"

namespace gradwire::cli {

class TemporaryFolder {
 public:
  // `stem` and six characters more, which nothing else is called.
  static absl::StatusOr<TemporaryFolder> Create(const std::filesystem::path& stem) {
    std::string name = stem.string() + "-XXXXXX";
    if (mkdtemp(name.data()) == nullptr) {
      return ErrnoError(errno, "cannot make the folder {}", name);
    }
    return TemporaryFolder(name);
  }
  TemporaryFolder(TemporaryFolder&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  TemporaryFolder& operator=(TemporaryFolder&&) = delete;
  ~TemporaryFolder() {
    std::error_code error;
    if (!path_.empty()) std::filesystem::remove_all(path_, error);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  explicit TemporaryFolder(std::filesystem::path path) : path_(std::move(path)) {}
  std::filesystem::path path_;
};

}  // namespace gradwire::cli
