// Sockets as values: a file descriptor with an owner, and the few ways in which we make one.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <utility>

#include "transport/settings.h"
#include "transport/status.h"

namespace gradwire::tcp {

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

// A numeric address with port, in either family.
struct SocketAddress {
  sockaddr_storage storage = {};
  socklen_t length = 0;

  // InvalidArgument unless `address` is numeric IPv4 or IPv6.
  static absl::StatusOr<SocketAddress> Parse(const std::string& address, uint16_t port);
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
  // "10.0.0.1:4711", "[fd00::1]:4711".
  std::string ToString() const;
};

// Listens on `address` (port 0: any); non-blocking. `port` receives the one in use.
absl::StatusOr<FileDescriptor> Listen(const SocketAddress& address, const Settings& settings,
                                      uint16_t& port);
// Starts a non-blocking connect; the result shows when the socket becomes writable.
absl::StatusOr<FileDescriptor> StartConnect(const SocketAddress& address, const Settings& settings);
// No delay, buffer sizes and congestion control as `settings` want; before connect or listen,
// since an accepted socket inherits them.
absl::Status ApplyOptions(int fd, const Settings& settings);

}  // namespace gradwire::tcp
