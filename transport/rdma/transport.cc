// The data path: polling and waiting.
#include "transport/rdma/transport.h"

#include <poll.h>
#include <sched.h>

#include <algorithm>
#include <cerrno>

#include "transport/rdma/advice.h"
#include "transport/telemetry/span.h"
#include "transport/urxe/urxe.h"

namespace gradwire::rdma {
namespace {
// While polling, what happens beside the data is looked for so often; it costs a system call.
constexpr std::chrono::milliseconds kEventInterval{1};
}  // namespace

DeviceCounters RdmaTransport::device_counters() const {
  if (hw_counters_) return hw_counters_->Read();
  urxe_counters urxe;
  if (urxe_read_counters(&urxe, sizeof(urxe)) != 0) return {};
  return {
      .known = true,
      .receiver_not_ready = urxe.rnr_naks_received,
      .retransmits = urxe.retransmits,
      .timeouts = urxe.timeouts,
      .packets_sent = urxe.packets_sent,
      .packets_received = urxe.packets_received,
      .local_operations = urxe.local_operations,
      .bytes_copied = urxe.bytes_sent + urxe.bytes_received + urxe.placed_bytes + urxe.local_bytes};
}

absl::Status RdmaTransport::Flush() {
  while (RdmaLink* const link = queues_.unposted.Pop()) link->Post();
  return error_;
}

int RdmaTransport::Collect(std::span<Completion> out) {
  size_t count = 0;
  while (count < out.size()) {
    OrderedLink* const link = queues_.due.Pop();
    if (link == nullptr) break;
    count += static_cast<size_t>(link->Deliver(out.subspan(count)));
  }
  return static_cast<int>(count);
}

absl::StatusOr<int> RdmaTransport::TakeCompletions() {
  GW_ASSIGN_OR_RETURN(const int count, completions_->Poll(batch_));
  for (int i = 0; i < count; ++i) {
    const ibv_wc& completion = batch_[static_cast<size_t>(i)];
    const auto place = places_.find(completion.qp_num);
    if (place != places_.end()) {
      place->second.link->Complete(*place->second.lane, completion);
      continue;
    }
    // Of a link that was closed; a shared receive is missed by the others.
    if (!shared_receives_ || !Receives::Completed(completion)) continue;
    if (const int error = shared_receives_->Consumed(completion); error != 0) {
      return VerbsError(error, Verb::kPost, "post shared receives");
    }
  }
  // Completions made room in send queues.
  if (count > 0) GW_RETURN_IF_ERROR(Flush());
  return count;
}

absl::StatusOr<int> RdmaTransport::Poll(std::span<Completion> out) {
  GW_RETURN_IF_ERROR(Flush());
  if (const int count = Collect(out); count > 0) return count;
  while (true) {
    const auto taken = TakeCompletions();
    if (!taken.ok()) {
      Fail(taken.status());
      return taken.status();
    }
    if (const int count = Collect(out); count > 0) return count;
    // Of several lanes a whole batch may be early: what is due stands behind it in the queue, and
    // raises no event for who arms only now.
    if (*taken < static_cast<int>(batch_.size())) return 0;
  }
}

absl::StatusOr<int> RdmaTransport::Wait(std::span<Completion> out, Deadline deadline) {
  if (mode_ != Mode::kChannel) {
    const Deadline start = Clock::now();
    const Deadline until = mode_ == Mode::kPolling ? deadline : std::min(deadline, start + spin_);
    Deadline look = start + kEventInterval;
    for (Deadline now = start;;) {
      GW_ASSIGN_OR_RETURN(const int count, Poll(out));
      if (count > 0) return count;
      if (waker_.Take()) return 0;
      if (yield_) sched_yield();
      now = Clock::now();
      if (now >= look) {
        GW_RETURN_IF_ERROR(CheckEvents());
        look = now + kEventInterval;
      }
      if (now >= until) break;
    }
  }
  while (true) {
    GW_ASSIGN_OR_RETURN(const int early, Poll(out));
    if (early > 0) return early;
    if (waker_.Take()) return 0;
    if (Clock::now() >= deadline) return DeadlineExceeded("nothing arrived in time");
    if (!armed_) {
      GW_RETURN_IF_ERROR(completions_->Arm());
      armed_ = true;
      // What completed before raises no event.
      continue;
    }
    GW_RETURN_IF_ERROR(Block(deadline));
  }
}

absl::Status RdmaTransport::Block(Deadline deadline) {
  std::array<pollfd, 4> sources = {pollfd{completions_->fd(), POLLIN, 0},
                                   pollfd{world_.failure_fd(), POLLIN, 0},
                                   pollfd{device_->async_fd(), POLLIN, 0},
                                   pollfd{waker_.fd(), POLLIN, 0}};  // who waits takes it
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
  ++counters_.blocks;
  ++counters_.syscalls;
  int ready = 0;
  {
    const telemetry::Span span(telemetry::Kind::kBlock);
    ready = poll(sources.data(), sources.size(),
                 static_cast<int>(std::clamp<int64_t>(left, 0, 1'000'000)));
  }
  if (ready < 0 && errno != EINTR) return ErrnoError(errno, "poll");
  if (ready <= 0) return absl::OkStatus();
  if (sources[0].revents != 0) {
    ++counters_.syscalls;
    GW_ASSIGN_OR_RETURN(const int events, completions_->TakeEvents());
    if (events > 0) armed_ = false;
  }
  if (sources[1].revents != 0 || sources[2].revents != 0) return CheckEvents();
  return absl::OkStatus();
}

absl::Status RdmaTransport::CheckEvents() {
  std::array<pollfd, 2> sources = {pollfd{world_.failure_fd(), POLLIN, 0},
                                   pollfd{device_->async_fd(), POLLIN, 0}};
  ++counters_.syscalls;
  if (poll(sources.data(), sources.size(), 0) <= 0) return absl::OkStatus();
  if (sources[1].revents != 0) {
    while (true) {
      GW_ASSIGN_OR_RETURN(const auto event, device_->NextAsyncEvent());
      if (!event) break;
      absl::Status status = AsyncEventStatus(*event, port_.device);
      if (status.ok()) continue;
      if (event->qp_number != 0) {
        // The end of one link, which may be closed already.
        const auto place = places_.find(event->qp_number);
        if (place != places_.end()) place->second.link->Close(std::move(status));
      } else if (event->port == 0 || event->port == port_.port) {
        Fail(std::move(status));  // another port of the device is not ours to mind
      }
    }
    GW_RETURN_IF_ERROR(error_);
  }
  if (sources[0].revents != 0) {
    GW_RETURN_IF_ERROR(world_.failure());
    return absl::AbortedError("another rank asks what went wrong");
  }
  return absl::OkStatus();
}

void RdmaTransport::Fail(absl::Status reason) {
  if (!error_.ok()) return;
  error_ = std::move(reason);
  for (const auto& [key, link] : links_) link->Close(error_);
}

}  // namespace gradwire::rdma
