// Memory that peers may write into, by key. Registration happens on any thread; the data path looks
// a key up before every read from a socket, under the same lock, so that memory which was withdrawn
// is never written again.
#pragma once

#include <cstdint>
#include <mutex>
#include <vector>

#include "transport/memory.h"

namespace gradwire::tcp {

class RegionTable {
 public:
  // Adds `bytes`; the key is random in its upper half. ResourceExhausted above 65,535 regions.
  absl::StatusOr<uint32_t> Add(Bytes bytes, Access access);
  void Remove(uint32_t key);

  // Held while a resolved pointer is written to.
  std::mutex& mutex() { return mutex_; }
  // The place of [address, address + length) when `key` grants all of it, else null. Needs mutex().
  std::byte* Resolve(uint32_t key, uint64_t address, uint64_t length) const;

 private:
  struct Entry {
    Bytes bytes;
    uint32_t key = 0;  // 0: free
    Access access = Access::kLocal;
  };
  std::mutex mutex_;
  std::vector<Entry> entries_;  // index = lower half of the key
  std::vector<uint16_t> free_;
};

}  // namespace gradwire::tcp
