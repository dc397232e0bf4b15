#include "parameter_server/shard_link.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace gradwire::ps {

void ShardLink::Ask(Request request, Answered answered) {
  request.number = ++last_number_;
  queue_.push_back({.request = request, .answered = std::move(answered)});
}

uint32_t ShardLink::SlicesToSend(const Request& request) const {
  const bool gradients = request.op == Op::kPush || request.op == Op::kPushPull;
  return request.op == Op::kAssign || (gradients && !memory_.in_place) ? request.count : 0;
}

absl::Status ShardLink::Pump() {
  const size_t size = SizeOf(memory_.wire);
  const uint64_t before = link_->next_sequence();
  while (unsent_ < queue_.size() && link_->credits() > 0) {
    Asked& next = queue_[unsent_];
    if (!next.sent) {
      if (messages_.empty()) break;
      const int buffer = messages_.Take();
      std::memcpy(messages_.bytes(buffer).data(), &next.request, sizeof(Request));
      GW_RETURN_IF_ERROR(
          writes_.Write(*link_, messages_, buffer, link_->NextSlot(sizeof(Request)), kRequestTag));
      next.sent = true;
    } else if (next.slices_sent < SlicesToSend(next.request)) {
      const uint32_t number = next.request.first + next.slices_sent;
      const Slice& slice = slices_[number];
      const size_t length = static_cast<size_t>(slice.count) * size;
      GW_ASSIGN_OR_RETURN(
          const RegionSpan from,
          memory_.gradients->Span(memory_.base + static_cast<size_t>(slice.begin) * size, length));
      GW_RETURN_IF_ERROR(link_->Write(from, link_->NextSlot(length), number));
      bytes_pushed_ += length;
      ++next.slices_sent;
    }
    if (next.sent && next.slices_sent == SlicesToSend(next.request)) ++unsent_;
  }
  // Buffers come back, and gradients may change, only when the transport says what was sent.
  return link_->next_sequence() == before ? absl::OkStatus() : link_->Settle();
}

absl::Status ShardLink::Handle(const Completion& completion) {
  switch (completion.kind) {
    case Completion::Kind::kWritten:
      writes_.Reclaim(*link_);
      return absl::OkStatus();
    case Completion::Kind::kCredits:
      return absl::OkStatus();
    case Completion::Kind::kClosed:
      return link_->status();
    case Completion::Kind::kArrived:
      break;
  }
  if (queue_.empty()) {
    return ProtocolError("shard sent tag {} though nothing was asked", completion.tag);
  }
  Asked& asked = queue_.front();
  if (completion.tag == kReplyTag) {
    const ConstBytes bytes = link_->Slot(completion);
    Reply reply;
    if (bytes.size() != offsetof(Reply, text) && bytes.size() != sizeof(Reply)) {
      return ProtocolError("shard sent a reply of {} bytes", bytes.size());
    }
    std::memcpy(static_cast<void*>(&reply), bytes.data(), bytes.size());
    GW_RETURN_IF_ERROR(link_->Release(1));
    if (reply.byte_order != kByteOrder || reply.number != asked.request.number || unsent_ == 0) {
      return ProtocolError("shard answered request {}, {} was next", reply.number,
                           asked.request.number);
    }
    const bool pulled = asked.request.op == Op::kPull || asked.request.op == Op::kPushPull;
    if (reply.code == 0 && pulled && asked.slices_received != asked.request.count) {
      return ProtocolError("shard sent {} of {} slices", asked.slices_received,
                           asked.request.count);
    }
    const Answered answered = std::move(asked.answered);
    queue_.pop_front();
    --unsent_;
    answered(reply);
    return absl::OkStatus();
  }
  const uint32_t due = asked.request.first + asked.slices_received;
  const bool pulls = asked.request.op == Op::kPull || asked.request.op == Op::kPushPull;
  if (!pulls || asked.slices_received == asked.request.count || completion.tag != due ||
      completion.length != static_cast<size_t>(slices_[due].count) * SizeOf(memory_.wire)) {
    return ProtocolError("shard sent {} bytes as slice {}, which was not due", completion.length,
                         completion.tag);
  }
  ++asked.slices_received;
  bytes_pulled_ += completion.length;
  return link_->Release(1);
}

}  // namespace gradwire::ps
