#include "transport/urxe/engine/memory_table.h"

#include <sys/random.h>

namespace urxe {
namespace {

// Fills an entry that no key matches; the key becomes valid last.
void Publish(SharedRegion& region, uint32_t key, uint64_t address, uint64_t iova, uint64_t length,
             uint32_t access, uint32_t pd) {
  region.access = access;
  region.pd = pd;
  region.iova = iova;
  region.length = length;
  region.address = address;
  region.key.store(key, std::memory_order_release);
}

}  // namespace

MemoryTable::MemoryTable(Arena& arena) : regions_(arena.header().regions) {
  // Without randomness (early boot) keys start at a fixed value: they are checked all the same.
  if (getrandom(&salt_, sizeof(salt_), GRND_NONBLOCK) != sizeof(salt_)) salt_ = 0;
}

uint32_t MemoryTable::Register(uint64_t address, uint64_t iova, uint64_t length, uint32_t access,
                               uint32_t pd) {
  uint32_t index = 0;
  if (!free_.empty()) {
    index = free_.back();
    free_.pop_back();
  } else if (used_ < kMaxRegions) {
    index = used_++;
  } else {
    return 0;
  }
  SharedRegion& region = regions_[index];
  const uint32_t generation = region.generation.fetch_add(1) + 1;
  const uint32_t key = index << 8 | ((generation + salt_) & 0xFF);
  Publish(region, key, address, iova, length, access, pd);
  return key;
}

uint32_t MemoryTable::Reregister(uint32_t key, uint64_t address, uint64_t iova, uint64_t length,
                                 uint32_t access, uint32_t pd) {
  const uint32_t index = key >> 8;
  if (key == 0 || index >= kMaxRegions || regions_[index].key.load() != key) return 0;
  SharedRegion& region = regions_[index];
  const bool same = region.address == address && region.iova == iova && region.length == length;
  region.key.store(0, std::memory_order_seq_cst);
  const uint32_t generation = region.generation.fetch_add(1) + 1;
  const uint32_t changed = same ? key : index << 8 | ((generation + salt_) & 0xFF);
  Publish(region, changed, address, iova, length, access, pd);
  return changed;
}

void MemoryTable::Deregister(uint32_t key) {
  const uint32_t index = key >> 8;
  if (key == 0 || index >= kMaxRegions || regions_[index].key.load() != key) return;
  regions_[index].key.store(0, std::memory_order_seq_cst);
  free_.push_back(index);
}

}  // namespace urxe
