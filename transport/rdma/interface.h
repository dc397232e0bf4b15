// Which of this host's RDMA ports, and which of a port's addresses (GIDs), a rank uses. What there
// is comes as a snapshot, so that the choice is a pure function of it.
#pragma once

#include <infiniband/verbs.h>

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "transport/settings.h"
#include "transport/status.h"

namespace gradwire::rdma {

using Gid = std::array<uint8_t, 16>;  // network order

enum class GidType : uint8_t { kInfiniBand, kRoceV1, kRoceV2 };

struct GidEntry {
  int index = 0;
  GidType type = GidType::kInfiniBand;
  Gid gid = {};
};

// One port of one device.
struct Port {
  std::string device;
  int port = 1;  // from 1
  ibv_port_state state = IBV_PORT_DOWN;
  bool ethernet = false;       // RoCE rather than InfiniBand
  int mtu = 0;                 // bytes, active
  uint16_t lid = 0;            // InfiniBand only
  std::vector<GidEntry> gids;  // those in use
  bool user_space = false;     // urxe rather than a device of the kernel
  // Why the device could not be looked at, empty when it could: with text, only `device` is set.
  std::string problem;
};

struct PortChoice {
  std::string device;
  int port = 0;
  bool ethernet = false;
  int mtu = 0;  // bytes
  uint16_t lid = 0;
  GidEntry gid;
  bool user_space = false;
  std::string reason;  // "only active port"

  // "rdma on rxe0 port 1 (GID 1, 10.0.0.1, RoCE v2, MTU 4096): only active port", or
  // "rdma on urxe0 (10.0.0.1, MTU 1024): user-space RoCE v2, no kernel device".
  std::string Describe() const;
};

// Every port of every device, in the system's order; empty when there is no device.
absl::StatusOr<std::vector<Port>> ListPorts();

// Whether a port fits `filter` in NCCL_IB_HCA's grammar: a comma list of name prefixes, each with
// an optional :port; a leading = asks for exact names, a leading ^ excludes what the list names.
// Everything fits an empty filter. InvalidArgument for a malformed port.
absl::StatusOr<bool> MatchesFilter(const Port& port, std::string_view filter);

// Picks a port that fits settings.device and is active: one of a kernel's device before urxe's, of
// these the one that holds `local_address` (numeric; this host's address on the way to the
// rendezvous), else the first. Of its GIDs the one
// with settings.gid_index; when that is -1, of the best kind there is: RoCE v2 with an IPv4
// address, with a global IPv6 address, with a link-local one, RoCE v1; within a kind
// `local_address` first. InfiniBand uses GID 0. NotFound or FailedPrecondition says what is
// missing.
absl::StatusOr<PortChoice> ChoosePort(std::span<const Port> ports, const Settings& settings,
                                      std::string_view local_address);

// ::ffff:a.b.c.d, the RoCE GID of an IPv4 address.
bool IsIpv4Mapped(const Gid& gid);
// "10.0.0.1" for an IPv4-mapped GID, else as IPv6: "fe80::1".
std::string FormatGid(const Gid& gid);
std::string_view GidTypeName(GidType type);  // "RoCE v2"

}  // namespace gradwire::rdma
