#include "transport/tcp/link.h"

#include <algorithm>
#include <utility>

namespace gradwire::tcp {
namespace {
// A write of this size is worth handing to the algorithm at once, while it is in the cache.
constexpr uint32_t kLargeWrite = 16 << 10;
}  // namespace

TcpLink::TcpLink(int peer, std::string who, int window, int lanes, Region slots,
                 TransportCounters& counters)
    : who_(std::move(who)),
      slot_region_(std::move(slots)),
      counters_(counters),
      lanes_(static_cast<size_t>(lanes)),
      arrivals_(static_cast<size_t>(window)) {
  peer_ = peer;
  window_ = window;
  credits_ = window;
  slots_ = slot_region_.bytes();
  slot_bytes_ = slot_region_.size() / static_cast<size_t>(window);
}

absl::Status TcpLink::AddLane(int lane, FileDescriptor fd, const MemoryGrant& slots_at_peer) {
  if (slots_at_peer.length != slot_region_.size()) {
    return ProtocolError("{} grants {} bytes of slots, {} were agreed", who_, slots_at_peer.length,
                         slot_region_.size());
  }
  slots_at_peer_ = slots_at_peer;
  // Data frames are bounded by credits; credit frames by the window as well, since the peer must
  // have written what they release.
  lanes_[static_cast<size_t>(lane)] =
      std::make_unique<Lane>(std::move(fd), slot_bytes_, 2 * window_ + 2);
  ++open_lanes_;
  return absl::OkStatus();
}

absl::Status TcpLink::Write(const RegionSpan& from, const RemoteSpan& to, uint32_t tag) {
  if (closed()) return status_;
  if (from.length != to.length || from.length > slot_bytes_ || tag > Immediate::kMaxTag) {
    return InvalidArgument("write of {} bytes with tag {} to {} bytes; at most {} and tag {}",
                           from.length, tag, to.length, slot_bytes_, Immediate::kMaxTag);
  }
  if (credits_ == 0) {
    return MakeError(absl::StatusCode::kResourceExhausted, "no credit for a write to {}", who_);
  }
  --credits_;
  const auto granted = static_cast<uint32_t>(std::exchange(owed_, 0));
  FrameHeader header;
  header.immediate = Immediate::Unchecked(tag, next_sequence_, granted);
  header.key = to.key;
  header.length = static_cast<uint32_t>(from.length);
  header.address = to.address;
  Lane& lane = *lanes_[static_cast<size_t>(next_sequence_ % lanes_.size())];
  const bool idle = !lane.sending();
  lane.Enqueue(header, from.data, next_sequence_);
  ++next_sequence_;
  ++counters_.writes;
  counters_.bytes_sent += from.length;
  if (idle) Send(lane);
  return absl::OkStatus();
}

absl::Status TcpLink::Release(int count) {
  if (count < 0 || released_ + static_cast<uint64_t>(count) > delivered_) {
    return InvalidArgument("release of {} arrivals, {} are held", count, delivered_ - released_);
  }
  released_ += static_cast<uint64_t>(count);
  owed_ += count;
  if (owed_ < std::max(1, window_ / 2) || closed()) return absl::OkStatus();
  FrameHeader header;
  header.immediate = Immediate::CreditsOnly(static_cast<uint32_t>(std::exchange(owed_, 0)));
  Lane& lane = *lanes_.front();
  const bool idle = !lane.sending();
  lane.Enqueue(header, nullptr, 0);
  ++counters_.credit_messages;
  if (idle) Send(lane);
  return absl::OkStatus();
}

void TcpLink::Send(Lane& lane) {
  if (closed()) return;
  if (absl::Status sent = lane.Send(counters_.syscalls); !sent.ok()) {
    Close(Annotate(sent, who_));
    return;
  }
  UpdateWritten();
}

void TcpLink::UpdateWritten() {
  uint64_t oldest = next_sequence_;
  for (const auto& lane : lanes_) {
    if (const auto sequence = lane->oldest_unsent()) oldest = std::min(oldest, *sequence);
  }
  written_ = oldest;
  if (written_ != written_told_) due_ = true;
}

void TcpLink::Receive(Lane& lane, RegionTable& regions, int room) {
  while (!closed() && room-- > 0) {
    FrameHeader header;
    const auto received = lane.Receive(regions, header, counters_.syscalls);
    if (!received.ok()) return Close(Annotate(received.status(), who_));
    if (*received == Lane::Received::kNothing) return;
    if (*received == Lane::Received::kEnd) {
      return Close(Unavailable("{} closed its connection", who_));
    }
    if (absl::Status accepted = Accept(header); !accepted.ok()) {
      return Close(Annotate(accepted, who_));
    }
    if (header.length >= kLargeWrite) return;
  }
}

absl::Status TcpLink::Accept(const FrameHeader& header) {
  const int granted = static_cast<int>(header.immediate.credits());
  if (granted > window_ - credits_) {
    return ProtocolError("{} credits granted, {} were due", granted, window_ - credits_);
  }
  if (granted > 0) {
    credits_ += granted;
    credits_grew_ = due_ = true;
  }
  if (header.credits_only()) return absl::OkStatus();

  const uint32_t ahead = header.immediate.SequenceAhead(delivered_);
  const uint64_t sequence = delivered_ + ahead;
  if (sequence >= released_ + static_cast<uint64_t>(window_) || arrival(sequence).present) {
    return ProtocolError("write {} came without a credit", header.immediate.sequence());
  }
  arrival(sequence) = {true, header.immediate.tag(), header.length};
  if (ahead == 0) due_ = true;
  ++counters_.arrivals;
  counters_.bytes_received += header.length;
  return absl::OkStatus();
}

int TcpLink::Deliver(std::span<Completion> out) {
  size_t count = 0;
  while (count < out.size() && arrival(delivered_).present) {
    Arrival& next = arrival(delivered_);
    out[count++] = {Completion::Kind::kArrived, next.tag, next.length, delivered_, this};
    next.present = false;
    ++delivered_;
  }
  if (count < out.size() && written_ != written_told_) {
    written_told_ = written_;
    out[count++] = {Completion::Kind::kWritten, 0, 0, written_ - 1, this};
  }
  if (count < out.size() && std::exchange(credits_grew_, false)) {
    out[count++] = {Completion::Kind::kCredits, 0, 0, 0, this};
  }
  if (count < out.size() && closed() && !std::exchange(closed_told_, true)) {
    out[count++] = {Completion::Kind::kClosed, 0, 0, 0, this};
  }
  due_ = count == out.size();  // perhaps more
  return static_cast<int>(count);
}

void TcpLink::Close(absl::Status reason) {
  if (closed()) return;
  status_ = std::move(reason);
  due_ = true;
}

}  // namespace gradwire::tcp
