// What a rank's data path notes of itself: events of a fixed size.
#pragma once

#include <cstdint>

namespace gradwire::telemetry {

// In a recording as numbers: append, never renumber.
enum class Kind : uint8_t {
  // --- Operations ---
  kOperation = 0,  // a collective; value: its number; detail: CollectiveKind
  kOperands,       // moment, before it: value: elements, peer: root, detail: type * 16 + reduction
  kDevice,  // moment, around it; value: receiver-not-ready NAKs so far, bytes: packets sent again
  // --- Writes; peer: the other end, value: sequence number on the link, bytes: payload ---
  kWrite,    // moment: a write was handed to the link, with its credit
  kPosted,   // the doorbell with which it went to the device; over TCP unused
  kSent,     // moment, TCP: its last byte went to the kernel
  kArrived,  // moment: its immediate was taken, the bytes are visible
  // --- Flow control ---
  kCreditsTaken,  // moment: the peer gave `value` credits back
  kCompletion,    // moment: a signaled request completed; value: writes done on this link so far
  kQueueFull,     // moment: writes wait for room in the send queue
  // --- Work ---
  kReduce,
  kCopy,
  kSystemCall,  // that moved bytes; detail: SystemCall
  // --- Waiting ---
  kWait,   // for `peer`; detail: Need, value: see there
  kBlock,  // inside a wait: the thread gave up the processor
  // --- Steps of training, of the thread that trains ---
  kStep,  // value: its number
  kHeld,  // inside a step: the thread stood still until a collective had ended
  // --- Flow control, the other way ---
  kCreditsGiven,  // moment: `value` credits went back to the peer
  kSendBlocked,   // moment, TCP: the socket to the peer took no more; value: frames that wait
};
inline constexpr int kKindCount = static_cast<int>(Kind::kSendBlocked) + 1;

enum class SystemCall : uint8_t { kSend = 0, kReceive };

// What a wait is for.
enum class Need : uint8_t {
  kArrival = 0,  // write number `value` of the peer
  kCredit,       // a credit for our write number `value` to the peer
  kWritten,      // the end of our write number `value` to the peer
};
// Added to kArrival's detail: a write to the right of us was ready, but had no credit.
inline constexpr uint8_t kAlsoCredit = 0x10;

struct Event {
  int64_t begin_ns = 0;  // CLOCK_MONOTONIC; in a ring its ticks
  int64_t end_ns = 0;    // the same for a moment
  uint64_t value = 0;
  uint32_t bytes = 0;
  int16_t peer = -1;
  Kind kind = Kind::kOperation;
  uint8_t detail = 0;
};
static_assert(sizeof(Event) == 32, "a recording holds events as they are in memory");

}  // namespace gradwire::telemetry
