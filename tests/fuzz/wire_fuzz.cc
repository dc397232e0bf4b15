// Any bytes, on each way they can reach an endpoint: as a datagram from the network, as one that
// another process relays, and as mail of any kind. Packets that pass must be whole: their headers
// written again are those that came, and their payload lies between these and the ICRC.
#include <fcntl.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "tests/fuzz/isolation.h"
#include "transport/urxe/wire/clock.h"
#include "transport/urxe/wire/endpoint.h"
#include "transport/urxe/wire/mailroom.h"
#include "transport/urxe/wire/process_slot.h"

namespace urxe {
namespace {

void Require(bool holds) {
  if (!holds) std::abort();
}

struct Fixture {
  Fixture() {
    std::string problem;
    slot = ProcessSlot::Claim(problem);
    Require(slot != nullptr);
    endpoint = Endpoint::Open(Loopback(1), 1, *slot, problem);
    Require(endpoint != nullptr);
    stranger = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    const sockaddr_in address = RoceAddress(Loopback(2));
    Require(bind(stranger, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0);
  }
  std::unique_ptr<ProcessSlot> slot;
  std::unique_ptr<Endpoint> endpoint;
  int stranger;  // another host
};

void CheckPacket(std::span<const std::byte> packet) {
  Header header;
  std::span<const std::byte> payload;
  if (!ParsePacket(packet, header, payload)) return;
  std::byte written[kMaxHeaders];
  const size_t size = WriteHeaders(header, written);
  Require(payload.data() == packet.data() + size);
  Require(size + payload.size() + header.pad + kIcrcSize == packet.size());
  Header again;
  std::vector<std::byte> copy(packet.begin(), packet.end());
  std::memcpy(copy.data(), written, size);
  Require(ParsePacket(copy, again, payload));
  std::byte rewritten[kMaxHeaders];
  Require(WriteHeaders(again, rewritten) == size && std::memcmp(written, rewritten, size) == 0);
}

void CheckArrivals(const Fixture& fixture) {
  for (const Arrival& arrival : fixture.endpoint->Arrivals()) {
    Require(arrival.header.dest_qpn >> kSlotShift == static_cast<uint32_t>(fixture.slot->number()));
    uint32_t sum = 0;  // reads every byte, for the sanitizer to judge
    for (const std::byte byte : arrival.payload) sum += static_cast<uint8_t>(byte);
    Require(sum <= 255 * arrival.payload.size());
  }
}

void TakeAllMail(const Fixture& fixture) {
  Endpoint* endpoints[] = {fixture.endpoint.get()};
  Endpoint* arrived = nullptr;
  while (TakeMail(*fixture.slot, endpoints, arrived)) {
    if (arrived != nullptr) CheckArrivals(fixture);
  }
}

}  // namespace
}  // namespace urxe

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  urxe::IsolateNetwork();
  return 0;
}

// Byte 0: the way (bits 0 and 1), whether packets get a right ICRC (2) and our slot (3), IPv6 (4).
// Bytes 1 and 2: the size of joined packets. The rest: the datagram.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace urxe;
  static const Fixture fixture;
  if (size < 4 || size > 60'000) return 0;
  const int control = data[0];
  const size_t segment_size = static_cast<size_t>(data[1]) << 8 | data[2];
  const auto* begin = reinterpret_cast<const std::byte*>(data + 3);
  std::vector<std::byte> datagram(begin, begin + size - 3);
  FlowKey flow = {Loopback(2), Loopback(1), kRocePort, kRocePort};
  if ((control & 16) != 0) flow.source = {0xFE, 0x80};

  const size_t step = segment_size == 0 ? datagram.size() : segment_size;
  for (size_t at = 0; at < datagram.size(); at += step) {
    const auto packet = std::span(datagram).subspan(at, std::min(step, datagram.size() - at));
    if ((control & 8) != 0 && packet.size() > 5) {
      packet[5] = static_cast<std::byte>(fixture.slot->number());
    }
    if ((control & 4) != 0) Sign(flow, packet);
    CheckPacket(packet);
    uint16_t identification = static_cast<uint16_t>(control);
    const bool good = IcrcMatches(flow, packet, identification);
    if ((control & 4) != 0 && packet.size() >= kBthSize + kIcrcSize) Require(good);
  }
  switch (control & 3) {
    case 0:
      fixture.endpoint->TakeRelayed(flow, 0, segment_size, datagram);
      CheckArrivals(fixture);
      break;
    case 1:
      fixture.slot->SendTo(fixture.slot->number(), datagram);
      break;
    case 2: {
      MailHeader header;
      header.kind = (control & 32) != 0 ? MailHeader::kAnswer : MailHeader::kPackets;
      header.segment_size = static_cast<uint32_t>(segment_size);
      header.flow = flow;
      fixture.slot->SendTo(fixture.slot->number(), std::as_bytes(std::span(&header, 1)), datagram);
      break;
    }
    default: {
      const sockaddr_in to = RoceAddress(Loopback(1));
      sendto(fixture.stranger, datagram.data(), datagram.size(), MSG_DONTWAIT,
             reinterpret_cast<const sockaddr*>(&to), sizeof(to));
    }
  }
  while (fixture.endpoint->Receive() > 0) CheckArrivals(fixture);
  TakeAllMail(fixture);
  fixture.endpoint->RunTimers(MonotonicNow());
  return 0;
}
