// The 32 bits that arrive with a slice.
//
//   bit 31     25 24      18 17                   0
//      +---------+----------+----------------------+
//      | credits | sequence |         tag          |
//      +---------+----------+----------------------+
//
//   credits   0..127  slots that the writer frees for the peer's own writes on this link
//   sequence  0..127  low bits of the write's number on its link; the window of unreleased writes
//                     is at most kMaxWindow, so seven bits order writes that took several lanes
//   tag       18 bits that belong to the algorithm; kCreditTag is the transport's own
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
  static constexpr int kTagBits = 18;
  static constexpr int kSequenceBits = 7;
  static constexpr int kCreditBits = 7;
  static_assert(kTagBits + kSequenceBits + kCreditBits == 32, "the immediate has 32 bits");

  static constexpr uint32_t kMaxTag = (1u << kTagBits) - 2;
  static constexpr uint32_t kMaxCredits = (1u << kCreditBits) - 1;
  // Marks a write of zero bytes that carries only credits and takes no sequence number.
  static constexpr uint32_t kCreditTag = kMaxTag + 1;
  static constexpr uint32_t kSequenceMask = (1u << kSequenceBits) - 1;
  // Credits of a credit message that says "I leave"; more than any window, so never a real grant.
  static constexpr uint32_t kGoodbyeCredits = kMaxCredits;
  // More outstanding writes than half the sequence space could not be told from older ones.
  static constexpr int kMaxWindow = 1 << (kSequenceBits - 1);

  constexpr Immediate() = default;

  // InvalidArgument when a field does not fit; `sequence` is cut to its low bits by intent.
  static absl::StatusOr<Immediate> Make(uint32_t tag, uint64_t sequence, uint32_t credits) {
    if (tag > kMaxTag) return InvalidArgument("immediate: tag {} exceeds {}", tag, kMaxTag);
    if (credits > kMaxCredits) {
      return InvalidArgument("immediate: {} credits exceed {}", credits, kMaxCredits);
    }
    return Unchecked(tag, sequence, credits);
  }

  // For the data path, whose fields are bounded by construction.
  static constexpr Immediate Unchecked(uint32_t tag, uint64_t sequence, uint32_t credits) {
    return Immediate(credits << (kTagBits + kSequenceBits) |
                     static_cast<uint32_t>(sequence & kSequenceMask) << kTagBits | tag);
  }
  static constexpr Immediate CreditsOnly(uint32_t credits) {
    return Unchecked(kCreditTag, 0, credits);
  }

  // The last word on a link whose transport has no end-of-stream of its own.
  static constexpr Immediate Goodbye() { return CreditsOnly(kGoodbyeCredits); }

  static Immediate FromWire(uint32_t big_endian) { return Immediate(ntohl(big_endian)); }
  uint32_t ToWire() const { return htonl(bits_); }

  constexpr uint32_t tag() const { return bits_ & ((1u << kTagBits) - 1); }
  constexpr uint32_t sequence() const { return bits_ >> kTagBits & kSequenceMask; }
  constexpr uint32_t credits() const { return bits_ >> (kTagBits + kSequenceBits); }
  // How far this write's number lies ahead of `expected`, 0..127.
  constexpr uint32_t SequenceAhead(uint64_t expected) const {
    return (sequence() - static_cast<uint32_t>(expected)) & kSequenceMask;
  }
  constexpr uint32_t bits() const { return bits_; }

  friend constexpr bool operator==(Immediate a, Immediate b) { return a.bits_ == b.bits_; }

 private:
  explicit constexpr Immediate(uint32_t bits) : bits_(bits) {}
  uint32_t bits_ = 0;
};
static_assert(sizeof(Immediate) == sizeof(uint32_t));

}  // namespace gradwire
