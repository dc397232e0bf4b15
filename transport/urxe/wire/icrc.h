// The invariant CRC of RoCEv2 (IBTA vol. 1 annex A17.3.2): CRC-32 over the packet from the IP
// header on, with the fields that routers change replaced by ones. It covers the IPv4
// identification, which a UDP socket does not show: see IcrcMatches.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace urxe {

using Gid = std::array<uint8_t, 16>;  // network order; an IPv4 address as ::ffff:a.b.c.d

constexpr bool IsIpv4(const Gid& gid) {
  for (int i = 0; i < 10; ++i) {
    if (gid[i] != 0) return false;
  }
  return gid[10] == 0xFF && gid[11] == 0xFF;
}

// The addresses and ports of a datagram.
struct FlowKey {
  Gid source = {};
  Gid destination = {};
  uint16_t source_port = 0;
  uint16_t destination_port = 0;
};

// CRC state after the pseudo header, the IP header with `identification` (ignored for IPv6) and the
// UDP header of a datagram whose UDP payload, ICRC included, is `datagram_size` bytes.
uint32_t IcrcOfIpHeaders(const FlowKey& flow, size_t datagram_size, uint16_t identification);

// Continues over the BTH (byte 4 as ones) and what follows it in `bytes`.
uint32_t IcrcOfHeaders(uint32_t state, std::span<const std::byte> bth_and_headers);
// Continues over payload and padding.
uint32_t IcrcContinue(uint32_t state, const void* bytes, size_t length);
// The four bytes that end the packet, to be stored little-endian.
uint32_t IcrcFinish(uint32_t state);

// Whether `datagram` (BTH to ICRC) carries the ICRC of this flow. For IPv4 `identification` is
// tried first; then it is solved from the difference, which can be done since the CRC is linear,
// and stored. A random error then passes with probability 2^-16. A sender on the RoCE port itself
// is a UDP socket like ours, whose identifications are below kMaxSegments: 2^-26.
bool IcrcMatches(const FlowKey& flow, std::span<const std::byte> datagram,
                 uint16_t& identification);

// Packets of one burst; the kernel numbers its identifications from 0.
inline constexpr size_t kMaxSegments = 64;

// What is to be xor'ed to the ICRC of a datagram made with `identification` to have that of one
// made with 0.
uint32_t IcrcDifference(const FlowKey& flow, size_t datagram_size, uint16_t identification);

}  // namespace urxe
