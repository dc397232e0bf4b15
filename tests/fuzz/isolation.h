// What fuzzers share: a network of their own, and packets with a right ICRC.
#pragma once

#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <span>

#include "transport/urxe/wire/icrc.h"
#include "transport/urxe/wire/packet.h"

namespace urxe {

// Garbage must not reach other programs of this host that use the port: the fuzzer gets a network
// namespace with nothing but loopback. Ends the program when that is not permitted.
inline void IsolateNetwork() {
  const int fd = unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0
                     ? socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)
                     : -1;
  ifreq loopback = {};
  std::strcpy(loopback.ifr_name, "lo");
  loopback.ifr_flags = IFF_UP | IFF_RUNNING;
  if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &loopback) != 0) {
    std::fprintf(stderr,
                 "fuzzer: no network namespace of its own: %s; permit unprivileged user namespaces "
                 "or run as root\n",
                 std::strerror(errno));
    _exit(2);
  }
  close(fd);
}

inline Gid Loopback(uint8_t last) {
  return {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 127, 0, 0, last};
}

inline sockaddr_in RoceAddress(const Gid& gid) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(kRocePort);
  std::memcpy(&address.sin_addr, gid.data() + 12, 4);
  return address;
}

// Stores the ICRC of a datagram of `flow` in its last four bytes.
inline void Sign(const FlowKey& flow, std::span<std::byte> datagram) {
  if (datagram.size() < kBthSize + kIcrcSize) return;
  const auto covered = datagram.first(datagram.size() - kIcrcSize);
  uint32_t icrc = IcrcOfIpHeaders(flow, datagram.size(), 0);
  icrc = IcrcFinish(IcrcOfHeaders(icrc, covered));
  for (size_t i = 0; i < kIcrcSize; ++i) {
    datagram[covered.size() + i] = static_cast<std::byte>(icrc >> (8 * i));
  }
}

}  // namespace urxe
