// The invariant CRC of RoCEv2 (IBTA vol. 1 annex A17.3.2): CRC-32 over the packet from the IP header
// on, with the fields that routers change replaced by ones. Covers the IPv4 identification, which a
// UDP socket does not show: see SolveIdentification.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace urxe {

using Gid = std::array<uint8_t, 16>;  // network order; an IPv4 address as ::ffff:a.b.c.d

// The CRC state after the IP and UDP headers between two addresses.
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
// The four bytes that end the packet, little-endian.
uint32_t IcrcFinish(uint32_t state);

// Whether `datagram` (BTH to ICRC) carries the ICRC of this flow. For IPv4 `guess` is tried as the
// identification first, then 0; then the identification is solved from the difference, which holds
// since the CRC is linear; a random error then passes with probability 2^-16.
bool IcrcMatches(const FlowKey& flow, std::span<const std::byte> datagram, uint16_t guess);

}  // namespace urxe
