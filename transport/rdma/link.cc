#include "transport/rdma/link.h"

#include <algorithm>
#include <utility>

#include "transport/rdma/advice.h"
#include "transport/telemetry/span.h"
#include "transport/urxe/urxe.h"

namespace gradwire::rdma {

Lane& RdmaLink::AddLane(QueuePair queue_pair, const LaneOptions& options,
                        SharedReceives::Pool* pool, int batch) {
  LaneOptions numbered = options;
  numbered.peer = peer_;
  numbered.index = static_cast<int>(lanes_.size());
  Lane& lane = lanes_.emplace_back(std::move(queue_pair), numbered);
  if (pool != nullptr) {
    pools_.push_back(pool);
    lane.set_receives(&pool->receives());
  } else {
    lane.set_receives(&own_receives_.emplace_back(&lane.queue_pair(), nullptr, batch));
  }
  return lane;
}

absl::Status RdmaLink::Write(const RegionSpan& from, const RemoteSpan& to, uint32_t tag) {
  const uint64_t sequence = next_sequence_;
  GW_ASSIGN_OR_RETURN(const Immediate immediate, BeginWrite(from, to, tag));
  Lane& lane = lanes_[static_cast<size_t>(sequence % lanes_.size())];
  CheckPosted(lane.Enqueue(from, to, immediate, /*data=*/true, counters_));
  QueueIfWaiting(lane);
  return status_;
}

absl::Status RdmaLink::Open(const MemoryGrant& slots_at_peer) {
  GW_RETURN_IF_ERROR(SetPeerSlots(slots_at_peer));
  // Slots are allocated as all shareable memory is: what holds for them holds for the rest.
  maps_ = Map(slots_at_peer).mapped();
  return absl::OkStatus();
}

RemoteRegion RdmaLink::Map(const MemoryGrant& grant) {
  const void* mapped = nullptr;
  if (grant.mappable != 0 && grant.length != 0) {
    mapped = urxe_map_for_reading(lanes_.front().queue_pair().get(), grant.key, grant.address,
                                  grant.length);
  }
  return RemoteRegion(grant, static_cast<const std::byte*>(mapped));
}

absl::Status RdmaLink::Settle() {
  if (closed()) return status_;
  for (Lane& lane : lanes_) CheckPosted(lane.Settle(/*everything=*/false, counters_));
  return status_;
}

void RdmaLink::SettleEverything() {
  for (Lane& lane : lanes_) {
    if (!closed()) CheckPosted(lane.Settle(/*everything=*/true, counters_));
  }
  Post();
}

absl::Status RdmaLink::Release(int count) {
  GW_ASSIGN_OR_RETURN(const uint32_t credits, GiveBack(count));
  if (credits == 0) return absl::OkStatus();
  // At once: the peer may have nothing left to write with.
  Lane& lane = lanes_.front();
  CheckPosted(lane.Enqueue({}, {}, Immediate::CreditsOnly(credits), /*data=*/false, counters_));
  if (!closed()) CheckPosted(lane.Post(counters_));
  return absl::OkStatus();
}

void RdmaLink::SayGoodbye() {
  if (closed()) return;
  CheckPosted(lanes_.front().Enqueue({}, {}, Immediate::Goodbye(), /*data=*/false, counters_));
  SettleEverything();
}

void RdmaLink::Post() {
  for (Lane& lane : lanes_) {
    if (lane.waiting() && !closed()) CheckPosted(lane.Post(counters_));
  }
  UpdateWritten();
}

void RdmaLink::CheckPosted(int error) {
  if (error != 0) Close(VerbsError(error, Verb::kPost, fmt::format("post a write to {}", who_)));
}

bool RdmaLink::Drained() const {
  return closed() ||
         std::all_of(lanes_.begin(), lanes_.end(), [](const Lane& lane) { return lane.idle(); });
}

void RdmaLink::Complete(Lane& lane, const ibv_wc& completion) {
  const bool receive = Receives::Completed(completion);
  // A shared receive is missed by the other links even when this one has ended.
  if (receive && (lane.receives().shared() || (completion.status == IBV_WC_SUCCESS && !closed()))) {
    if (const int error = lane.receives().Consumed(); error != 0) {
      Close(VerbsError(error, Verb::kPost, fmt::format("post receives for {}", who_)));
    }
  }
  if (closed()) return;
  // The status first: when it is bad, nothing else but the work request's number is valid.
  if (completion.status != IBV_WC_SUCCESS) {
    return Close(CompletionError(completion.status,
                                 fmt::format("{} {}", receive ? "receive from" : "write to", who_),
                                 completion.vendor_err));
  }
  if (receive) {
    CompleteReceive(completion);
  } else {
    CompleteSend(lane, completion.wr_id);
  }
}

void RdmaLink::CompleteSend(Lane& lane, uint64_t number) {
  ++counters_.send_completions;
  if (!lane.Retire(number)) {
    return Close(InternalError("{}: the device completed request {}, which is not on its queue",
                               who_, number));
  }
  UpdateWritten();
  telemetry::Mark(telemetry::Kind::kCompletion, peer_, written_);
  QueueIfWaiting(lane);  // there is room now
}

void RdmaLink::CompleteReceive(const ibv_wc& completion) {
  if (completion.opcode != IBV_WC_RECV_RDMA_WITH_IMM) {
    return Close(ProtocolError("{} sent something else than a write with an immediate", who_));
  }
  const Immediate immediate = Immediate::FromWire(completion.imm_data);
  if (immediate == Immediate::Goodbye()) return Close(Unavailable("{} has left", who_));
  if (absl::Status accepted = Accept(immediate, completion.byte_len); !accepted.ok()) {
    Close(Annotate(accepted, who_));
  }
}

void RdmaLink::UpdateWritten() {
  uint64_t oldest = next_sequence_;
  for (size_t lane = 0; lane < lanes_.size(); ++lane) {
    if (const auto number = lanes_[lane].oldest_unwritten()) {
      oldest = std::min(oldest, lane + *number * lanes_.size());
    }
  }
  // What was inlined counted as written when it was posted, whatever is on its way behind it.
  SetWritten(std::max(written_, oldest));
}

}  // namespace gradwire::rdma
