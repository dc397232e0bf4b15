// A link: what a transport makes of two ends that know of each other, and what it tells of it.
//
// Flow control. Each link has `window()` slots at the receiver, each of `slot_bytes()`. A write
// takes one credit, whether it lands in a slot or in another granted region, so a credit stands for
// one free slot *and* one posted receive. The receiver gives it back with Release() once it has
// consumed the arrival; credits ride on the immediate of a write in the other direction or, when
// half the window is owed, travel alone.
//
// Order. Arrivals of one link are delivered in the order in which they were posted, however many
// lanes carried them.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

#include "transport/connection_facts.h"
#include "transport/immediate.h"
#include "transport/memory.h"
#include "transport/status.h"

namespace gradwire {

class Link;

using Clock = std::chrono::steady_clock;
using Deadline = Clock::time_point;

struct Completion {
  enum class Kind : uint8_t {
    kWritten,  // writes of ours up to and including `sequence` are done: their source may change
    kArrived,  // a peer's write is visible in our memory
    kCredits,  // the peer released writes of ours; link->credits() has grown
    kClosed,   // the link has ended; link->status() says why. Told once, after all arrivals
  };
  Kind kind = Kind::kWritten;
  uint32_t tag = 0;       // kArrived: the writer's tag
  uint32_t length = 0;    // kArrived: bytes written, 0 included
  uint64_t sequence = 0;  // the write's number on its link, from 0, counted per direction
  Link* link = nullptr;
};

// Our connection to one peer. Made by Transport::OpenLink or FinishLink and owned by the transport.
class Link {
 public:
  virtual ~Link() = default;

  // The peer's rank, or the label that PrepareLink was given.
  int peer() const { return peer_; }
  // OK while the link stands; then why it ended. A peer that finished first closes its links, so
  // an end matters only to who still needs the peer.
  const absl::Status& status() const { return status_; }
  // Slots at each receiver = writes that may be on their way at once.
  int window() const { return window_; }
  // Bytes of a slot, and the most that one write may carry.
  size_t slot_bytes() const { return slot_bytes_; }
  // Writes that may be posted now: window() less those not yet released by the peer.
  int credits() const { return credits_; }
  // Number of the next write; also the count of writes posted so far.
  uint64_t next_sequence() const { return next_sequence_; }
  // Writes whose source may be changed again: all with a number below this.
  uint64_t written() const { return written_; }

  // What the peer granted, mapped where the transport can do that: on the same host, for memory
  // that came from Allocate. The mapping holds while the peer keeps the region.
  virtual RemoteRegion Map(const MemoryGrant& grant) { return RemoteRegion(grant); }
  // Whether memory that the peer allocates can be mapped here.
  bool maps() const { return maps_; }

  // The peer's slot for the next write, cut to `length` <= slot_bytes().
  RemoteSpan NextSlot(size_t length) const {
    const uint64_t index = next_sequence_ % static_cast<uint64_t>(window_);
    return RemoteSpan{slots_at_peer_.address + index * slot_bytes_, slots_at_peer_.key, length};
  }

  // Posts one write. `from.length` equals `to.length` and is at most slot_bytes(). The source must
  // not change until written() passes this write's number. It starts at once or, when the
  // transport chains posts, at the next Poll, Wait or Flush.
  // ResourceExhausted without a credit; InvalidArgument on bad lengths or tag.
  virtual absl::Status Write(const RegionSpan& from, const RemoteSpan& to, uint32_t tag) = 0;

  // Asks that written() comes to cover every write posted so far even when none follows. Without
  // it a transport that reports only every so many writes may leave the last ones open. Costs least
  // right after the last write of a burst.
  virtual absl::Status Settle() = 0;

  // Where an arrival that was written to a slot lies, until it is released.
  ConstBytes Slot(const Completion& arrival) const {
    const uint64_t index = arrival.sequence % static_cast<uint64_t>(window_);
    return ConstBytes(slots_.data() + index * slot_bytes_, arrival.length);
  }

  // Gives `count` consumed arrivals back to the peer, oldest first. Call it before the write that
  // answers them, and the credits travel with that.
  virtual absl::Status Release(int count) = 0;

 protected:
  int peer_ = -1;
  absl::Status status_;
  int window_ = 0;
  int credits_ = 0;
  size_t slot_bytes_ = 0;
  uint64_t next_sequence_ = 0;
  uint64_t written_ = 0;
  Bytes slots_;
  MemoryGrant slots_at_peer_;
  bool maps_ = false;
};

// The shape of a prepared link, the same at both ends.
struct LinkOptions {
  int window = 0;         // slots at each end, 1..Immediate::kMaxWindow
  size_t slot_bytes = 0;  // of each slot, 1..2^30
};

// One end of a link before the other is known; dropping it undoes it. It must not outlive its
// transport.
class LinkEnd {
 public:
  virtual ~LinkEnd() = default;
  // For the peer's FinishLink.
  const ConnectionFacts& facts() const { return facts_; }

 protected:
  ConnectionFacts facts_;
};

// Which end of a prepared link begins to write.
enum class Role : uint8_t { kConnect, kAccept };

}  // namespace gradwire
