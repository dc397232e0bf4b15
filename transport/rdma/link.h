// A link over RDMA: its queue pairs, and which write goes over which.
#pragma once

#include <deque>
#include <string>

#include "transport/ordered_link.h"
#include "transport/rdma/lane.h"

namespace gradwire::rdma {

class RdmaLink : public OrderedLink {
 public:
  // `who` describes the peer in messages; `slots` is this side's memory for its writes.
  RdmaLink(int peer, std::string who, int window, Region slots, TransportCounters& counters)
      : OrderedLink(peer, std::move(who), window, std::move(slots), counters) {}

  absl::Status Write(const RegionSpan& from, const RemoteSpan& to, uint32_t tag) override;
  absl::Status Settle() override;
  absl::Status Release(int count) override;
  RemoteRegion Map(const MemoryGrant& grant) override;

  // --- Setting up ---
  // Every lane is added before the first write.
  Lane& AddLane(QueuePair queue_pair, const LaneOptions& options);
  absl::Status Open(const MemoryGrant& slots_at_peer);
  std::deque<Lane>& lanes() { return lanes_; }

  // --- Progress, for the transport ---
  // Posts what waits.
  void Post();
  // A completion of `lane`, good or bad.
  void Complete(Lane& lane, const ibv_wc& completion);
  // Parting, in this order: everything posted is made to complete; once Drained(), the peer is told
  // that nothing follows; once Drained() again, the queue pairs may go.
  void SettleEverything();
  void SayGoodbye();
  bool Drained() const;

 private:
  void CompleteSend(Lane& lane, uint64_t number);
  void CompleteReceive(const ibv_wc& completion);
  // Closes the link when posting failed with `error`.
  void CheckPosted(int error);
  void UpdateWritten();

  std::deque<Lane> lanes_;
};

}  // namespace gradwire::rdma
