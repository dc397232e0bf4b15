// What one collective sees of its peers: links with arrivals in order, waits that end at the
// operation's deadline, and errors that name the culprit.
//
// Tag of every write: the collective's number (7 bits, unambiguous since a peer can be ahead by at
// most a window of 64 writes) and a signature of what it is (11 bits): never equal for two types or
// operations on the same count, otherwise equal by chance in 1 of 2047. An arrival of the current
// collective with another signature or length means that the ranks do not agree on what they do.
//
// Threads: one at a time, as for Transport.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "collectives/types.h"
#include "transport/bootstrap/world.h"
#include "transport/telemetry/span.h"
#include "transport/transport.h"

namespace gradwire {

enum class CollectiveKind : uint8_t {
  kAllReduce,
  kReduceScatter,
  kAllGather,
  kBroadcast,
  kBarrier
};
std::string_view NameOf(CollectiveKind kind);

// What all ranks must agree on.
struct OperationKey {
  CollectiveKind kind = CollectiveKind::kBarrier;
  DataType type = DataType::kFloat32;
  ReduceOp op = ReduceOp::kSum;
  uint64_t count = 0;  // elements of the larger tensor
  int root = 0;

  // "all_reduce of 1000 float, sum".
  std::string Describe() const;
  friend bool operator==(const OperationKey&, const OperationKey&) = default;
};

class Exchange {
 public:
  Exchange(World& world, Transport& transport, const Settings& settings);

  int rank() const { return world_.rank(); }
  int size() const { return world_.size(); }
  Transport& transport() { return transport_; }
  // Bytes of one write at most.
  size_t slice_bytes() const { return static_cast<size_t>(settings_.slice_bytes); }

  // --- Around a collective ---
  // Starts number `number` (from 1).
  absl::Status Begin(const OperationKey& key, uint64_t number);
  // Turns what went wrong into the error a user sees: who, what, remedy. May ask the control plane.
  absl::Status Explain(absl::Status error);

  // --- For algorithms ---
  absl::StatusOr<Link*> Open(int peer);
  // Posts a write, waiting for a credit first.
  absl::Status Write(Link& link, const RegionSpan& from, const RemoteSpan& to);
  // A write to the peer's next slot.
  absl::Status WriteToSlot(Link& link, const RegionSpan& from);
  // The same as a burst of its own.
  absl::Status WriteAlone(Link& link, const RegionSpan& from);
  // The next arrival on `link`, which must have `length` bytes; blocks.
  absl::StatusOr<Completion> Receive(Link& link, size_t length);
  // Whether Receive would not block.
  bool HasArrival(const Link& link) const;
  // Bytes of the next arrival, once there is one.
  size_t ArrivalLength(const Link& link) const;
  // Until every write posted on `link` is done with its source.
  absl::Status AwaitWritten(Link& link);
  // Until write number `sequence` on `link` is.
  absl::Status AwaitWritten(Link& link, uint64_t sequence);
  // Ends a burst on `link`: what is posted starts, and written() comes to cover all of it.
  absl::Status EndBurst(Link& link);
  // Until something happened; the caller cannot go on without `needed`. The rest is for telemetry.
  absl::Status Progress(Link& needed, telemetry::Need need = telemetry::Need::kArrival,
                        uint64_t sequence = 0, bool also_credit = false);
  // out = a (op) b of `bytes` each; out may be one of them.
  void Reduce(DataType type, ReduceOp op, std::byte* out, const std::byte* a, const std::byte* b,
              size_t bytes) const;
  // As memcpy; nothing when `bytes` is 0.
  void Copy(std::byte* to, const std::byte* from, size_t bytes);
  // By Copy, in all collectives so far.
  uint64_t bytes_copied() const { return bytes_copied_; }
  // The reason when `link` has ended; OK while it stands.
  absl::Status Check(Link& link) { return inbox(link).ended ? link.status() : absl::OkStatus(); }
  // At least `bytes` of registered working memory, kept between collectives; contents undefined.
  absl::StatusOr<const Region*> Scratch(size_t bytes);

 private:
  // Arrivals of one peer that were not received yet, in order; at most a window of them.
  struct Inbox {
    std::vector<Completion> ring;
    uint64_t head = 0;
    uint64_t tail = 0;
    bool ended = false;
  };

  Inbox& inbox(const Link& link) { return inboxes_[static_cast<size_t>(link.peer())]; }
  absl::Status Dispatch(const Completion& completion);
  absl::Status Mismatch(const Link& link);
  std::string Who(int rank) const { return world_.peer(rank).Describe(); }

  World& world_;
  Transport& transport_;
  const Settings settings_;
  std::vector<Inbox> inboxes_;  // by rank
  std::array<Completion, 8> completions_;
  Region scratch_;
  uint64_t bytes_copied_ = 0;

  // Of the collective under way.
  OperationKey key_;
  uint64_t number_ = 0;
  uint32_t tag_ = 0;
  Deadline deadline_;
  int waiting_for_ = -1;  // rank, -1 when none
};

}  // namespace gradwire
