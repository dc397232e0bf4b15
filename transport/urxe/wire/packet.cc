#include "transport/urxe/wire/packet.h"

#include <cstring>

namespace urxe {
namespace {

constexpr size_t kRethSize = 16;
constexpr size_t kAtomicEthSize = 28;
constexpr size_t kAethSize = 4;
constexpr size_t kAtomicAckEthSize = 8;
constexpr size_t kDethSize = 8;
constexpr size_t kImmediateSize = 4;

// One row per operation of a reliable connection, in the order of Operation (IBTA table 38).
constexpr Layout kLayouts[] = {
    /* kSendFirst */ {.valid = true, .payload = true, .first = true},
    /* kSendMiddle */ {.valid = true, .payload = true},
    /* kSendLast */ {.valid = true, .payload = true, .last = true},
    /* kSendLastImm */ {.valid = true, .immediate = true, .payload = true, .last = true},
    /* kSendOnly */ {.valid = true, .payload = true, .first = true, .last = true},
    /* kSendOnlyImm */
    {.valid = true, .immediate = true, .payload = true, .first = true, .last = true},
    /* kWriteFirst */ {.valid = true, .reth = true, .payload = true, .first = true},
    /* kWriteMiddle */ {.valid = true, .payload = true},
    /* kWriteLast */ {.valid = true, .payload = true, .last = true},
    /* kWriteLastImm */ {.valid = true, .immediate = true, .payload = true, .last = true},
    /* kWriteOnly */ {.valid = true, .reth = true, .payload = true, .first = true, .last = true},
    /* kWriteOnlyImm */
    {.valid = true, .reth = true, .immediate = true, .payload = true, .first = true, .last = true},
    /* kReadRequest */ {.valid = true, .reth = true, .first = true, .last = true},
    /* kReadResponseFirst */ {.valid = true, .aeth = true, .payload = true, .first = true},
    /* kReadResponseMiddle */ {.valid = true, .payload = true},
    /* kReadResponseLast */ {.valid = true, .aeth = true, .payload = true, .last = true},
    /* kReadResponseOnly */
    {.valid = true, .aeth = true, .payload = true, .first = true, .last = true},
    /* kAcknowledge */ {.valid = true, .aeth = true, .first = true, .last = true},
    /* kAtomicAcknowledge */
    {.valid = true, .aeth = true, .atomic_ack = true, .first = true, .last = true},
    /* kCompareSwap */ {.valid = true, .atomic = true, .first = true, .last = true},
    /* kFetchAdd */ {.valid = true, .atomic = true, .first = true, .last = true},
};

// Big-endian fields, one after the other. The caller has made sure that the room suffices.
class Reader {
 public:
  explicit Reader(const std::byte* at) : at_(at) {}
  template <int bytes>
  uint64_t Take() {
    uint64_t value = 0;
    for (int i = 0; i < bytes; ++i) value = value << 8 | static_cast<uint8_t>(*at_++);
    return value;
  }
  void Take(std::array<uint8_t, kImmediateSize>& raw) {
    std::memcpy(raw.data(), at_, raw.size());
    at_ += raw.size();
  }

 private:
  const std::byte* at_;
};

class Writer {
 public:
  explicit Writer(std::byte* at) : at_(at) {}
  template <int bytes>
  void Put(uint64_t value) {
    for (int i = bytes - 1; i >= 0; --i) *at_++ = static_cast<std::byte>(value >> (8 * i));
  }
  void Put(const std::array<uint8_t, kImmediateSize>& raw) {
    std::memcpy(at_, raw.data(), raw.size());
    at_ += raw.size();
  }
  std::byte* at() const { return at_; }

 private:
  std::byte* at_;
};

size_t HeadersSize(Service service, const Layout& layout) {
  return kBthSize + (service == Service::kUd ? kDethSize : 0) + (layout.reth ? kRethSize : 0) +
         (layout.atomic ? kAtomicEthSize : 0) + (layout.aeth ? kAethSize : 0) +
         (layout.atomic_ack ? kAtomicAckEthSize : 0) + (layout.immediate ? kImmediateSize : 0);
}

}  // namespace

Layout LayoutOf(Service service, Operation operation) {
  const auto index = static_cast<size_t>(operation);
  switch (service) {
    case Service::kRc:
      return index < std::size(kLayouts) ? kLayouts[index] : Layout{};
    case Service::kUc:
      return operation <= Operation::kWriteOnlyImm ? kLayouts[index] : Layout{};
    case Service::kUd:
      return operation == Operation::kSendOnly || operation == Operation::kSendOnlyImm
                 ? kLayouts[index]
                 : Layout{};
    default:
      return Layout{};
  }
}

bool ParsePacket(std::span<const std::byte> datagram, Header& header,
                 std::span<const std::byte>& payload) {
  if (datagram.size() < kBthSize + kIcrcSize) return false;
  Reader reader(datagram.data());
  const auto opcode = reader.Take<1>();
  const auto flags = reader.Take<1>();  // SE, M, pad count (2 bits), transport version (4 bits)
  header.service = static_cast<Service>(opcode >> 5);
  header.operation = static_cast<Operation>(opcode & 0x1F);
  const Layout layout = LayoutOf(header.service, header.operation);
  if (!layout.valid || (flags & 0x0F) != 0) return false;
  header.solicited = (flags & 0x80) != 0;
  header.pad = flags >> 4 & 3;
  const size_t headers = HeadersSize(header.service, layout);
  if (datagram.size() < headers + header.pad + kIcrcSize) return false;

  header.pkey = static_cast<uint16_t>(reader.Take<2>());
  header.hints = static_cast<uint8_t>(reader.Take<1>() & 0x3F);
  header.dest_qpn = static_cast<uint32_t>(reader.Take<3>());
  header.ack_request = (reader.Take<1>() & 0x80) != 0;
  header.psn = static_cast<uint32_t>(reader.Take<3>());
  if (header.service == Service::kUd) {
    header.qkey = static_cast<uint32_t>(reader.Take<4>());
    reader.Take<1>();
    header.src_qpn = static_cast<uint32_t>(reader.Take<3>());
  }
  if (layout.reth || layout.atomic) {
    header.address = reader.Take<8>();
    header.rkey = static_cast<uint32_t>(reader.Take<4>());
  }
  if (layout.reth) header.dma_length = static_cast<uint32_t>(reader.Take<4>());
  if (layout.atomic) {
    header.swap_or_add = reader.Take<8>();
    header.compare = reader.Take<8>();
  }
  if (layout.aeth) {
    header.syndrome = static_cast<uint8_t>(reader.Take<1>());
    header.msn = static_cast<uint32_t>(reader.Take<3>());
  }
  if (layout.atomic_ack) header.original = reader.Take<8>();
  if (layout.immediate) reader.Take(header.immediate);
  payload = datagram.subspan(headers, datagram.size() - headers - header.pad - kIcrcSize);
  return true;
}

size_t WriteHeaders(const Header& header, std::byte* out) {
  const Layout layout = LayoutOf(header.service, header.operation);
  Writer writer(out);
  writer.Put<1>(static_cast<uint64_t>(header.service) << 5 |
                static_cast<uint64_t>(header.operation));
  writer.Put<1>((header.solicited ? 0x80U : 0U) | (header.pad & 3U) << 4);
  writer.Put<2>(header.pkey);
  writer.Put<1>(header.hints & 0x3FU);
  writer.Put<3>(header.dest_qpn);
  writer.Put<1>(header.ack_request ? 0x80U : 0U);
  writer.Put<3>(header.psn);
  if (header.service == Service::kUd) {
    writer.Put<4>(header.qkey);
    writer.Put<4>(header.src_qpn & kPsnMask);
  }
  if (layout.reth || layout.atomic) {
    writer.Put<8>(header.address);
    writer.Put<4>(header.rkey);
  }
  if (layout.reth) writer.Put<4>(header.dma_length);
  if (layout.atomic) {
    writer.Put<8>(header.swap_or_add);
    writer.Put<8>(header.compare);
  }
  if (layout.aeth) {
    writer.Put<1>(header.syndrome);
    writer.Put<3>(header.msn);
  }
  if (layout.atomic_ack) writer.Put<8>(header.original);
  if (layout.immediate) writer.Put(header.immediate);
  return static_cast<size_t>(writer.at() - out);
}

}  // namespace urxe
