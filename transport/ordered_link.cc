#include "transport/ordered_link.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "transport/telemetry/span.h"

namespace gradwire {
namespace {
constexpr size_t kMaxSlotBytes = size_t{1} << 30;
}  // namespace

absl::Status CheckOptions(const LinkOptions& options) {
  if (options.window < 1 || options.window > Immediate::kMaxWindow || options.slot_bytes < 1 ||
      options.slot_bytes > kMaxSlotBytes) {
    return InvalidArgument("a link has 1 to {} slots of 1 to {} bytes, not {} of {}",
                           Immediate::kMaxWindow, kMaxSlotBytes, options.window,
                           options.slot_bytes);
  }
  return absl::OkStatus();
}

absl::Status CheckShape(const ConnectionFacts& theirs, const ConnectionFacts& mine,
                        std::string_view who) {
  if (theirs.window == mine.window && theirs.slot_bytes == mine.slot_bytes &&
      theirs.lanes == mine.lanes) {
    return absl::OkStatus();
  }
  return InvalidArgument(
      "{} has --slots {} --slice-bytes {} --lanes {}, this end has {}, {} and {}; give both the "
      "same",
      who, theirs.window, theirs.slot_bytes, theirs.lanes, mine.window, mine.slot_bytes,
      mine.lanes);
}

OrderedLink::OrderedLink(int peer, std::string who, const LinkOptions& options, Region slots,
                         TransportCounters& counters, WorkQueue<OrderedLink>& due)
    : who_(std::move(who)),
      slot_region_(std::move(slots)),
      counters_(counters),
      arrivals_(static_cast<size_t>(options.window)),
      due_queue_(due) {
  peer_ = peer;
  window_ = options.window;
  credits_ = options.window;
  slots_ = slot_region_.bytes();
  slot_bytes_ = options.slot_bytes;
}

absl::Status OrderedLink::SetPeerSlots(const MemoryGrant& slots_at_peer) {
  if (slots_at_peer.length != slot_region_.size()) {
    return ProtocolError("{} grants {} bytes of slots, {} were agreed", who_, slots_at_peer.length,
                         slot_region_.size());
  }
  if (slots_at_peer_.length != 0 &&
      std::memcmp(&slots_at_peer_, &slots_at_peer, sizeof(slots_at_peer)) != 0) {
    return ProtocolError("{} grants other slots on another lane", who_);
  }
  slots_at_peer_ = slots_at_peer;
  return absl::OkStatus();
}

absl::StatusOr<Immediate> OrderedLink::BeginWrite(const RegionSpan& from, const RemoteSpan& to,
                                                  uint32_t tag) {
  if (closed()) return status_;
  if (from.length != to.length || from.length > slot_bytes_ || tag > Immediate::kMaxTag) {
    return InvalidArgument("write of {} bytes with tag {} to {} bytes; at most {} and tag {}",
                           from.length, tag, to.length, slot_bytes_, Immediate::kMaxTag);
  }
  if (credits_ == 0) {
    return MakeError(absl::StatusCode::kResourceExhausted, "no credit for a write to {}", who_);
  }
  --credits_;
  ++counters_.writes;
  counters_.bytes_sent += from.length;
  telemetry::Mark(telemetry::Kind::kWrite, peer_, next_sequence_, from.length);
  return Immediate::Unchecked(tag, next_sequence_++, GiveOwed());
}

uint32_t OrderedLink::GiveOwed() {
  const auto credits = static_cast<uint32_t>(std::exchange(owed_, 0));
  if (credits > 0) telemetry::Mark(telemetry::Kind::kCreditsGiven, peer_, credits);
  return credits;
}

absl::StatusOr<uint32_t> OrderedLink::GiveBack(int count) {
  if (count < 0 || released_ + static_cast<uint64_t>(count) > delivered_) {
    return InvalidArgument("release of {} arrivals, {} are held", count, delivered_ - released_);
  }
  released_ += static_cast<uint64_t>(count);
  owed_ += count;
  if (owed_ < std::max(1, window_ / 2) || closed()) return uint32_t{0};
  ++counters_.credit_messages;
  return GiveOwed();
}

absl::Status OrderedLink::Accept(Immediate immediate, uint32_t length) {
  const int granted = static_cast<int>(immediate.credits());
  if (granted > window_ - credits_) {
    return ProtocolError("{} credits granted, {} were due", granted, window_ - credits_);
  }
  if (length > slot_bytes_) {
    return ProtocolError("a write of {} bytes came, {} is the most", length, slot_bytes_);
  }
  if (granted > 0) {
    credits_ += granted;
    telemetry::Mark(telemetry::Kind::kCreditsTaken, peer_, static_cast<uint64_t>(granted));
    credits_grew_ = true;
    MarkDue();
  }
  if (immediate.tag() == Immediate::kCreditTag) {
    if (length > 0) return ProtocolError("a credit message came with {} bytes", length);
    return absl::OkStatus();
  }
  const uint32_t ahead = immediate.SequenceAhead(delivered_);
  const uint64_t sequence = delivered_ + ahead;
  if (sequence >= released_ + static_cast<uint64_t>(window_) || arrival(sequence).present) {
    return ProtocolError("write {} came without a credit", immediate.sequence());
  }
  arrival(sequence) = {true, immediate.tag(), length};
  if (ahead == 0) MarkDue();
  ++counters_.arrivals;
  counters_.bytes_received += length;
  telemetry::Mark(telemetry::Kind::kArrived, peer_, sequence, length);
  return absl::OkStatus();
}

void OrderedLink::SetWritten(uint64_t written) {
  written_ = written;
  if (written_ != written_told_) MarkDue();
}

int OrderedLink::Deliver(std::span<Completion> out) {
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
  if (count == out.size()) MarkDue();  // perhaps more
  return static_cast<int>(count);
}

void OrderedLink::Close(absl::Status reason) {
  if (closed()) return;
  status_ = std::move(reason);
  MarkDue();
}

}  // namespace gradwire
