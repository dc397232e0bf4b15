#include "transport/tcp/socket.h"

#include <arpa/inet.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <vector>

namespace gradwire::tcp {

absl::StatusOr<SocketAddress> SocketAddress::Parse(const std::string& address, uint16_t port) {
  SocketAddress result;
  auto* v4 = reinterpret_cast<sockaddr_in*>(&result.storage);
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&result.storage);
  if (inet_pton(AF_INET, address.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    result.length = sizeof(sockaddr_in);
  } else if (inet_pton(AF_INET6, address.c_str(), &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    result.length = sizeof(sockaddr_in6);
  } else {
    return InvalidArgument("'{}' is no numeric IPv4 or IPv6 address", address);
  }
  return result;
}

std::string SocketAddress::ToString() const {
  char text[INET6_ADDRSTRLEN] = "?";
  if (storage.ss_family == AF_INET) {
    const auto* v4 = reinterpret_cast<const sockaddr_in*>(&storage);
    inet_ntop(AF_INET, &v4->sin_addr, text, sizeof(text));
    return fmt::format("{}:{}", text, ntohs(v4->sin_port));
  }
  const auto* v6 = reinterpret_cast<const sockaddr_in6*>(&storage);
  inet_ntop(AF_INET6, &v6->sin6_addr, text, sizeof(text));
  return fmt::format("[{}]:{}", text, ntohs(v6->sin6_port));
}

absl::Status ApplyOptions(int fd, const Settings& settings) {
  const int on = 1;
  if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) != 0) {
    return ErrnoError(errno, "TCP_NODELAY");
  }
  if (settings.socket_buffer_bytes > 0) {
    const int bytes = static_cast<int>(settings.socket_buffer_bytes);
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes)) != 0 ||
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes)) != 0) {
      return ErrnoError(errno, "socket buffers of {} bytes", bytes);
    }
  }
  if (!settings.tcp_congestion.empty() &&
      setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, settings.tcp_congestion.data(),
                 static_cast<socklen_t>(settings.tcp_congestion.size())) != 0) {
    return InvalidArgument(
        "--tcp-congestion {}: {}; sysctl net.ipv4.tcp_allowed_congestion_control lists what an "
        "ordinary user may choose",
        settings.tcp_congestion, std::generic_category().message(errno));
  }
  return absl::OkStatus();
}

absl::Status LoseArrivals(int fd, double rate) {
  // A socket filter that keeps a packet unless a random number of 32 bits is below the probability
  // that one of its units is lost: classic BPF (Linux, networking/filter.rst).
  constexpr uint32_t kUnit = 4096;     // bytes: a packet of RoCE's largest MTU
  constexpr uint32_t kHeaders = 64;    // TCP's and ours, which make no unit of their own
  constexpr uint32_t kMostUnits = 16;  // a packet has at most 64 KiB
  constexpr uint32_t kRandom = static_cast<uint32_t>(SKF_AD_OFF + SKF_AD_RANDOM);
  std::vector<sock_filter> code = {
      BPF_STMT(BPF_LD | BPF_W | BPF_LEN, 0),
      BPF_STMT(BPF_ALU | BPF_ADD | BPF_K, kUnit - 1 - kHeaders),
      BPF_STMT(BPF_ALU | BPF_DIV | BPF_K, kUnit),
  };
  for (uint32_t units = 1; units <= kMostUnits; ++units) {
    const double lost = 1 - std::pow(1 - std::clamp(rate, 0.0, 1.0), units);
    const auto below = static_cast<uint32_t>(std::min(lost * 4294967296.0, 4294967295.0));
    // More units than that: on to the next; the last is for all that remain.
    if (units < kMostUnits) code.push_back(BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, units, 2, 0));
    code.push_back(BPF_STMT(BPF_LD | BPF_IMM, std::max(uint32_t{1}, below)));
    if (units < kMostUnits) {
      code.push_back(BPF_STMT(BPF_JMP | BPF_JA, 3 * (kMostUnits - 1 - units) + 1));
    }
  }
  code.insert(code.end(),
              {BPF_STMT(BPF_MISC | BPF_TAX, 0), BPF_STMT(BPF_LD | BPF_W | BPF_ABS, kRandom),
               BPF_JUMP(BPF_JMP | BPF_JGE | BPF_X, 0, 0, 1), BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
               BPF_STMT(BPF_RET | BPF_K, 0)});
  const sock_fprog program = {static_cast<unsigned short>(code.size()), code.data()};
  if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) != 0) {
    return ErrnoError(errno, "--tcp-loss {}: the kernel takes no filter at a socket", rate);
  }
  return absl::OkStatus();
}

absl::StatusOr<FileDescriptor> Listen(const SocketAddress& address, const Settings& settings,
                                      uint16_t& port) {
  FileDescriptor fd(
      socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return ErrnoError(errno, "socket");
  GW_RETURN_IF_ERROR(ApplyOptions(fd.get(), settings));
  if (bind(fd.get(), address.get(), address.length) != 0 || listen(fd.get(), SOMAXCONN) != 0) {
    return ErrnoError(errno, "cannot listen on {}", address.ToString());
  }
  sockaddr_storage bound = {};
  socklen_t length = sizeof(bound);
  if (getsockname(fd.get(), reinterpret_cast<sockaddr*>(&bound), &length) != 0) {
    return ErrnoError(errno, "getsockname");
  }
  port = ntohs(bound.ss_family == AF_INET ? reinterpret_cast<sockaddr_in*>(&bound)->sin_port
                                          : reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port);
  return fd;
}

absl::StatusOr<FileDescriptor> StartConnect(const SocketAddress& address,
                                            const Settings& settings) {
  FileDescriptor fd(
      socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return ErrnoError(errno, "socket");
  GW_RETURN_IF_ERROR(ApplyOptions(fd.get(), settings));
  if (connect(fd.get(), address.get(), address.length) != 0 && errno != EINPROGRESS) {
    return ErrnoError(errno, "cannot connect to {}", address.ToString());
  }
  return fd;
}

}  // namespace gradwire::tcp
