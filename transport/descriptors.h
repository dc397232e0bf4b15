// File descriptors: with an owner, and the limit of open ones, which thousands of links exceed.
#pragma once

#include <string_view>
#include <utility>

#include "transport/status.h"

namespace gradwire {

// Owns a file descriptor. Move-only.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~FileDescriptor();

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

// Sees to it that `count` more descriptors can be opened, raising the soft limit to the hard one
// when they cannot. ResourceExhausted says what `what` would need. Any thread.
absl::Status EnsureDescriptors(int count, std::string_view what);

}  // namespace gradwire
