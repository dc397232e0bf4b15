// RoCEv2 packets between the UDP header and the ICRC: IBTA vol. 1, release 1.4, chapter 9 and annex
// A17. Fields are host order here and big-endian on the wire.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace urxe {

inline constexpr uint16_t kRocePort = 4791;
inline constexpr uint32_t kPsnMask = 0xFFFFFF;
inline constexpr size_t kIpv4Size = 20;  // without options
inline constexpr size_t kIpv6Size = 40;
inline constexpr size_t kUdpSize = 8;
inline constexpr size_t kBthSize = 12;
inline constexpr size_t kIcrcSize = 4;
// BTH, DETH or RETH, and an immediate, or BTH and AtomicETH.
inline constexpr size_t kMaxHeaders = kBthSize + 28 + 4;

// The lower five bits of the opcode; the upper three are the service (IBTA table 38).
enum class Operation : uint8_t {
  kSendFirst = 0x00,
  kSendMiddle = 0x01,
  kSendLast = 0x02,
  kSendLastImm = 0x03,
  kSendOnly = 0x04,
  kSendOnlyImm = 0x05,
  kWriteFirst = 0x06,
  kWriteMiddle = 0x07,
  kWriteLast = 0x08,
  kWriteLastImm = 0x09,
  kWriteOnly = 0x0A,
  kWriteOnlyImm = 0x0B,
  kReadRequest = 0x0C,
  kReadResponseFirst = 0x0D,
  kReadResponseMiddle = 0x0E,
  kReadResponseLast = 0x0F,
  kReadResponseOnly = 0x10,
  kAcknowledge = 0x11,
  kAtomicAcknowledge = 0x12,
  kCompareSwap = 0x13,
  kFetchAdd = 0x14,
};

enum class Service : uint8_t { kRc = 0, kUc = 1, kRd = 2, kUd = 3 };

// What follows the BTH, by operation.
struct Layout {
  bool valid = false;  // the operation exists for the service
  bool reth = false;
  bool atomic = false;
  bool aeth = false;
  bool atomic_ack = false;
  bool immediate = false;
  bool payload = false;  // may carry any
  bool first = false;    // begins a message
  bool last = false;     // ends one
};
Layout LayoutOf(Service service, Operation operation);

// A packet's headers, parsed or to be written.
struct Header {
  Service service = Service::kRc;
  Operation operation = Operation::kSendOnly;
  bool solicited = false;
  bool ack_request = false;
  uint8_t pad = 0;    // bytes of padding after the payload, 0 to 3
  uint8_t hints = 0;  // the low six bits of byte 4, which no ICRC covers; see below
  uint16_t pkey = 0xFFFF;
  uint32_t dest_qpn = 0;  // 24 bits
  uint32_t psn = 0;       // 24 bits
  // RETH
  uint64_t address = 0;     // also AtomicETH
  uint32_t rkey = 0;        // also AtomicETH
  uint32_t dma_length = 0;  // bytes
  // AtomicETH
  uint64_t swap_or_add = 0;
  uint64_t compare = 0;
  // AETH
  uint8_t syndrome = 0;
  uint32_t msn = 0;       // 24 bits
  uint64_t original = 0;  // AtomicAckETH
  // DETH
  uint32_t qkey = 0;
  uint32_t src_qpn = 0;
  std::array<uint8_t, 4> immediate = {};  // as on the wire: network order is kept end to end
};

// Header::hints, between urxe peers only: the sender would do without an ICRC; this packet has
// none.
inline constexpr uint8_t kHintIcrcDispensable = 0x01;
inline constexpr uint8_t kHintNoIcrc = 0x02;

// AETH syndromes (IBTA table 45): the upper three bits are the kind, the lower five its value.
inline constexpr uint8_t kAckNoCredits = 0x1F;
inline constexpr uint8_t kRnrNak = 0x20;  // or'ed with the timer code
inline constexpr uint8_t kNakSequence = 0x60;
inline constexpr uint8_t kNakInvalidRequest = 0x61;
inline constexpr uint8_t kNakRemoteAccess = 0x62;
inline constexpr uint8_t kNakRemoteOperation = 0x63;

// Reads the headers of `datagram` (BTH to the ICRC, both included). False unless it is a packet of
// a known operation, transport version 0, long enough for its headers, pad and ICRC. On success
// `payload` lies inside `datagram` without padding and ICRC. Checks nothing else.
bool ParsePacket(std::span<const std::byte> datagram, Header& header,
                 std::span<const std::byte>& payload);

// Writes the headers into `out` (kMaxHeaders bytes); returns how many bytes they take.
size_t WriteHeaders(const Header& header, std::byte* out);

// a - b in the 24-bit ring, as a signed distance in [-2^23, 2^23).
constexpr int32_t PsnDistance(uint32_t a, uint32_t b) {
  return static_cast<int32_t>((a - b) << 8) >> 8;
}

}  // namespace urxe
