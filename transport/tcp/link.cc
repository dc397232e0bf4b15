#include "transport/tcp/link.h"

#include <algorithm>
#include <utility>

namespace gradwire::tcp {
namespace {
// A write of this size is worth handing to the algorithm at once, while it is in the cache.
constexpr uint32_t kLargeWrite = 16 << 10;
}  // namespace

TcpLink::TcpLink(uint64_t id, int peer, std::string who, const LinkOptions& options, int lanes,
                 Region slots, TransportCounters& counters, LinkQueues& queues)
    : OrderedLink(peer, std::move(who), options, std::move(slots), counters, queues.due),
      id_(id),
      lanes_(static_cast<size_t>(lanes)),
      busy_queue_(queues.busy) {}

void TcpLink::Expect(Role role, std::string key) {
  role_ = role;
  key_ = std::move(key);
}

absl::Status TcpLink::AddLane(int lane, FileDescriptor fd, const MemoryGrant& slots_at_peer) {
  GW_RETURN_IF_ERROR(SetPeerSlots(slots_at_peer));
  // Data frames are bounded by credits; credit frames by the window as well, since the peer must
  // have written what they release.
  auto& added = lanes_[static_cast<size_t>(lane)];
  added = std::make_unique<Lane>(std::move(fd), slot_bytes_, 2 * window_ + 2);
  added->link = this;
  ++open_lanes_;
  return absl::OkStatus();
}

absl::Status TcpLink::Write(const RegionSpan& from, const RemoteSpan& to, uint32_t tag) {
  if (!open() && !closed()) {
    return FailedPrecondition("{} has not connected yet: write after its first arrival", who_);
  }
  const uint64_t sequence = next_sequence_;
  FrameHeader header;
  GW_ASSIGN_OR_RETURN(header.immediate, BeginWrite(from, to, tag));
  if (!ending_.ok()) return absl::OkStatus();  // as one on its way then: kClosed follows
  header.key = to.key;
  header.length = static_cast<uint32_t>(from.length);
  header.address = to.address;
  Lane& lane = *lanes_[static_cast<size_t>(sequence % lanes_.size())];
  const bool idle = !lane.sending();
  lane.Enqueue(header, from.data, sequence);
  if (idle) Send(lane);
  QueueIfBusy();
  return absl::OkStatus();
}

absl::Status TcpLink::Release(int count) {
  GW_ASSIGN_OR_RETURN(const uint32_t credits, GiveBack(count));
  if (credits == 0 || !ending_.ok()) return absl::OkStatus();
  FrameHeader header;
  header.immediate = Immediate::CreditsOnly(credits);
  Lane& lane = *lanes_.front();
  const bool idle = !lane.sending();
  lane.Enqueue(header, nullptr, 0);
  if (idle) Send(lane);
  QueueIfBusy();
  return absl::OkStatus();
}

void TcpLink::Send(Lane& lane) {
  if (closed() || !ending_.ok()) return;
  if (absl::Status sent = lane.Send(counters_); !sent.ok()) return Break(Annotate(sent, who_));
  UpdateWritten();
}

void TcpLink::StopSending(absl::Status reason) {
  if (!ending_.ok()) return;
  ending_ = std::move(reason);
  for (const auto& lane : lanes_) lane->DropUnsent();
}

void TcpLink::Break(absl::Status reason) {
  StopSending(std::move(reason));
  for (const auto& lane : lanes_) lane->ShutDown();
}

void TcpLink::End(Lane& lane) {
  lane.ended = true;
  if (++ended_lanes_ == open_lanes_) Close(ending_);
}

void TcpLink::QueueIfBusy() {
  if (closed()) return;
  for (const auto& lane : lanes_) {
    if (lane->sending() || lane->staged() || lane->armed_for_sending) {
      return busy_queue_.Push(busy_entry_);
    }
  }
}

void TcpLink::UpdateWritten() {
  uint64_t oldest = next_sequence_;
  for (const auto& lane : lanes_) {
    if (const auto sequence = lane->oldest_unsent()) oldest = std::min(oldest, *sequence);
  }
  SetWritten(oldest);
}

void TcpLink::Receive(Lane& lane, RegionTable& regions, int room) {
  while (!closed() && room-- > 0) {
    FrameHeader header;
    const auto received = lane.Receive(regions, header, counters_);
    if (!received.ok()) {
      absl::Status reason = Annotate(received.status(), who_);
      if (!absl::IsUnavailable(reason)) return Close(std::move(reason));  // not to be trusted
      Break(std::move(reason));
      return End(lane);
    }
    if (*received == Lane::Received::kNothing) return;
    if (*received == Lane::Received::kEnd) {
      StopSending(Unavailable("{} closed its connection", who_));
      return End(lane);
    }
    // Bounds what can wait to be sent on a lane; what the kernel does not have yet, nobody
    // consumed.
    const auto unsent = static_cast<int>(next_sequence_ - written_);
    const auto granted = static_cast<int>(header.immediate.credits());
    if (granted > window_ - credits_ - unsent) {
      return Close(ProtocolError("{} returns {} credits of {} writes that were sent", who_, granted,
                                 window_ - credits_ - unsent));
    }
    if (absl::Status accepted = Accept(header.immediate, header.length); !accepted.ok()) {
      return Close(Annotate(accepted, who_));
    }
    if (header.length >= kLargeWrite) return;
  }
}

}  // namespace gradwire::tcp
