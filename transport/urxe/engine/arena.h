// The memory of this process that same-host peers may map: what its queue pairs, receive queues and
// registered regions are, and its counters. One memfd, mapped once, grown by touching it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "transport/urxe/urxe.h"

namespace urxe {

inline constexpr uint32_t kMaxQueuePairs = 1 << 16;  // per process
inline constexpr uint32_t kMaxRegions = 1 << 20;

// A registered region, as peers see it. Written by its owner only: `key` is stored last on
// registration and cleared first when the registration ends.
struct SharedRegion {
  std::atomic<uint32_t> key{0};  // lkey and rkey; 0: none. index << 8 | variant is the key's form
  uint32_t access = 0;           // IBV_ACCESS_*
  uint32_t pd = 0;               // handle of the protection domain
  // Grows whenever anything here changes, so that who reads it or mapped it can tell.
  std::atomic<uint32_t> generation{0};
  uint64_t iova = 0;     // what remote addresses start at
  uint64_t length = 0;   // bytes
  uint64_t address = 0;  // where iova lies in the owner's address space
};

// A queue pair as peers see it.
struct SharedQueuePair {
  std::atomic<uint32_t> state{0};  // ibv_qp_state, once dest_qpn and the rest are right
  uint32_t qpn = 0;                // 0: none
  uint32_t dest_qpn = 0;
  uint32_t pd = 0;
  uint32_t access = 0;         // IBV_ACCESS_* that the queue pair permits
  uint32_t rnr_timer = 0;      // min_rnr_timer code
  uint64_t receive_queue = 0;  // offset of its (or its SRQ's) ReceiveRing; 0: none
  uint64_t inbox = 0;          // offset of its ring of arrivals; 0: none
};

struct ArenaHeader {
  uint64_t magic = 0;
  uint32_t version = 0;
  uint32_t slot = 0;
  int32_t pid = 0;  // the owner's: a forked child inherits the memfd but owns no arena
  // Peers may take the same-host path to this process.
  uint32_t accepts_local = 0;
  // Same-host peers bump it after they put something into an inbox.
  alignas(64) std::atomic<uint32_t> doorbell{0};
  // The progress thread sleeps: whoever bumps the doorbell and clears this must wake it.
  std::atomic<uint32_t> asleep{0};
  // Bit i of ready[i / 64]: queue pair i has arrivals. Bit j of summary: ready[j..] has any.
  alignas(64) std::atomic<uint64_t> ready[kMaxQueuePairs / 64] = {};
  alignas(64) urxe_counters counters = {};  // relaxed atomic increments, see Count()
  SharedQueuePair queue_pairs[kMaxQueuePairs];
  SharedRegion regions[kMaxRegions];
};

class Arena {
 public:
  // `errno` and null when the memory cannot be had.
  static std::unique_ptr<Arena> Create(uint32_t slot);
  // Maps the arena of a live process of this user, found by its memfd's name. Null and errno: EPERM
  // or EACCES when not permitted, ENOENT when it has none.
  static std::unique_ptr<Arena> MapOf(int pid);
  ~Arena();

  ArenaHeader& header() { return *header_; }
  // Allocate and Free: the owner's arena only, under the engine's lock.
  // A block of at least `size` zeroed bytes, aligned to 64; null when the arena is full.
  void* Allocate(size_t size);
  void Free(void* block, size_t size);

  uint64_t OffsetOf(const void* block) const {
    return static_cast<uint64_t>(static_cast<const std::byte*>(block) - base_);
  }
  // Null unless [offset, offset + size) lies in the arena: offsets of peers are not trusted.
  void* At(uint64_t offset, size_t size) const;
  // Bytes from `offset` to the arena's end.
  size_t BytesFrom(uint64_t offset) const { return offset < size_ ? size_ - offset : 0; }

 private:
  Arena() = default;
  std::byte* base_ = nullptr;
  ArenaHeader* header_ = nullptr;
  size_t size_ = 0;
  int fd_ = -1;
  struct Blocks;
  std::unique_ptr<Blocks> blocks_;
};

// This process's counters; they exist (in ordinary memory) before any arena does.
urxe_counters& Counters();
inline void Count(uint64_t urxe_counters::*field, uint64_t amount = 1) {
  std::atomic_ref<uint64_t>(Counters().*field).fetch_add(amount, std::memory_order_relaxed);
}

}  // namespace urxe
