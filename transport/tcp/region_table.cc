#include "transport/tcp/region_table.h"

#include <sys/random.h>

namespace gradwire::tcp {
namespace {
constexpr size_t kMaxRegions = 0xffff;
constexpr uint32_t kIndexMask = 0xffff;
}  // namespace

absl::StatusOr<uint32_t> RegionTable::Add(Bytes bytes, Access access) {
  uint32_t random = 0;
  if (getrandom(&random, sizeof(random), 0) != sizeof(random)) {
    return ErrnoError(errno, "getrandom");
  }
  const std::lock_guard lock(mutex_);
  if (free_.empty()) {
    if (entries_.size() >= kMaxRegions) {
      return MakeError(absl::StatusCode::kResourceExhausted,
                       "{} regions are registered, no more fit", entries_.size());
    }
    free_.push_back(static_cast<uint16_t>(entries_.size()));
    entries_.emplace_back();
  }
  const uint16_t index = free_.back();
  free_.pop_back();
  // Index below, random bits above, the topmost set so that no key is zero.
  const uint32_t key = 0x80000000u | (random & 0x7fff0000u) | index;
  entries_[index] = {bytes, key, access};
  return key;
}

void RegionTable::Remove(uint32_t key) {
  const std::lock_guard lock(mutex_);
  const uint32_t index = key & kIndexMask;
  if (index >= entries_.size() || entries_[index].key != key) return;
  entries_[index] = {};
  free_.push_back(static_cast<uint16_t>(index));
}

std::byte* RegionTable::Resolve(uint32_t key, uint64_t address, uint64_t length) const {
  const uint32_t index = key & kIndexMask;
  if (key == 0 || index >= entries_.size()) return nullptr;
  const Entry& entry = entries_[index];
  if (entry.key != key || entry.access != Access::kRemoteWrite) return nullptr;
  const auto start = reinterpret_cast<uint64_t>(entry.bytes.data());
  if (address < start) return nullptr;
  const uint64_t offset = address - start;
  if (offset > entry.bytes.size() || length > entry.bytes.size() - offset) return nullptr;
  return entry.bytes.data() + offset;
}

}  // namespace gradwire::tcp
