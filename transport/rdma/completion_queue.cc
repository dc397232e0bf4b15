#include "transport/rdma/completion_queue.h"

#include <fmt/format.h>

#include <cerrno>

#include "transport/rdma/advice.h"

namespace gradwire::rdma {

namespace {

// Events are acknowledged together once this many wait for it.
constexpr unsigned int kAcknowledgeBatch = 64;

}  // namespace

CompletionQueue& CompletionQueue::operator=(CompletionQueue&& other) noexcept {
  CompletionQueue moved(std::move(other));
  Swap(moved);
  return *this;
}

CompletionQueue::~CompletionQueue() { Acknowledge(); }

void CompletionQueue::Swap(CompletionQueue& other) noexcept {
  std::swap(channel_, other.channel_);
  std::swap(handle_, other.handle_);
  std::swap(unacknowledged_, other.unacknowledged_);
}

void CompletionQueue::Acknowledge() {
  if (unacknowledged_ > 0) ibv_ack_cq_events(handle_.get(), unacknowledged_);
  unacknowledged_ = 0;
}

absl::StatusOr<int> CompletionQueue::Poll(std::span<ibv_wc> out) {
  const int taken = ibv_poll_cq(handle_.get(), static_cast<int>(out.size()), out.data());
  // Providers tell no more than that it failed: errno may be anything.
  if (taken < 0) return VerbsError(EIO, Verb::kPoll, "take completions");
  return taken;
}

absl::Status CompletionQueue::Arm() {
  const int error = ibv_req_notify_cq(handle_.get(), /*solicited_only=*/0);
  return error == 0 ? absl::OkStatus() : VerbsError(error, Verb::kPoll, "ask for an event");
}

absl::StatusOr<int> CompletionQueue::TakeEvents() {
  if (!channel_) return FailedPrecondition("completion queue: made without a channel");
  int taken = 0;
  for (;;) {
    ibv_cq* queue = nullptr;
    void* context = nullptr;
    if (ibv_get_cq_event(channel_.get(), &queue, &context) != 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK) return taken;
      return VerbsError(errno, Verb::kPoll, "take a completion event");
    }
    ++taken;
    if (++unacknowledged_ == kAcknowledgeBatch) Acknowledge();
  }
}

absl::Status CompletionQueue::Resize(int entries) {
  const int error = ibv_resize_cq(handle_.get(), entries);
  if (error == 0) return absl::OkStatus();
  return VerbsError(
      error, Verb::kCreate,
      fmt::format("resize a completion queue from {} to {} entries", this->entries(), entries));
}

}  // namespace gradwire::rdma
