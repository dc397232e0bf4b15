// A link over RDMA: its queue pairs, and which write goes over which.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "transport/ordered_link.h"
#include "transport/rdma/lane.h"
#include "transport/rdma/receives.h"
#include "transport/rdma/shared_receives.h"

namespace gradwire::rdma {

class RdmaLink;

// What all links of a transport share.
struct LinkQueues {
  WorkQueue<OrderedLink> due;
  WorkQueue<RdmaLink> unposted;  // those with requests that Post() may put on a send queue
};

class RdmaLink : public OrderedLink {
 public:
  // `who` describes the peer in messages; `slots` is this side's memory for its writes.
  RdmaLink(int peer, std::string who, const LinkOptions& options, Region slots,
           TransportCounters& counters, LinkQueues& queues)
      : OrderedLink(peer, std::move(who), options, std::move(slots), counters, queues.due),
        unposted_queue_(queues.unposted) {}

  absl::Status Write(const RegionSpan& from, const RemoteSpan& to, uint32_t tag) override;
  absl::Status Settle() override;
  absl::Status Release(int count) override;
  RemoteRegion Map(const MemoryGrant& grant) override;

  // --- Setting up ---
  // Every lane is added before the first write. It takes its receives from `pool`, or without one
  // has its own, `batch` of them posted at a time.
  Lane& AddLane(QueuePair queue_pair, const LaneOptions& options, SharedReceives::Pool* pool,
                int batch);
  absl::Status Open(const MemoryGrant& slots_at_peer);
  std::deque<Lane>& lanes() { return lanes_; }
  // Where the lanes' receives are, when they are shared.
  const std::vector<SharedReceives::Pool*>& pools() const { return pools_; }

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
  void QueueIfWaiting(const Lane& lane) {
    if (lane.waiting()) unposted_queue_.Push(unposted_entry_);
  }

  std::deque<Lane> lanes_;
  std::deque<Receives> own_receives_;
  std::vector<SharedReceives::Pool*> pools_;
  WorkQueue<RdmaLink>& unposted_queue_;
  WorkQueue<RdmaLink>::Entry unposted_entry_{this};
};

}  // namespace gradwire::rdma
