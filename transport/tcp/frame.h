// What travels on a TCP lane: frames, each a header and its payload.
//
//   byte 0       4           8       12       16               24
//        +-------+-----------+-------+--------+----------------+---------
//        | magic | immediate |  key  | length | target address | payload
//        +-------+-----------+-------+--------+----------------+---------
//
// All fields are big-endian. Key and address are what the receiver granted (MemoryGrant); length is
// that of the payload, which the receiver reads straight into its place. A frame whose tag is
// Immediate::kCreditTag carries credits alone: key, length and address are zero.
#pragma once

#include <endian.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "transport/immediate.h"

namespace gradwire::tcp {

struct FrameHeader {
  static constexpr uint32_t kMagic = 0x47574631;  // "GWF1"
  static constexpr size_t kBytes = 24;
  using Wire = std::array<std::byte, kBytes>;

  Immediate immediate;
  uint32_t key = 0;
  uint32_t length = 0;  // bytes of payload
  uint64_t address = 0;

  bool credits_only() const { return immediate.tag() == Immediate::kCreditTag; }

  void Encode(Wire& wire) const {
    const uint32_t words[4] = {htobe32(kMagic), immediate.ToWire(), htobe32(key), htobe32(length)};
    const uint64_t where = htobe64(address);
    std::memcpy(wire.data(), words, sizeof(words));
    std::memcpy(wire.data() + sizeof(words), &where, sizeof(where));
  }

  // ProtocolError for a wrong magic, a payload above `most` bytes or a credit frame with payload.
  // `wire` has kBytes bytes.
  static absl::StatusOr<FrameHeader> Decode(const std::byte* wire, size_t most) {
    uint32_t words[4];
    uint64_t where;
    std::memcpy(words, wire, sizeof(words));
    std::memcpy(&where, wire + sizeof(words), sizeof(where));
    FrameHeader header;
    header.immediate = Immediate::FromWire(words[1]);
    header.key = be32toh(words[2]);
    header.length = be32toh(words[3]);
    header.address = be64toh(where);
    if (be32toh(words[0]) != kMagic) {
      return ProtocolError("frame starts with 0x{:08x} instead of 0x{:08x}", be32toh(words[0]),
                           kMagic);
    }
    if (header.length > most) {
      return ProtocolError("frame of {} bytes exceeds the slice of {}", header.length, most);
    }
    if (header.credits_only() && header.length != 0) {
      return ProtocolError("credit frame with a payload of {} bytes", header.length);
    }
    return header;
  }
};

}  // namespace gradwire::tcp
