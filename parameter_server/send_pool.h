// Registered buffers of one size that writes are sent from and that come back once they are sent.
//
// Threads. One thread at a time.
#pragma once

#include <cstdint>
#include <vector>

#include "transport/memory.h"
#include "transport/transport.h"

namespace gradwire::ps {

class SendPool {
 public:
  static absl::StatusOr<SendPool> Make(Transport& transport, size_t buffer_bytes, int buffers) {
    SendPool pool;
    pool.buffer_bytes_ = (buffer_bytes + 63) / 64 * 64;
    const size_t bytes = pool.buffer_bytes_ * static_cast<size_t>(buffers);
    GW_ASSIGN_OR_RETURN(pool.region_, transport.Allocate(bytes, Access::kLocal));
    for (int i = buffers - 1; i >= 0; --i) pool.free_.push_back(i);
    return pool;
  }

  bool empty() const { return free_.empty(); }
  // Not to be called when empty().
  int Take() {
    const int buffer = free_.back();
    free_.pop_back();
    return buffer;
  }
  void Give(int buffer) { free_.push_back(buffer); }
  Bytes bytes(int buffer) {
    return region_.bytes().subspan(static_cast<size_t>(buffer) * buffer_bytes_, buffer_bytes_);
  }
  // `length` is at most the size that Make() was given.
  RegionSpan Span(int buffer, size_t length) const {
    return *region_.Span(static_cast<size_t>(buffer) * buffer_bytes_, length);
  }

 private:
  size_t buffer_bytes_ = 0;
  Region region_;
  std::vector<int> free_;
};

}  // namespace gradwire::ps
