#include "transport/urxe/wire/icrc.h"

#include <algorithm>
#include <cstring>

#include "transport/urxe/wire/crc32.h"
#include "transport/urxe/wire/packet.h"

namespace urxe {
namespace {

constexpr size_t kPseudoSize = 8;
constexpr size_t kMaxMasked = kPseudoSize + kIpv6Size + kUdpSize;

uint8_t* Put16(uint8_t* at, size_t value) {
  *at++ = static_cast<uint8_t>(value >> 8);
  *at++ = static_cast<uint8_t>(value);
  return at;
}

// The bytes that the ICRC covers before the BTH. Returns their end.
uint8_t* PutMaskedHeaders(const FlowKey& flow, size_t datagram_size, uint16_t identification,
                          uint8_t* at) {
  at = std::fill_n(at, kPseudoSize, 0xFF);
  if (IsIpv4(flow.source)) {
    *at++ = 0x45;  // version 4, five words of header
    *at++ = 0xFF;  // TOS
    at = Put16(at, kIpv4Size + kUdpSize + datagram_size);
    at = Put16(at, identification);
    at = Put16(at, 0x4000);  // do not fragment
    *at++ = 0xFF;            // TTL
    *at++ = 17;              // UDP
    at = Put16(at, 0xFFFF);  // checksum
    at = std::copy_n(flow.source.data() + 12, 4, at);
    at = std::copy_n(flow.destination.data() + 12, 4, at);
  } else {
    *at++ = 0x6F;  // version 6, then traffic class and flow label as ones
    at = std::fill_n(at, 3, 0xFF);
    at = Put16(at, kUdpSize + datagram_size);
    *at++ = 17;
    *at++ = 0xFF;  // hop limit
    at = std::copy_n(flow.source.data(), 16, at);
    at = std::copy_n(flow.destination.data(), 16, at);
  }
  at = Put16(at, flow.source_port);
  at = Put16(at, flow.destination_port);
  at = Put16(at, kUdpSize + datagram_size);
  return Put16(at, 0xFFFF);  // checksum
}

// A polynomial modulo the CRC's, in its reflected form: bit 31 is the coefficient of z^0.
constexpr uint32_t kPolynomial = 0xEDB88320;

constexpr uint32_t DivideByZ(uint32_t a) {
  return (a & 0x80000000) != 0 ? (a ^ kPolynomial) << 1 | 1 : a << 1;
}

uint32_t Multiply(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (int i = 31; i >= 0; --i) {
    product ^= b & (0U - (a >> i & 1));
    b = b >> 1 ^ (kPolynomial & (0U - (b & 1)));
  }
  return product;
}

// How the 16 bits of the identification reach the ICRC: the two bytes, taken as the low half of a
// register, are multiplied by z^16 for themselves and z^8 for each byte after them. kUndo[n] is the
// inverse of that factor for a datagram of n bytes.
constexpr size_t kMaxDatagram = 4096 + kMaxHeaders + 3 + kIcrcSize;
constexpr size_t kAfterIdentification = kIpv4Size - 6 + kUdpSize - kIcrcSize;  // plus the datagram
constexpr auto kUndo = [] {
  std::array<uint32_t, kMaxDatagram + 1> table = {};
  uint32_t power = 0x80000000;
  for (size_t i = 0; i < 16 + 8 * kAfterIdentification; ++i) power = DivideByZ(power);
  for (uint32_t& entry : table) {
    entry = power;
    for (int i = 0; i < 8; ++i) power = DivideByZ(power);
  }
  return table;
}();

}  // namespace

uint32_t IcrcContinue(uint32_t state, const void* bytes, size_t length) {
  return Crc32(state, bytes, length);
}

uint32_t IcrcOfIpHeaders(const FlowKey& flow, size_t datagram_size, uint16_t identification) {
  uint8_t masked[kMaxMasked];
  const uint8_t* end = PutMaskedHeaders(flow, datagram_size, identification, masked);
  return IcrcContinue(0, masked, static_cast<size_t>(end - masked));
}

uint32_t IcrcOfHeaders(uint32_t state, std::span<const std::byte> bth_and_headers) {
  std::byte masked[kMaxHeaders];
  const size_t size = std::min(bth_and_headers.size(), sizeof(masked));
  std::memcpy(masked, bth_and_headers.data(), size);
  masked[4] = std::byte{0xFF};  // FECN, BECN and reserved bits
  state = IcrcContinue(state, masked, size);
  const auto rest = bth_and_headers.subspan(size);
  return rest.empty() ? state : IcrcContinue(state, rest.data(), rest.size());
}

// The CRC inverts before and after, as zlib's does, so its results chain and are final.
uint32_t IcrcFinish(uint32_t state) { return state; }

bool IcrcMatches(const FlowKey& flow, std::span<const std::byte> datagram,
                 uint16_t& identification) {
  if (datagram.size() < kBthSize + kIcrcSize) return false;
  const size_t covered = datagram.size() - kIcrcSize;
  uint8_t masked[kMaxMasked + kBthSize];
  uint8_t* at = PutMaskedHeaders(flow, datagram.size(), identification, masked);
  std::memcpy(at, datagram.data(), kBthSize);
  at[4] = 0xFF;
  uint32_t state = IcrcContinue(0, masked, static_cast<size_t>(at + kBthSize - masked));
  state = IcrcFinish(IcrcContinue(state, datagram.data() + kBthSize, covered - kBthSize));
  uint32_t received = 0;
  for (int i = 3; i >= 0; --i) {
    received = received << 8 | static_cast<uint8_t>(datagram[covered + i]);
  }
  if (state == received) return true;
  if (!IsIpv4(flow.source) || datagram.size() > kMaxDatagram) return false;

  const uint32_t solved = Multiply(state ^ received, kUndo[datagram.size()]);
  if (solved > 0xFFFF) return false;
  const auto found =
      static_cast<uint16_t>(identification ^ static_cast<uint16_t>(solved << 8 | solved >> 8));
  if (flow.source_port == kRocePort && found >= kMaxSegments) return false;
  identification = found;
  return true;
}

uint32_t IcrcDifference(const FlowKey& flow, size_t datagram_size, uint16_t identification) {
  if (!IsIpv4(flow.source)) return 0;
  // The CRC is linear: whatever follows the headers makes the same difference as zeros would.
  uint32_t with = IcrcOfIpHeaders(flow, datagram_size, identification);
  uint32_t without = IcrcOfIpHeaders(flow, datagram_size, 0);
  static constexpr std::byte kZeros[256] = {};
  for (size_t left = datagram_size - kIcrcSize; left > 0;) {
    const size_t piece = std::min(left, sizeof(kZeros));
    with = IcrcContinue(with, kZeros, piece);
    without = IcrcContinue(without, kZeros, piece);
    left -= piece;
  }
  return with ^ without;
}

}  // namespace urxe
