// Registered regions and the checks of every access to them: key, protection domain, permission and
// bounds, before a byte moves (IBTA vol. 1, 10.6.3 and 9.7.4.1).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "transport/urxe/engine/arena.h"

namespace urxe {

class MemoryTable {
 public:
  explicit MemoryTable(Arena& arena);

  // Registers [address, address + length) as [iova, iova + length). Returns the key, or 0 when the
  // table is full. A key's lower byte varies from one use of an entry to the next, so that a key
  // that outlived its region is refused.
  uint32_t Register(uint64_t address, uint64_t iova, uint64_t length, uint32_t access, uint32_t pd);
  // Changes a region in place. Its key stays as long as it covers the same memory: peers use it on
  // after a change of access or protection domain. Returns the key; 0 when `key` is unknown.
  uint32_t Reregister(uint32_t key, uint64_t address, uint64_t iova, uint64_t length,
                      uint32_t access, uint32_t pd);
  void Deregister(uint32_t key);

  // The bytes at [iova, iova + length) of the region `key`; null unless it exists, belongs to `pd`,
  // permits all of `access` (IBV_ACCESS_* bits) and holds the whole range. length 0 is allowed
  // anywhere, with any key: the caller need not ask.
  std::byte* Find(uint32_t key, uint32_t pd, uint32_t access, uint64_t iova,
                  uint64_t length) const {
    return reinterpret_cast<std::byte*>(FindIn(regions_, key, pd, access, iova, length));
  }
  // The same in any process's table: an address of that process, 0 for null.
  static uint64_t FindIn(const SharedRegion* regions, uint32_t key, uint32_t pd, uint32_t access,
                         uint64_t iova, uint64_t length) {
    const uint32_t index = key >> 8;
    if (index >= kMaxRegions) return 0;
    const SharedRegion& region = regions[index];
    const uint32_t generation = region.generation.load(std::memory_order_acquire);
    if (region.key.load(std::memory_order_acquire) != key || region.pd != pd ||
        (region.access & access) != access || iova < region.iova || length > region.length ||
        iova - region.iova > region.length - length) {
      return 0;
    }
    const uint64_t address = region.address + (iova - region.iova);
    // Another process may have changed its region meanwhile: nothing is granted by halves.
    std::atomic_thread_fence(std::memory_order_acquire);
    return region.generation.load(std::memory_order_relaxed) == generation ? address : 0;
  }

 private:
  SharedRegion* regions_;       // in the arena; writes under the engine's lock
  std::vector<uint32_t> free_;  // entries given back
  uint32_t used_ = 1;           // entry 0 stays empty: key 0 is none
  uint32_t salt_ = 0;           // where variants start, so that keys of an earlier process differ
};

}  // namespace urxe
