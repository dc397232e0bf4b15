// Network interfaces, as urxe's devices stand on them.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "transport/urxe/wire/icrc.h"

namespace urxe {

struct Interface {
  std::string name;
  unsigned index = 0;
  bool up = false;
  std::array<uint8_t, 6> mac = {};
  // IPv4 (as ::ffff:a.b.c.d), then global IPv6, then link-local; each in the kernel's order.
  std::vector<Gid> addresses;
};

// Bytes of an IP packet that the interface carries; 0 when there is none of that name.
unsigned MtuOf(const std::string& interface);

// All interfaces of this network namespace, in the kernel's order.
std::vector<Interface> AllInterfaces();

// The names that URXE_INTERFACES (`names`, a comma list) chooses; without it the interface of the
// default route, else the first that is up with an address and is not lo, else lo. Empty, with a
// line on stderr, when a name is not an interface of this namespace.
std::vector<std::string> ChooseInterfaces(const std::string& names);

}  // namespace urxe
