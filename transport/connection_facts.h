// What one end of a link tells the other so that the link can be made. Facts travel over the
// control plane; every field is checked by its reader.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "transport/memory.h"

namespace gradwire {

struct TcpEndpoint {
  std::string address;  // numeric IPv4 or IPv6
  uint16_t port = 0;
};

struct QueuePairEndpoint {
  uint32_t qp_number = 0;            // 24 bits
  uint32_t psn = 0;                  // 24 bits
  std::array<uint8_t, 16> gid = {};  // network order
  uint16_t lid = 0;
  uint32_t path_mtu = 0;  // bytes
};

struct ConnectionFacts {
  std::string secret;  // random bytes for the authentication of links
  std::vector<TcpEndpoint> endpoints;
  std::vector<QueuePairEndpoint> queue_pairs;
  std::vector<MemoryGrant> grants;
  int32_t window = 0;  // slots per link
  int64_t slot_bytes = 0;
  int32_t lanes = 0;
  uint64_t link = 0;  // the teller's number for the link; TCP's greetings name it
};

}  // namespace gradwire
