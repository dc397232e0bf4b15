// Where a queue pair's packets go.
#pragma once

#include <netinet/in.h>

#include <cstdint>

#include "transport/urxe/wire/icrc.h"

namespace urxe {

inline constexpr uint8_t kDefaultHopLimit = 64;

struct Destination {
  sockaddr_storage address = {};
  socklen_t address_length = 0;
  FlowKey flow;
  uint8_t traffic_class = 0;  // TOS of IPv4, traffic class of IPv6
  uint8_t hop_limit = kDefaultHopLimit;
};

}  // namespace urxe
