// The few ways in which we make a socket.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <string>

#include "transport/descriptors.h"
#include "transport/settings.h"
#include "transport/status.h"

namespace gradwire::tcp {

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
// What arrives is lost with probability `rate` per 4 KiB, before TCP sees it; the sender's TCP then
// recovers as from loss on a network. A packet, which within a host holds up to 64 KiB, goes whole.
absl::Status LoseArrivals(int fd, double rate);

}  // namespace gradwire::tcp
