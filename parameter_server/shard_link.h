// A worker's end of its link to one shard: sends requests and the slices that go with them, as
// credits allow, and takes in slices and replies. Several requests may be on their way.
//
// Threads. One thread at a time, that of the transport.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <vector>

#include "parameter_server/layout.h"
#include "parameter_server/pooled_writes.h"
#include "parameter_server/protocol.h"
#include "parameter_server/send_pool.h"
#include "transport/memory.h"
#include "transport/transport.h"

namespace gradwire::ps {

class ShardLink {
 public:
  // What is sent: the whole layout in elements of `wire`. What is pulled the shard writes to what
  // it was granted by itself.
  struct Memory {
    const Region* gradients = nullptr;  // sent from
    size_t base = 0;  // bytes from the region's begin to the layout's first element
    DataType wire = DataType::kFloat32;
    bool in_place = false;  // the shard reads gradients where they lie: no slices are sent
  };
  // Called with each reply, in the order of the requests. OK or an error that the shard gave.
  using Answered = std::function<void(const Reply&)>;

  // Everything outlives the link. `messages` has buffers of at least sizeof(Request).
  ShardLink(Link* link, const std::vector<Slice>& slices, const Memory& memory, SendPool& messages)
      : link_(link), slices_(slices), memory_(memory), messages_(messages) {}
  ShardLink(const ShardLink&) = delete;
  ShardLink& operator=(const ShardLink&) = delete;

  Link* link() const { return link_; }
  // Queues a request; its number is filled in. Pump() sends it.
  void Ask(Request request, Answered answered);
  // Requests without a reply.
  size_t outstanding() const { return queue_.size(); }
  const Request& front() const { return queue_.front().request; }
  // Sends what credits allow.
  absl::Status Pump();
  // Looks at a completion of this link. ProtocolError for what the shard may not send; the link's
  // own status once it has closed.
  absl::Status Handle(const Completion& completion);

  uint64_t bytes_pushed() const { return bytes_pushed_; }
  uint64_t bytes_pulled() const { return bytes_pulled_; }

 private:
  struct Asked {
    Request request;
    Answered answered;
    bool sent = false;  // the request itself
    uint32_t slices_sent = 0;
    uint32_t slices_received = 0;
  };

  uint32_t SlicesToSend(const Request& request) const;

  Link* const link_;
  const std::vector<Slice>& slices_;
  const Memory memory_;
  SendPool& messages_;
  std::deque<Asked> queue_;  // the first is the next to be answered
  size_t unsent_ = 0;        // index of the first in queue_ that is not sent whole
  uint32_t last_number_ = 0;
  PooledWrites writes_;
  uint64_t bytes_pushed_ = 0;
  uint64_t bytes_pulled_ = 0;
};

}  // namespace gradwire::ps
