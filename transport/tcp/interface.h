// Which of this host's addresses TCP uses.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "transport/settings.h"
#include "transport/status.h"

namespace gradwire::tcp {

// One address of one interface.
struct InterfaceAddress {
  std::string interface;  // "eth0"
  std::string address;    // numeric
  bool ipv6 = false;
  bool loopback = false;
};

struct InterfaceChoice {
  InterfaceAddress address;
  std::string reason;  // "reaches the rendezvous", "matches --socket-interface eth"
};

// Addresses of interfaces that are up, in the system's order; link-local ones are left out.
absl::StatusOr<std::vector<InterfaceAddress>> ListInterfaceAddresses();

// Whether `candidate` fits `filter`: a comma list of name prefixes (NCCL_SOCKET_IFNAME's grammar:
// a leading ^ excludes the whole list, a leading = asks for exact names) or of CIDR blocks (^ works
// on them too). InvalidArgument for a malformed CIDR block.
absl::StatusOr<bool> MatchesFilter(const InterfaceAddress& candidate, std::string_view filter);

// Picks from `candidates`: those that fit settings.socket_interface and socket_family; without a
// filter the address from which `rendezvous_host` is reached comes first, then any that is not
// loopback, IPv4 before IPv6. NotFound lists what there is.
absl::StatusOr<InterfaceChoice> ChooseAddress(std::span<const InterfaceAddress> candidates,
                                              const Settings& settings,
                                              std::string_view address_to_rendezvous);

}  // namespace gradwire::tcp
