// Files that live as long as a test.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace gradwire::training {

class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path Write(std::string_view name, std::string_view bytes) const;
  std::string Read(std::string_view name) const;
  std::vector<std::string> Names() const;  // sorted

 private:
  std::filesystem::path path_;
};

// One gzip member.
std::string Gzip(std::string_view bytes);
// An IDX file of any header.
std::string Idx(uint32_t magic, const std::vector<uint32_t>& dimensions, std::string_view elements);

}  // namespace gradwire::training
