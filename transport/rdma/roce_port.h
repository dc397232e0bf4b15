// UDP port 4791, which RoCE v2 packets come to. A user-space device shares it with other processes
// of its user; the kernel's rdma_rxe, once loaded, has it for itself.
#pragma once

#include <string>

#include "transport/rdma/interface.h"

namespace gradwire::rdma {

inline constexpr int kRoceUdpPort = 4791;

// Why a process of user `uid` cannot receive on the port at `address`, with the remedy; empty when
// it can. Told from `proc`/net/udp and udp6 without opening a socket: one that joined those of
// running processes would take packets from them.
std::string RocePortHolder(const std::string& proc, const Gid& address, unsigned int uid);

}  // namespace gradwire::rdma
