// What links of every transport share: credits, the order of arrivals over several lanes, and the
// completions that tell of them. A transport adds how bytes travel.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "transport/transport.h"
#include "transport/work_queue.h"

namespace gradwire {

// InvalidArgument unless a link can have this shape.
absl::Status CheckOptions(const LinkOptions& options);
// InvalidArgument unless `theirs`, told by `who`, agree with `mine` on the shape of a link.
absl::Status CheckShape(const ConnectionFacts& theirs, const ConnectionFacts& mine,
                        std::string_view who);

class OrderedLink : public Link {
 public:
  const std::string& who() const { return who_; }
  const MemoryGrant& slot_grant() const { return slot_region_.grant(); }
  // Moves what is due to `out`; returns how many. What did not fit puts the link behind the others
  // that are due.
  int Deliver(std::span<Completion> out);
  // Ends the link; the first reason stays.
  void Close(absl::Status reason);
  bool closed() const { return !status_.ok(); }

 protected:
  // `who` describes the peer in messages; `slots` is this side's memory for its writes. The link
  // puts itself into `due` whenever Deliver has something.
  OrderedLink(int peer, std::string who, const LinkOptions& options, Region slots,
              TransportCounters& counters, WorkQueue<OrderedLink>& due);

  // The peer's grant of its slots; the same on every call, ProtocolError otherwise.
  absl::Status SetPeerSlots(const MemoryGrant& slots_at_peer);
  // Takes a credit and a sequence number for a write, and with them the credits owed to the peer;
  // the errors of Write().
  absl::StatusOr<Immediate> BeginWrite(const RegionSpan& from, const RemoteSpan& to, uint32_t tag);
  // Gives `count` arrivals back; the number of credits that must travel alone, usually 0.
  absl::StatusOr<uint32_t> GiveBack(int count);
  // Checks and books what came with `immediate`; nothing of it is trusted.
  absl::Status Accept(Immediate immediate, uint32_t length);
  // All writes with a number below `written` are done.
  void SetWritten(uint64_t written);

  const std::string who_;
  Region slot_region_;
  TransportCounters& counters_;

 private:
  struct Arrival {
    bool present = false;
    uint32_t tag = 0;
    uint32_t length = 0;
  };
  void MarkDue() { due_queue_.Push(due_entry_); }
  // The credits owed to the peer, which go with what is sent now.
  uint32_t GiveOwed();
  Arrival& arrival(uint64_t sequence) {
    return arrivals_[static_cast<size_t>(sequence % static_cast<uint64_t>(window_))];
  }

  // Arrivals: released_ <= delivered_ <= number of the next expected. A peer's write must have a
  // number below released_ + window_: that is what its credits stand for.
  std::vector<Arrival> arrivals_;  // by sequence modulo window_
  uint64_t delivered_ = 0;
  uint64_t released_ = 0;
  int owed_ = 0;  // released, but the peer has not been told: += in GiveBack, -> 0 when sent

  uint64_t written_told_ = 0;  // last written_ that a completion reported
  bool credits_grew_ = false;
  bool closed_told_ = false;

  WorkQueue<OrderedLink>& due_queue_;
  WorkQueue<OrderedLink>::Entry due_entry_{this};
};

}  // namespace gradwire
