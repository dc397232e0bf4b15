// The data path: polling and waiting.
#include "transport/tcp/transport.h"

#include <sched.h>
#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>

namespace gradwire::tcp {
namespace {
// Up to this many sockets are asked one by one while spinning; above, epoll tells which are ready.
constexpr int kDirectLanes = 2;
}  // namespace

// A write starts when it is posted; what its socket did not take is tried again by polling.
absl::Status TcpTransport::Flush() { return absl::OkStatus(); }

int TcpTransport::Collect(std::span<Completion> out) {
  int count = 0;
  for (TcpLink* link : open_links_) {
    if (link->due()) count += link->Deliver(out.subspan(static_cast<size_t>(count)));
  }
  return count;
}

void TcpTransport::Progress(TcpLink& link, Lane& lane, int room) {
  if (lane.sending()) link.Send(lane);
  if (!link.closed()) link.Receive(lane, regions_, room);
  if (!link.closed()) return;
  // An ended connection is readable for ever; epoll must not wake us for it.
  for (const auto& ended : link.lanes()) {
    epoll_ctl(data_epoll_.get(), EPOLL_CTL_DEL, ended->fd(), nullptr);
  }
}

absl::Status TcpTransport::ProgressReady(int room, int timeout_ms) {
  std::array<epoll_event, 16> events;
  ++counters_.syscalls;
  const int ready =
      epoll_wait(data_epoll_.get(), events.data(), static_cast<int>(events.size()), timeout_ms);
  if (ready < 0 && errno != EINTR) return ErrnoError(errno, "epoll_wait");
  for (int i = 0; i < ready; ++i) {
    auto* source = static_cast<Source*>(events[static_cast<size_t>(i)].data.ptr);
    if (source == nullptr) {
      GW_RETURN_IF_ERROR(ServiceControl(0));
    } else {
      Progress(*source->link, *source->link->lanes()[static_cast<size_t>(source->lane)], room);
    }
  }
  return absl::OkStatus();
}

void TcpTransport::ProgressKnown(int room) {
  for (TcpLink* link : open_links_) {
    for (const auto& lane : link->lanes()) {
      if (lane->staged() && !link->closed()) {
        Progress(*link, *lane, room);
      } else if (lane->sending()) {
        link->Send(*lane);
      }
    }
  }
}

absl::StatusOr<int> TcpTransport::Poll(std::span<Completion> out) {
  if (const int count = Collect(out); count > 0) return count;
  const int room = static_cast<int>(out.size());
  if (open_lanes_ <= kDirectLanes) {
    for (TcpLink* link : open_links_) {
      for (const auto& lane : link->lanes()) {
        if (!link->closed()) Progress(*link, *lane, room);
      }
    }
  } else {
    ProgressKnown(room);
    GW_RETURN_IF_ERROR(ProgressReady(room, 0));
  }
  return Collect(out);
}

absl::StatusOr<int> TcpTransport::Wait(std::span<Completion> out, Deadline deadline) {
  const int room = static_cast<int>(out.size());
  if (spin_.count() > 0) {
    const Deadline until = std::min(deadline, Clock::now() + spin_);
    do {
      GW_ASSIGN_OR_RETURN(const int count, Poll(out));
      if (count > 0) return count;
      if (yield_) sched_yield();
    } while (Clock::now() < until);
  }
  while (true) {
    // What needs no news first; then sleep until there are some.
    ProgressKnown(room);
    if (const int count = Collect(out); count > 0) return count;
    const Deadline now = Clock::now();
    if (now >= deadline) return DeadlineExceeded("nothing arrived in time");
    ArmForSending();
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - now).count();
    ++counters_.blocks;
    GW_RETURN_IF_ERROR(
        ProgressReady(room, static_cast<int>(std::clamp<int64_t>(left, 0, 1'000'000))));
  }
}

void TcpTransport::ArmForSending() {
  for (TcpLink* link : open_links_) {
    if (link->closed()) continue;
    for (const auto& lane : link->lanes()) {
      if (lane->sending() == lane->armed_for_sending) continue;
      lane->armed_for_sending = lane->sending();
      epoll_event event = {};
      event.events = EPOLLIN | (lane->armed_for_sending ? EPOLLOUT : 0u);
      event.data.ptr = lane->source;
      ++counters_.syscalls;
      epoll_ctl(data_epoll_.get(), EPOLL_CTL_MOD, lane->fd(), &event);
    }
  }
}

}  // namespace gradwire::tcp
