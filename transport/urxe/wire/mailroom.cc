#include "transport/urxe/wire/mailroom.h"

#include <cstring>

#include "transport/urxe/wire/process_slot.h"

namespace urxe {

bool TakeMail(ProcessSlot& slot, std::span<Endpoint* const> endpoints, Endpoint*& arrived) {
  // Endpoint::TakeRelayed copies out of it.
  static thread_local std::byte buffer[sizeof(MailHeader) + kMaxDatagramSize + 1];
  arrived = nullptr;
  const ssize_t size = slot.ReceiveRelayed(buffer);
  if (size < 0) return false;
  MailHeader header;
  if (static_cast<size_t>(size) < sizeof(header)) return true;
  std::memcpy(&header, buffer, sizeof(header));
  const std::span<const std::byte> body(buffer + sizeof(header), size - sizeof(header));
  for (Endpoint* endpoint : endpoints) {
    if (endpoint->address() != header.flow.destination) continue;
    if (header.kind == MailHeader::kPackets) {
      endpoint->TakeRelayed(header.flow, header.traffic_class, header.segment_size, body);
      arrived = endpoint;
    } else if (header.kind == MailHeader::kAnswer) {
      endpoint->TakeAnswer(body);
    }
    break;
  }
  return true;
}

}  // namespace urxe
