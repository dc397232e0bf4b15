// Whole files in, parts of files in, whole files out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "transport/memory.h"
#include "transport/status.h"

namespace gradwire {

// Writes all of `bytes` to `fd`; the error names `path`. A file beyond the process's limit
// (RLIMIT_FSIZE) is an error as a full disk is.
absl::Status WriteWhole(int fd, ConstBytes bytes, const std::filesystem::path& path);

// The file's bytes. NotFound when it is missing, DataLoss above `limit` bytes.
absl::StatusOr<std::vector<uint8_t>> ReadFile(const std::filesystem::path& path, uint64_t limit);

// A file of which parts are read.
class InputFile {
 public:
  // NotFound when it is missing, InvalidArgument for what is no regular file.
  static absl::StatusOr<InputFile> Open(const std::filesystem::path& path);
  InputFile(InputFile&& other) noexcept;
  InputFile& operator=(InputFile&& other) noexcept;
  ~InputFile();

  const std::string& path() const { return path_; }
  uint64_t size() const { return size_; }  // bytes, as it was when opened
  // Fills `bytes` from `offset` on; DataLoss when the file ends before.
  absl::Status Read(uint64_t offset, Bytes bytes) const;

 private:
  InputFile(std::string path, int fd, uint64_t size)
      : path_(std::move(path)), fd_(fd), size_(size) {}

  std::string path_;
  int fd_ = -1;
  uint64_t size_ = 0;
};

// True for what starts like a gzip member (RFC 1952).
bool IsGzip(std::span<const uint8_t> bytes);
// Unpacks gzip members. DataLoss, naming `name`, when they are damaged, end early or unpack to more
// than `limit` bytes.
absl::StatusOr<std::vector<uint8_t>> Gunzip(std::span<const uint8_t> bytes, uint64_t limit,
                                            std::string_view name);

// A file that appears under its name whole or not at all: written beside it, synced, then renamed.
class AtomicFile {
 public:
  // Makes the temporary file, so that a missing folder or permission shows at once.
  static absl::StatusOr<AtomicFile> Create(const std::filesystem::path& path);
  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&& other) noexcept;
  ~AtomicFile();  // without Commit(): nothing is left

  absl::Status Append(ConstBytes bytes);
  absl::Status Append(std::string_view text);
  // The file now exists, also after a power cut.
  absl::Status Commit();

 private:
  AtomicFile(std::filesystem::path path, std::filesystem::path temporary, int fd);

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int fd_ = -1;
};

}  // namespace gradwire
