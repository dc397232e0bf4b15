// The 32 bits that arrive with a slice.
//
//   bit 31      24 23      16 15                0
//      +----------+----------+-------------------+
//      | credits  | sequence |        tag        |
//      +----------+----------+-------------------+
//
//   credits   0..255  slots that the writer frees for the peer's own writes on this link
//   sequence  0..255  low bits of the write's number on its link; the window of unreleased writes
//                     is at most kMaxWindow, so eight bits order writes that took several lanes
//   tag       16 bits that belong to the algorithm; kCreditTag is the transport's own
//
// The same value travels as immediate data over RDMA and in the frame header over TCP, in network
// byte order on both.
#pragma once

#include <arpa/inet.h>

#include <cstdint>

#include "transport/status.h"

namespace gradwire {

class Immediate {
 public:
  static constexpr int kTagBits = 16;
  static constexpr int kSequenceBits = 8;
  static constexpr int kCreditBits = 8;
  static_assert(kTagBits + kSequenceBits + kCreditBits == 32, "the immediate has 32 bits");

  static constexpr uint32_t kMaxTag = (1u << kTagBits) - 2;
  static constexpr uint32_t kMaxCredits = (1u << kCreditBits) - 1;
  // Marks a write of zero bytes that carries only credits and takes no sequence number.
  static constexpr uint16_t kCreditTag = 0xffff;
  // More outstanding writes than half the sequence space could not be told from older ones.
  static constexpr int kMaxWindow = 1 << (kSequenceBits - 1);

  constexpr Immediate() = default;

  // InvalidArgument when a field does not fit; `sequence` is cut to its low bits by intent.
  static absl::StatusOr<Immediate> Make(uint32_t tag, uint64_t sequence, uint32_t credits) {
    if (tag > kMaxTag) return InvalidArgument("immediate: tag {} exceeds {}", tag, kMaxTag);
    if (credits > kMaxCredits) {
      return InvalidArgument("immediate: {} credits exceed {}", credits, kMaxCredits);
    }
    return Unchecked(static_cast<uint16_t>(tag), sequence, credits);
  }

  // For the data path, whose fields are bounded by construction.
  static constexpr Immediate Unchecked(uint16_t tag, uint64_t sequence, uint32_t credits) {
    return Immediate(credits << 24 | static_cast<uint32_t>(sequence & 0xff) << 16 | tag);
  }
  static constexpr Immediate CreditsOnly(uint32_t credits) {
    return Unchecked(kCreditTag, 0, credits);
  }

  static Immediate FromWire(uint32_t big_endian) { return Immediate(ntohl(big_endian)); }
  uint32_t ToWire() const { return htonl(bits_); }

  constexpr uint16_t tag() const { return static_cast<uint16_t>(bits_); }
  constexpr uint8_t sequence() const { return static_cast<uint8_t>(bits_ >> 16); }
  constexpr uint8_t credits() const { return static_cast<uint8_t>(bits_ >> 24); }
  constexpr uint32_t bits() const { return bits_; }

  friend constexpr bool operator==(Immediate a, Immediate b) { return a.bits_ == b.bits_; }

 private:
  explicit constexpr Immediate(uint32_t bits) : bits_(bits) {}
  uint32_t bits_ = 0;
};
static_assert(sizeof(Immediate) == sizeof(uint32_t));

}  // namespace gradwire
