#include "transport/rdma/lane.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "transport/telemetry/span.h"

namespace gradwire::rdma {

Lane::Lane(QueuePair queue_pair, const LaneOptions& options)
    : queue_pair_(std::move(queue_pair)),
      options_(options),
      ring_(static_cast<size_t>(options.depth + options.waiting)) {}

Lane::Request& Lane::Add(const RegionSpan& from, const RemoteSpan& to) {
  Request& added = request(enqueued_);
  added.signaled = ++unsignaled_run_ == options_.interval;
  if (added.signaled) unsignaled_run_ = 0;
  added.piece = {reinterpret_cast<uint64_t>(from.data), static_cast<uint32_t>(from.length),
                 from.local_key};
  added.work = {};
  added.work.wr_id = enqueued_;
  added.work.sg_list = &added.piece;
  added.work.num_sge = from.length > 0 ? 1 : 0;
  added.work.opcode = IBV_WR_RDMA_WRITE;
  added.work.wr.rdma.remote_addr = to.address;
  added.work.wr.rdma.rkey = to.key;
  added.data_before = data_enqueued_;
  added.data = false;
  ++enqueued_;
  return added;
}

int Lane::Enqueue(const RegionSpan& from, const RemoteSpan& to, Immediate immediate, bool data,
                  TransportCounters& counters) {
  // Only now, not when the chain became full: Settle() can still mark its last request.
  if (enqueued_ - posted_ >= static_cast<uint64_t>(options_.chain)) {
    if (const int error = Post(counters); error != 0) return error;
  }
  if (enqueued_ - retired_ >= ring_.size()) return EOVERFLOW;  // credits bound what waits
  const bool inlined = from.length <= static_cast<size_t>(options_.inline_bytes);
  if (data) {
    ++data_enqueued_;
    if (!inlined) data_held_ = data_enqueued_;
  }
  Request& added = Add(from, to);
  added.data = data;
  added.work.opcode = IBV_WR_RDMA_WRITE_WITH_IMM;
  added.work.imm_data = immediate.ToWire();
  if (inlined && from.length > 0) added.work.send_flags |= IBV_SEND_INLINE;
  return 0;
}

int Lane::Settle(bool everything, TransportCounters& counters) {
  if (unsignaled_run_ == 0 || (!everything && data_retired_ >= data_held_)) return 0;
  if (waiting()) {
    request(enqueued_ - 1).signaled = true;
    unsignaled_run_ = 0;
    return 0;
  }
  // The last one is on its way unsignaled: a write of nothing behind it makes the completion.
  if (enqueued_ - retired_ >= ring_.size()) return EOVERFLOW;
  Add({}, {}).signaled = true;
  unsignaled_run_ = 0;
  return Post(counters);
}

int Lane::Post(TransportCounters& counters) {
  while (waiting()) {
    const uint64_t room = static_cast<uint64_t>(options_.depth) - (posted_ - retired_);
    if (room == 0) {
      return Full(counters);
    }
    const uint64_t count =
        std::min({enqueued_ - posted_, room, static_cast<uint64_t>(options_.chain)});
    for (uint64_t i = 0; i < count; ++i) {
      Request& next = request(posted_ + i);
      if (next.signaled) next.work.send_flags |= IBV_SEND_SIGNALED;
      next.work.next = i + 1 < count ? &request(posted_ + i + 1).work : nullptr;
    }
    ibv_send_wr* bad = nullptr;
    const int64_t begin = telemetry::Moment();
    const int error = queue_pair_.PostSend(&request(posted_).work, &bad);
    ++counters.doorbells;
    uint64_t accepted = 0;
    while (accepted < count && (error == 0 || &request(posted_ + accepted).work != bad)) {
      const Request& taken = request(posted_ + accepted++);
      if (taken.signaled) ++signaled_on_queue_;
      data_posted_ = taken.data_before;
    }
    if (telemetry::Active()) NotePosted(accepted, begin);
    // An error that points at no request of the chain leaves open what was taken.
    if (error != 0 && accepted == count) return error;
    posted_ += accepted;
    if (error == 0) {
      full_ = false;
      continue;
    }
    // The device has less room than it granted: the rest follows the next completion, if one comes.
    if (error != ENOMEM || signaled_on_queue_ == 0) return error;
    return Full(counters);
  }
  return 0;
}

int Lane::Full(TransportCounters& counters) {
  if (std::exchange(full_, true)) return 0;
  ++counters.queue_full;
  telemetry::Mark(telemetry::Kind::kQueueFull, options_.peer, enqueued_ - posted_);
  return 0;
}

void Lane::NotePosted(uint64_t count, int64_t begin) {
  const int64_t end = telemetry::Moment();
  for (uint64_t i = 0; i < count; ++i) {
    const Request& posted = request(posted_ + i);
    if (!posted.data) continue;
    const uint64_t sequence = (posted.data_before - 1) * static_cast<uint64_t>(options_.lanes) +
                              static_cast<uint64_t>(options_.index);
    telemetry::Note(telemetry::Kind::kPosted, begin, end, options_.peer, sequence,
                    posted.piece.length);
  }
}

bool Lane::Retire(uint64_t number) {
  if (number < retired_ || number >= posted_ || !request(number).signaled) return false;
  data_retired_ = request(number).data_before;
  retired_ = number + 1;
  --signaled_on_queue_;
  return true;
}

std::optional<uint64_t> Lane::oldest_unwritten() const {
  if (data_retired_ < data_held_) return data_retired_;
  if (data_posted_ < data_enqueued_) return std::max(data_posted_, data_retired_);
  return std::nullopt;
}

}  // namespace gradwire::rdma
