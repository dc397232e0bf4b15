#include "bench/write_end.h"

#include <algorithm>
#include <chrono>
#include <cstring>

namespace gradwire::bench {
namespace {

std::byte PatternAt(size_t offset, size_t bytes) {
  return static_cast<std::byte>(offset * 131 + offset / 4099 + bytes + 1);
}

}  // namespace

absl::Status WriteEnd::Open(int peer, size_t largest) {
  GW_ASSIGN_OR_RETURN(link_, transport_.OpenLink(peer, Clock::now() + timeout_));
  GW_ASSIGN_OR_RETURN(source_, transport_.Allocate(std::max<size_t>(largest, 1), Access::kLocal));
  GW_ASSIGN_OR_RETURN(target_,
                      transport_.Allocate(std::max<size_t>(largest, 1), Access::kRemoteWrite));
  GW_ASSIGN_OR_RETURN(message_, transport_.Allocate(sizeof(MemoryGrant), Access::kLocal));
  std::memcpy(message_.bytes().data(), &target_.grant(), sizeof(MemoryGrant));
  deadline_ = Clock::now() + timeout_;
  GW_RETURN_IF_ERROR(Say(kGrant, sizeof(MemoryGrant)));
  while (!granted_) GW_RETURN_IF_ERROR(Progress());
  return absl::OkStatus();
}

absl::StatusOr<double> WriteEnd::Stream(size_t bytes, int64_t messages) {
  GW_RETURN_IF_ERROR(Begin(bytes, messages, receives_));
  to_send_ = sends_ ? static_cast<uint64_t>(messages) * pieces_ : 0;
  they_have_all_ = !sends_;
  bool told = !receives_;

  const Clock::time_point start = Clock::now();
  while (!they_have_all_ || !told) {
    GW_RETURN_IF_ERROR(Send());
    if (!told && received_ == to_receive_) {
      GW_RETURN_IF_ERROR(Say(kEverythingCame, 0));
      told = true;
    } else {
      GW_RETURN_IF_ERROR(Progress());
    }
  }
  return std::chrono::duration<double>(Clock::now() - start).count();
}

absl::Status WriteEnd::PingPong(size_t bytes, bool begins, std::span<double> round_trips) {
  GW_RETURN_IF_ERROR(Begin(bytes, static_cast<int64_t>(round_trips.size()), true));
  for (double& round_trip : round_trips) {
    const Clock::time_point start = Clock::now();
    deadline_ = start + timeout_;
    if (begins) GW_RETURN_IF_ERROR(SendMessage());
    GW_RETURN_IF_ERROR(ReceiveMessage());
    if (!begins) GW_RETURN_IF_ERROR(SendMessage());
    round_trip = std::chrono::duration<double>(Clock::now() - start).count();
  }
  return absl::OkStatus();
}

void WriteEnd::Fill(size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) source_.bytes()[i] = PatternAt(i, bytes);
  std::memset(target_.bytes().data(), 0, bytes);
}

int64_t WriteEnd::CountWrong(size_t bytes) const {
  int64_t wrong = 0;
  for (size_t i = 0; receives_ && i < bytes; ++i) {
    wrong += target_.bytes()[i] != PatternAt(i, bytes) ? 1 : 0;
  }
  return wrong;
}

absl::Status WriteEnd::Begin(size_t bytes, int64_t messages, bool receives) {
  bytes_ = bytes;
  pieces_ = std::max<size_t>(1, (bytes + slice_ - 1) / slice_);
  sent_ = to_send_ = received_ = wanted_ = 0;
  to_receive_ = receives ? static_cast<uint64_t>(messages) * pieces_ : 0;
  deadline_ = Clock::now() + timeout_;
  GW_RETURN_IF_ERROR(Say(kReady, 0));
  // The peer may write as soon as it has read this; its first data may come with its own readiness.
  while (!ready_) GW_RETURN_IF_ERROR(Progress());
  ready_ = false;
  return absl::OkStatus();
}

absl::Status WriteEnd::Send() {
  const bool any = sent_ < to_send_ && link_->credits() > 0;
  while (sent_ < to_send_ && link_->credits() > 0) {
    const size_t offset = static_cast<size_t>(sent_ % pieces_) * slice_;
    const size_t length = std::min(slice_, bytes_ - offset);
    GW_ASSIGN_OR_RETURN(const RegionSpan from, source_.Span(offset, length));
    GW_ASSIGN_OR_RETURN(const RemoteSpan to, place_.Span(offset, length));
    GW_RETURN_IF_ERROR(link_->Write(from, to, kData));
    ++sent_;
  }
  return any ? transport_.Flush() : absl::OkStatus();
}

absl::Status WriteEnd::SendMessage() {
  to_send_ += pieces_;
  GW_RETURN_IF_ERROR(Send());
  while (sent_ < to_send_) {  // more slices than credits
    GW_RETURN_IF_ERROR(Progress());
    GW_RETURN_IF_ERROR(Send());
  }
  return absl::OkStatus();
}

absl::Status WriteEnd::ReceiveMessage() {
  wanted_ += pieces_;
  while (received_ < wanted_) GW_RETURN_IF_ERROR(Progress());
  return absl::OkStatus();
}

// A message of our own, to the peer's next slot.
absl::Status WriteEnd::Say(Tag tag, size_t length) {
  while (link_->credits() == 0) GW_RETURN_IF_ERROR(Progress());
  GW_ASSIGN_OR_RETURN(const RegionSpan from, message_.Span(0, length));
  GW_RETURN_IF_ERROR(link_->Write(from, link_->NextSlot(length), tag));
  GW_RETURN_IF_ERROR(link_->Settle());
  return transport_.Flush();
}

absl::Status WriteEnd::Progress() {
  GW_ASSIGN_OR_RETURN(const int count, transport_.Wait(completions_, deadline_));
  for (int i = 0; i < count; ++i) {
    const Completion& completion = completions_[static_cast<size_t>(i)];
    if (completion.kind == Completion::Kind::kClosed) return link_->status();
    if (completion.kind == Completion::Kind::kArrived) GW_RETURN_IF_ERROR(Take(completion));
  }
  return absl::OkStatus();
}

absl::Status WriteEnd::Take(const Completion& arrival) {
  switch (arrival.tag) {
    case kData: {
      const size_t offset = static_cast<size_t>(received_ % pieces_) * slice_;
      if (received_ >= to_receive_ || arrival.length != std::min(slice_, bytes_ - offset)) {
        return ProtocolError("a write of {} bytes came that was not expected", arrival.length);
      }
      ++received_;
      break;
    }
    case kEverythingCame:
      they_have_all_ = true;
      break;
    case kReady:
      ready_ = true;
      break;
    case kGrant: {
      MemoryGrant grant;
      if (arrival.length != sizeof(grant)) return ProtocolError("a grant has a wrong length");
      std::memcpy(&grant, link_->Slot(arrival).data(), sizeof(grant));
      place_ = RemoteRegion(grant);
      granted_ = true;
      break;
    }
    default:
      return ProtocolError("a write with tag {} came", arrival.tag);
  }
  return link_->Release(1);
}

}  // namespace gradwire::bench
