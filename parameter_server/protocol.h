// What travels over a link between a worker and a shard.
//
// Worker to shard: a request, written to a slot; when it pushes, its slices follow in order, each
// written to a slot of its own. Several requests may be on their way. Shard to worker: each pulled
// slice is written straight into the worker's parameters at its place in the flat array; then comes
// the reply, written to a slot. Replies come in the order of the requests.
//
// A link between a shard and its replica carries the same requests, of kind kReplicate; there a
// reply stands for all requests up to its number.
//
// The tag of a write is the slice's number in its shard, or one of the two below. Integers are in
// host order: both ends check kByteOrder.
#pragma once

#include <cstdint>
#include <string_view>
#include <type_traits>

#include "transport/immediate.h"
#include "transport/status.h"

namespace gradwire::ps {

inline constexpr uint32_t kMaxSlices = 1u << (Immediate::kTagBits - 1);
inline constexpr uint32_t kRequestTag = kMaxSlices;
inline constexpr uint32_t kReplyTag = kMaxSlices + 1;
static_assert(kReplyTag <= Immediate::kMaxTag);

// Steps beyond it are refused, so that sums with what a run adds do not overflow.
inline constexpr int64_t kMaxStep = int64_t{1} << 62;

inline constexpr uint32_t kByteOrder = 0x47570001;  // "GW", version 1

enum class Op : uint8_t {
  kPush = 1,       // gradients in
  kPull = 2,       // parameters out
  kPushPull = 3,   // both
  kAssign = 4,     // first values in; ignored once the shard has values
  kReplicate = 5,  // from a shard to its replica: one slice as it was applied, or a clock
};
constexpr bool Pushes(Op op) { return op == Op::kPush || op == Op::kPushPull; }
constexpr bool Pulls(Op op) { return op == Op::kPull || op == Op::kPushPull; }

struct Request {
  // Flags.
  static constexpr uint8_t kEndOfStep = 1;  // the worker pushes nothing more for this step
  // Global-norm clipping under BSP: the push is summed but not applied, its reply carries the sum
  // of squares; the pull that follows applies it times `scale`.
  static constexpr uint8_t kHold = 2;
  static constexpr uint8_t kApplyHeld = 4;
  static constexpr uint8_t kLeft = 16;     // kReplicate: the worker takes no part any more
  static constexpr uint8_t kAssigned = 8;  // kReplicate: the slice is a first value, not a gradient

  uint32_t byte_order = kByteOrder;
  Op op = Op::kPull;
  uint8_t flags = 0;
  uint16_t reserved = 0;
  uint32_t number = 0;  // of the request on its link, from 1
  uint32_t first = 0;   // slices [first, first + count) of the shard
  uint32_t count = 0;
  float scale = 1;      // gradients are multiplied by it
  int64_t step = 0;     // from 1: the step that a push belongs to, the last one pushed for a pull
  int64_t worker = -1;  // kReplicate: whose push it was; -1: the sum of all (BSP)
};
static_assert(sizeof(Request) == 40 && std::is_trivially_copyable_v<Request>);

struct Reply {
  static constexpr size_t kTextBytes = 192;

  uint32_t byte_order = kByteOrder;
  uint32_t number = 0;         // the request's
  int32_t code = 0;            // absl::StatusCode
  uint32_t waited_us = 0;      // the request waited for other workers so long
  int64_t waited_for = -1;     // the worker it waited for last, -1: none
  int64_t min_clock = 0;       // what is pulled holds every worker's pushes up to this step
  int64_t step = 0;            // the request's
  int64_t members = 0;         // workers that take part
  double squares = 0;          // kHold: sum of squares of the summed gradient's slices
  char text[kTextBytes] = {};  // of an error, zero-terminated unless full

  void SetError(const absl::Status& status);
  absl::Status status() const;
};
static_assert(sizeof(Reply) == 56 + Reply::kTextBytes && std::is_trivially_copyable_v<Reply>);

// A slot holds any message.
inline constexpr int64_t kMinSlotBytes = sizeof(Reply);

}  // namespace gradwire::ps
