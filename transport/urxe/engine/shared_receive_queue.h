// Receives that several queue pairs draw from. Guarded by the engine's lock.
#pragma once

#include <infiniband/verbs.h>

#include <atomic>
#include <cstdint>

#include "transport/urxe/engine/receive_ring.h"

namespace urxe {

class Engine;

struct SharedReceiveQueue : ibv_srq {
  Engine* engine = nullptr;
  ReceiveRing* ring = nullptr;
  uint32_t pd = 0;
  uint32_t limit = 0;  // IBV_EVENT_SRQ_LIMIT_REACHED once when fewer wait; 0: disarmed
  uint32_t number = 0;
  uint32_t events_taken = 0;       // async events handed out: ibv_destroy_srq waits for their acks
  std::atomic<uint32_t> users{0};  // queue pairs that receive from it
};

}  // namespace urxe
