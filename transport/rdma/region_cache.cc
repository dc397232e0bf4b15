#include "transport/rdma/region_cache.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "transport/pages.h"

namespace gradwire::rdma {
namespace {

// Rights of the device on behalf of the peer; a source of writes needs none. What we allocated may
// be mapped and read by peers of this host; over the wire queue pairs permit no reading.
int AccessFlags(Access access, bool mappable) {
  const int read = mappable ? IBV_ACCESS_REMOTE_READ : 0;
  return access == Access::kRemoteWrite ? IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | read
                                        : read;
}

}  // namespace

std::shared_ptr<RegionCache::Entry> RegionCache::Find(Bytes bytes, Access access) {
  // Those that begin at or before `bytes`, nearest first. Registrations nest rarely, so the first
  // live one mostly decides; ended ones are swept out on the way.
  auto place = entries_.upper_bound(bytes.data());
  while (place != entries_.begin()) {
    --place;
    const std::shared_ptr<Entry> entry = place->second.lock();
    if (entry == nullptr) {
      place = entries_.erase(place);
      continue;
    }
    const Bytes covered = entry->region.bytes();
    if (bytes.data() + bytes.size() <= covered.data() + covered.size() &&
        (entry->access == access || access == Access::kLocal)) {
      return entry;
    }
  }
  return nullptr;
}

absl::StatusOr<Region> RegionCache::Register(Bytes bytes, Access access) {
  return Add(bytes, access, nullptr);
}

absl::StatusOr<Region> RegionCache::Allocate(size_t bytes, Access access) {
  GW_ASSIGN_OR_RETURN(std::shared_ptr<void> memory, AllocatePages(bytes));
  return Add(Bytes(static_cast<std::byte*>(memory.get()), bytes), access, memory);
}

absl::StatusOr<Region> RegionCache::Add(Bytes bytes, Access access, std::shared_ptr<void> memory) {
  if (bytes.empty()) return Region(bytes, MemoryGrant{}, 0, [memory] {});
  const std::lock_guard lock(mutex_);
  std::shared_ptr<Entry> entry = Find(bytes, access);
  if (entry == nullptr) {
    GW_ASSIGN_OR_RETURN(MemoryRegion region,
                        domain_.Register(bytes, AccessFlags(access, memory != nullptr)));
    entry = std::make_shared<Entry>(Entry{std::move(memory), std::move(region), access});
    entries_.emplace(bytes.data(), entry);
  }
  const MemoryGrant grant{reinterpret_cast<uint64_t>(bytes.data()), bytes.size(),
                          entry->region.remote_key(), entry->memory != nullptr ? 1u : 0u};
  const uint32_t local_key = entry->region.local_key();
  return Region(bytes, grant, local_key, [entry = std::move(entry)]() mutable { entry.reset(); });
}

size_t RegionCache::size() const {
  const std::lock_guard lock(mutex_);
  return static_cast<size_t>(std::count_if(
      entries_.begin(), entries_.end(), [](const auto& entry) { return !entry.second.expired(); }));
}

}  // namespace gradwire::rdma
