// One queue pair of a link: what is on its send queue, what waits for room there, and when a
// completion is asked for.
//
// Requests are numbered from 0 and kept in one ring:
//
//   retired_ <= posted_ <= enqueued_
//   [retired_, posted_) is on the send queue, at most depth of them
//   [posted_, enqueued_) waits for a doorbell or for room
//
// A request stays on the send queue until a signaled one at or after it completes: that completion
// retires the whole run, by one assignment to retired_. Of every `interval` requests in a row one
// is signaled and interval < depth, so a full queue holds a signaled request and drains.
#pragma once

#include <infiniband/verbs.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "transport/immediate.h"
#include "transport/memory.h"
#include "transport/rdma/queue_pair.h"
#include "transport/rdma/receives.h"
#include "transport/transport.h"

namespace gradwire::rdma {

struct LaneOptions {
  int depth = 0;         // requests on the send queue
  int interval = 0;      // one in so many is signaled
  int chain = 0;         // requests per doorbell at most
  int inline_bytes = 0;  // copied into the request up to this size
  int waiting = 0;       // most requests that may wait
  // For telemetry: the writes of link `peer` that go by this lane are those with a number of
  // `index` modulo `lanes`.
  int peer = -1;
  int index = 0;
  int lanes = 1;
};

// Thread: the transport's.
class Lane {
 public:
  Lane(QueuePair queue_pair, const LaneOptions& options);

  QueuePair& queue_pair() { return queue_pair_; }
  void set_receives(Receives* receives) { receives_ = receives; }
  Receives& receives() { return *receives_; }

  // --- Sending ---
  // A WRITE_WITH_IMM; `data` unless it carries only credits. The bytes stay untouched until
  // oldest_unwritten() has passed it. Posts first when a chain is full; 0 or an errno value.
  int Enqueue(const RegionSpan& from, const RemoteSpan& to, Immediate immediate, bool data,
              TransportCounters& counters);
  // Sees to a completion that covers all data enqueued so far, or, with `everything`, also inlined
  // data and credits. 0 or an errno value.
  int Settle(bool everything, TransportCounters& counters);
  // Posts what waits as far as there is room. 0 or an errno value.
  int Post(TransportCounters& counters);
  // The signaled request `number` completed. False when no such request is on the queue.
  bool Retire(uint64_t number);

  bool waiting() const { return posted_ != enqueued_; }
  // Every signaled request has completed; after Settle(everything) that means every request.
  bool idle() const { return !waiting() && signaled_on_queue_ == 0; }
  // Number, among this lane's data writes, of the oldest whose bytes are still needed.
  std::optional<uint64_t> oldest_unwritten() const;

 private:
  struct Request {
    ibv_send_wr work = {};
    ibv_sge piece = {};
    uint64_t data_before = 0;  // data writes up to and including this request
    bool data = false;
    bool signaled = false;
  };

  Request& request(uint64_t number) { return ring_[static_cast<size_t>(number % ring_.size())]; }
  Request& Add(const RegionSpan& from, const RemoteSpan& to);
  // Telemetry: `count` requests from posted_ on went to the device since `begin`, a
  // telemetry::Moment().
  void NotePosted(uint64_t count, int64_t begin);
  int Full(TransportCounters& counters);

  QueuePair queue_pair_;
  const LaneOptions options_;
  Receives* receives_ = nullptr;
  std::vector<Request> ring_;  // options_.depth + options_.waiting of them
  uint64_t enqueued_ = 0;
  uint64_t posted_ = 0;
  uint64_t retired_ = 0;
  int unsignaled_run_ = 0;     // requests enqueued since the last signaled one
  int signaled_on_queue_ = 0;  // += when posted, -= in Retire
  bool full_ = false;          // the last Post ran out of room

  // Data writes: enqueued, posted, retired, and those up to the last one that was not inlined.
  uint64_t data_enqueued_ = 0;
  uint64_t data_posted_ = 0;
  uint64_t data_retired_ = 0;
  uint64_t data_held_ = 0;
};

}  // namespace gradwire::rdma
