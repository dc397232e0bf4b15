// The one interface that every algorithm is written against.
//
// A transport offers one data verb: write these bytes into that place of the peer's region, and
// hand the peer this tag once the bytes are visible to it. Over RDMA that is one WRITE_WITH_IMM;
// over TCP it is one frame whose payload the receiver reads straight into the target place.
//
// Links. Ranks of one world open theirs by rank (OpenLink). Ends that find each other in another
// way make theirs in two steps (PrepareLink, FinishLink) and carry what each must know of the
// other:
//
//   connecting end                             accepting end
//   PrepareLink          -- its facts -->      PrepareLink, FinishLink(kAccept)
//   FinishLink(kConnect) <-- its facts --
//
// Threads. Register(), Allocate() and Wake() may be called from any thread. Everything else (links,
// Poll, Wait) belongs to one thread at a time; the caller sees to that.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "transport/link.h"
#include "transport/memory.h"
#include "transport/settings.h"
#include "transport/status.h"

namespace gradwire {

class World;

// Bytes and operating-system work since the transport was made; for reports, not for control.
struct TransportCounters {
  uint64_t bytes_sent = 0;      // payload
  uint64_t bytes_received = 0;  // payload
  uint64_t writes = 0;
  uint64_t arrivals = 0;
  uint64_t credit_messages = 0;  // credits that travelled alone
  uint64_t syscalls = 0;
  uint64_t blocks = 0;  // times a wait gave up the processor
  // Bytes that processors of this host copied, in the kernel too, to move payload; what a device
  // copied is in its own counters.
  uint64_t bytes_copied = 0;
  // RDMA only.
  uint64_t doorbells = 0;         // chains posted
  uint64_t send_completions = 0;  // signaled requests that completed
  uint64_t queue_full = 0;        // times posted writes had to wait for room in a send queue
};

// What is under the transport counted, where it tells: urxe of this process, the kernel of its TCP
// connections, a kernel's or NIC's RDMA device of all programs on this host.
struct DeviceCounters {
  bool known = false;
  uint64_t receiver_not_ready = 0;  // NAKs received for want of a receive
  uint64_t retransmits = 0;         // packets sent again
  uint64_t timeouts = 0;            // acknowledgements that did not come in time
  uint64_t packets_sent = 0;
  uint64_t packets_received = 0;
  // urxe only.
  uint64_t local_operations = 0;  // carried out without packets, within the host
  uint64_t bytes_copied = 0;      // by processors of this host: through sockets, and into place
};

class Transport {
 public:
  virtual ~Transport() = default;

  // "tcp" or "rdma".
  virtual std::string name() const = 0;
  // Interface or device in use, with the reason it was chosen; one line for the user.
  virtual std::string description() const = 0;

  // Makes `bytes` known. It must outlive the region. `access` says what peers may do with it.
  virtual absl::StatusOr<Region> Register(Bytes bytes, Access access) = 0;
  // Page-aligned, zeroed, registered memory that lives as long as the region.
  virtual absl::StatusOr<Region> Allocate(size_t bytes, Access access) = 0;

  // The link to `peer`, opened when first needed. Both ends must call it, and each may block until
  // the other does: ranks that open several must do so in an order without a cycle.
  virtual absl::StatusOr<Link*> OpenLink(int peer, Deadline deadline) = 0;

  // Makes this end of a link to a peer that the caller finds by itself. `peer` is a label that
  // Link::peer() returns; several links may have the same. `who` describes the peer in messages.
  virtual absl::StatusOr<std::unique_ptr<LinkEnd>> PrepareLink(int peer, std::string who,
                                                               const LinkOptions& options) = 0;
  // Connects it with what the peer's PrepareLink gave. The accepting end goes first and does not
  // block; it must not write before the first arrival from the peer, since a write that is posted
  // earlier may be refused or lost. The connecting end may block until `deadline` and may write as
  // soon as this returns. Facts that do not fit are an error which names the peer.
  virtual absl::StatusOr<Link*> FinishLink(std::unique_ptr<LinkEnd> end,
                                           const ConnectionFacts& theirs, Role role,
                                           Deadline deadline) = 0;
  // Ends a link, however it was opened, and frees it: no completion names it any more, the peer
  // cannot write into our memory over it, and the pointer is dead. Never call it while completions
  // of the link that Poll or Wait returned are still to be looked at. What was written may not
  // arrive unless written() covers it after Settle(). The peer sees kClosed, over RDMA possibly not
  // before its next write. Takes about a millisecond at most, for a peer that does not answer.
  virtual void CloseLink(Link* link) = 0;

  // Puts posted writes on their way without looking for completions.
  virtual absl::Status Flush() = 0;
  // Fills `out` with what has finished, without blocking; returns how many.
  virtual absl::StatusOr<int> Poll(std::span<Completion> out) = 0;
  // As Poll, but blocks until something finished or Wake() was called; 0 only for the latter.
  // DeadlineExceeded at `deadline`; Aborted as soon as the world has failed or wants a diagnosis.
  virtual absl::StatusOr<int> Wait(std::span<Completion> out, Deadline deadline) = 0;
  // From any thread: makes the Wait that blocks, or else the next one, return without a completion.
  virtual void Wake() = 0;

  virtual TransportCounters counters() const = 0;
  // May be some milliseconds old where asking costs a system call.
  virtual DeviceCounters device_counters() const { return {}; }
};

// The transport that `settings` ask for. `name` tells several transports of one world apart; all
// ranks must create the same ones in the same order.
absl::StatusOr<std::unique_ptr<Transport>> CreateTransport(World& world, const Settings& settings,
                                                           std::string_view name);

}  // namespace gradwire
