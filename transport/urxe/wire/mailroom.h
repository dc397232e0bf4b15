// What processes that share port 4791 send each other, through the relay sockets of their slots:
// packets that reached the wrong process, answers to steering's probes, and empty wake-ups.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "transport/urxe/wire/endpoint.h"

namespace urxe {

class ProcessSlot;

// A datagram begins with this. Fixed widths, host byte order: both ends are on one host.
struct MailHeader {
  static constexpr uint32_t kPackets = 0x75727801;  // of `flow`, each of `segment_size` bytes
  static constexpr uint32_t kAnswer = 0x75727802;   // to a probe, for steering
  uint32_t kind = 0;
  uint32_t segment_size = 0;
  FlowKey flow;
  uint8_t traffic_class = 0;
  uint8_t reserved[3] = {};
};

// Reads one datagram of the slot's relay socket; call until false, which says that none waits.
// Answers must be taken within milliseconds also while a caller of poll_cq drives progress. When it
// held packets, `arrived` is the endpoint they are for: take its Arrivals(). Else null.
bool TakeMail(ProcessSlot& slot, std::span<Endpoint* const> endpoints, Endpoint*& arrived);

}  // namespace urxe
