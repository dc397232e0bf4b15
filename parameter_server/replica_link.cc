#include "parameter_server/replica_link.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <utility>

namespace gradwire::ps {

ReplicaLink::~ReplicaLink() {
  if (link_ != nullptr) transport_.CloseLink(link_);
}

absl::Status ReplicaLink::Attach(const ConnectionFacts& theirs, Deadline deadline) {
  if (end_ == nullptr) return FailedPrecondition("the link to {} cannot be attached twice", who_);
  GW_ASSIGN_OR_RETURN(link_,
                      transport_.FinishLink(std::move(end_), theirs, Role::kConnect, deadline));
  return absl::OkStatus();
}

void ReplicaLink::Tell(const Request& request, std::span<const float> values) {
  Told& told = queue_.emplace_back();
  told.request = request;
  told.request.number = static_cast<uint32_t>(++told_);
  if (!values.empty() && !spare_.empty()) {
    told.values = std::move(spare_.back());
    spare_.pop_back();
  }
  told.values.assign(values.begin(), values.end());
}

void ReplicaLink::Pump() {
  if (link_ != nullptr && status_.ok()) status_ = Send();
}

absl::Status ReplicaLink::Send() {
  const uint64_t before = link_->next_sequence();
  while (!queue_.empty() && link_->credits() > 0) {
    Told& next = queue_.front();
    SendPool& pool = request_sent_ ? slices_ : messages_;
    if (pool.empty()) break;
    const int buffer = pool.Take();
    const ConstBytes bytes = request_sent_ ? std::as_bytes(std::span(next.values))
                                           : std::as_bytes(std::span(&next.request, 1));
    std::ranges::copy(bytes, pool.bytes(buffer).begin());
    GW_RETURN_IF_ERROR(writes_.Write(*link_, pool, buffer, link_->NextSlot(bytes.size()),
                                     request_sent_ ? next.request.first : kRequestTag));
    request_sent_ = !request_sent_ && next.request.count > 0;
    if (request_sent_) continue;
    if (next.request.count > 0) spare_.push_back(std::move(next.values));
    queue_.pop_front();
  }
  // Buffers come back only when the transport reports that they were sent.
  return link_->next_sequence() == before ? absl::OkStatus() : link_->Settle();
}

void ReplicaLink::Handle(const Completion& completion) {
  if (!status_.ok()) return;
  switch (completion.kind) {
    case Completion::Kind::kArrived:
      status_ = Take(completion);
      break;
    case Completion::Kind::kWritten:
      writes_.Reclaim(*link_);
      break;
    case Completion::Kind::kCredits:
      break;
    case Completion::Kind::kClosed:
      status_ = link_->status();
      break;
  }
}

absl::Status ReplicaLink::Take(const Completion& completion) {
  const ConstBytes bytes = link_->Slot(completion);
  Reply reply;
  if (completion.tag != kReplyTag || bytes.size() < offsetof(Reply, text) ||
      bytes.size() > sizeof(Reply)) {
    return ProtocolError("{} sent {} bytes with tag {}", who_, bytes.size(), completion.tag);
  }
  std::memcpy(static_cast<void*>(&reply), bytes.data(), bytes.size());
  GW_RETURN_IF_ERROR(link_->Release(1));
  const uint64_t sent = told_ - queue_.size();
  const uint32_t more = reply.number - static_cast<uint32_t>(acknowledged_);
  if (more == 0 || more > sent - acknowledged_) {
    return ProtocolError("{} acknowledged {} after {}; it was sent {}", who_, reply.number,
                         acknowledged_, sent);
  }
  GW_RETURN_IF_ERROR(reply.status());
  acknowledged_ += more;
  return absl::OkStatus();
}

}  // namespace gradwire::ps
