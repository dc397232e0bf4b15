// Posted receives, of a queue pair or an SRQ: a ring in the arena, with one producer (under its
// owner's lock) and any number of consumers, same-host peers among them, that take receives in
// order.
#pragma once

#include <infiniband/verbs.h>

#include <atomic>
#include <cstdint>

namespace urxe {

inline constexpr uint32_t kMaxReceiveSge = 32;

struct Receive {
  uint64_t wr_id = 0;
  uint32_t num_sge = 0;
  uint32_t reserved = 0;
  ibv_sge sge[kMaxReceiveSge];
};

// Followed in memory by `slots` entries of `stride` bytes: wr_id, num_sge, and `max_sge` ibv_sge.
class ReceiveRing {
 public:
  // Bytes that a ring of `max_wr` receives (rounded up to a power of two) of `max_sge` takes.
  static size_t SizeFor(uint32_t max_wr, uint32_t max_sge);
  // Makes a ring in `memory` of SizeFor zeroed bytes.
  static ReceiveRing* Make(void* memory, uint32_t max_wr, uint32_t max_sge);
  // A peer's ring at `offset` of its arena was mapped: whether its shape fits `bytes`.
  bool FitsIn(size_t bytes) const;

  uint32_t posted() const {
    return tail_.load(std::memory_order_acquire) - head_.load(std::memory_order_acquire);
  }
  uint32_t max_wr() const { return max_wr_; }
  uint32_t max_sge() const { return max_sge_; }

  // 0; ENOMEM when max_wr receives wait; EINVAL for too many elements. Owner only, under its lock.
  int Post(const ibv_recv_wr& request);

  // Takes the oldest receive. False when none is posted. An entry is copied before it is claimed by
  // one compare-and-swap, so that an entry that was claimed meanwhile is never used.
  bool Take(Receive& receive);

 private:
  std::byte* Entry(uint32_t index);

  alignas(64) std::atomic<uint32_t> head_;  // next to take
  alignas(64) std::atomic<uint32_t> tail_;  // next to post
  uint32_t slots_;                          // power of two
  uint32_t max_wr_;
  uint32_t max_sge_;
  uint32_t stride_;  // bytes
};

}  // namespace urxe
