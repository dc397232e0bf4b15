// A request in a queue pair's send queue, from its post to its completion.
#pragma once

#include <infiniband/verbs.h>

#include <cstdint>

#include "transport/urxe/engine/address_handle.h"

namespace urxe {

inline constexpr uint32_t kMaxSendSge = 32;
inline constexpr uint32_t kMaxInline = 1024;       // bytes
inline constexpr uint32_t kMaxMessage = 1u << 30;  // bytes

// A piece of local memory. Inline data lie in the send request's own slot and have no key.
struct Piece {
  uint64_t address = 0;
  uint32_t length = 0;  // bytes
  uint32_t lkey = 0;
};

struct SendRequest {
  uint64_t wr_id = 0;
  ibv_wr_opcode opcode = IBV_WR_SEND;
  uint32_t flags = 0;      // IBV_SEND_*; IBV_SEND_SIGNALED also for sq_sig_all
  uint32_t immediate = 0;  // network order; or the key to invalidate
  uint32_t length = 0;     // bytes in all
  uint64_t remote_address = 0;
  uint32_t rkey = 0;
  uint64_t compare_or_add = 0;
  uint64_t swap = 0;
  AddressHandle* ah = nullptr;  // UD
  uint32_t remote_qpn = 0;
  uint32_t remote_qkey = 0;
  uint32_t num_pieces = 0;  // in QueuePair::pieces, from this request's slot on
  bool inlined = false;
  // Set when its first packet is made.
  bool started = false;
  uint32_t first_psn = 0;
  uint32_t last_psn = 0;
  uint32_t packet_cost = 0;  // what each of its packets takes of the window, bytes
  bool local = false;        // carried out by the same-host path
  bool done = false;         // READ and atomics: the response is complete
};

}  // namespace urxe
