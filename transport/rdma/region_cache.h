// Registered memory by address: what lies inside a live registration is not registered again.
//
// A registration lives as long as some Region refers to it, no longer. Keeping it for later would
// be faster for who registers the same memory again and again, and wrong when the memory was
// unmapped in between: the device would go on reading and writing pages that the address no longer
// names. Memory that is used often is allocated by the transport, or registered once by its owner;
// then each further registration inside it is a look-up.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>

#include "transport/memory.h"
#include "transport/rdma/verbs.h"

namespace gradwire::rdma {

// Any thread may call it.
class RegionCache {
 public:
  explicit RegionCache(ProtectionDomain& domain) : domain_(domain) {}

  // `bytes` must outlive the region; the region must not outlive the cache.
  absl::StatusOr<Region> Register(Bytes bytes, Access access);
  // Page-aligned, zeroed and registered memory that lives as long as the region.
  absl::StatusOr<Region> Allocate(size_t bytes, Access access);

  // Live registrations.
  size_t size() const;

 private:
  struct Entry {
    std::shared_ptr<void> memory;  // when it is the cache's; goes after its registration
    MemoryRegion region;
    Access access;
  };
  absl::StatusOr<Region> Add(Bytes bytes, Access access, std::shared_ptr<void> memory);
  // A live registration that covers `bytes` with `access`, or null.
  std::shared_ptr<Entry> Find(Bytes bytes, Access access);

  ProtectionDomain& domain_;
  mutable std::mutex mutex_;
  std::multimap<const std::byte*, std::weak_ptr<Entry>> entries_;  // by first byte
};

}  // namespace gradwire::rdma
