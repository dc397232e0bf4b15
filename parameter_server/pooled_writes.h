// Writes of one link that are sent from buffers of pools. A buffer goes back to its pool once its
// write is sent, or with this object, when the link is gone.
//
// Threads. One thread at a time, that of the transport.
#pragma once

#include <cstdint>
#include <deque>

#include "parameter_server/send_pool.h"
#include "transport/link.h"

namespace gradwire::ps {

class PooledWrites {
 public:
  PooledWrites() = default;
  ~PooledWrites() { GiveBelow(UINT64_MAX); }
  PooledWrites(const PooledWrites&) = delete;
  PooledWrites& operator=(const PooledWrites&) = delete;

  // Posts what `buffer`, which was taken from `pool`, begins with, as much as `to` has room for.
  absl::Status Write(Link& link, SendPool& pool, int buffer, const RemoteSpan& to, uint32_t tag) {
    sending_.push_back({link.next_sequence(), &pool, buffer});
    return link.Write(pool.Span(buffer, to.length), to, tag);
  }
  // Gives back what `link` reports as sent.
  void Reclaim(const Link& link) { GiveBelow(link.written()); }

 private:
  struct Sending {
    uint64_t sequence;
    SendPool* pool;
    int buffer;
  };

  void GiveBelow(uint64_t sequence) {
    while (!sending_.empty() && sending_.front().sequence < sequence) {
      sending_.front().pool->Give(sending_.front().buffer);
      sending_.pop_front();
    }
  }

  std::deque<Sending> sending_;
};

}  // namespace gradwire::ps
