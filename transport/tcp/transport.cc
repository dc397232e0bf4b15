// The data path: polling and waiting.
#include "transport/tcp/transport.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>

#include "transport/telemetry/span.h"

namespace gradwire::tcp {
namespace {
// Up to this many sockets are asked one by one while spinning; above, epoll tells which are ready.
constexpr int kDirectLanes = 2;
// Then epoll, which also knows of connections and failures, is asked at every so many-th poll.
constexpr unsigned kPollsPerLook = 64;
// A message between two running ranks takes less; who waits longer lets others run.
constexpr std::chrono::microseconds kSpinAlone{20};
}  // namespace

DeviceCounters TcpTransport::device_counters() const {
  // A system call for each connection; what counts here, retransmissions, takes longer anyway.
  constexpr std::chrono::milliseconds kAge{1};
  const Deadline now = Clock::now();
  if (kernel_.known && now - kernel_read_ < kAge) return kernel_;
  kernel_read_ = now;
  kernel_ = {.known = true};
  for (const TcpLink* link : open_links_) {
    for (const auto& lane : link->lanes()) {
      tcp_info info = {};
      socklen_t length = sizeof(info);
      if (getsockopt(lane->fd(), IPPROTO_TCP, TCP_INFO, &info, &length) != 0) continue;
      kernel_.retransmits += info.tcpi_total_retrans;
      kernel_.packets_sent += info.tcpi_segs_out;
      kernel_.packets_received += info.tcpi_segs_in;
    }
  }
  return kernel_;
}

// A write starts when it is posted; what its socket did not take is tried again by polling.
absl::Status TcpTransport::Flush() { return absl::OkStatus(); }

int TcpTransport::Collect(std::span<Completion> out) {
  size_t count = 0;
  while (count < out.size()) {
    OrderedLink* const link = queues_.due.Pop();
    if (link == nullptr) break;
    count += static_cast<size_t>(link->Deliver(out.subspan(count)));
  }
  return static_cast<int>(count);
}

void TcpTransport::Progress(Lane& lane, int room) {
  TcpLink& link = *lane.link;
  if (lane.sending()) link.Send(lane);
  if (!link.closed() && !lane.ended) link.Receive(lane, regions_, room);
  if (link.closed() || lane.ended) {
    // An ended connection is readable for ever; epoll must not wake us for it.
    for (const auto& each : link.lanes()) {
      if (link.closed() || each->ended) {
        epoll_ctl(data_epoll_.get(), EPOLL_CTL_DEL, each->fd(), nullptr);
      }
    }
    return;
  }
  if (lane.armed_for_sending && !lane.sending()) Arm(lane);
  link.QueueIfBusy();
}

absl::Status TcpTransport::ProgressReady(int room, int timeout_ms) {
  std::array<epoll_event, 64> events;
  ++counters_.syscalls;
  int ready = 0;
  {
    telemetry::Span span(telemetry::Kind::kBlock);
    if (timeout_ms == 0) span.Drop();
    ready =
        epoll_wait(data_epoll_.get(), events.data(), static_cast<int>(events.size()), timeout_ms);
  }
  if (ready < 0 && errno != EINTR) return ErrnoError(errno, "epoll_wait");
  if (ready == 0 && !listening_) return ServiceControl(0);
  for (int i = 0; i < ready; ++i) {
    void* const source = events[static_cast<size_t>(i)].data.ptr;
    if (source == &control_epoll_) {
      GW_RETURN_IF_ERROR(ServiceControl(0));
    } else if (source != &waker_) {  // who waits looks at that
      Progress(*static_cast<Lane*>(source), room);
    }
  }
  return absl::OkStatus();
}

void TcpTransport::ProgressKnown(int room) {
  const TcpLink* const newest = queues_.busy.newest();
  while (TcpLink* const link = queues_.busy.Pop()) {
    for (const auto& lane : link->lanes()) {
      if (link->closed()) break;
      if (lane->staged()) {
        Progress(*lane, room);
      } else if (lane->sending() && !lane->armed_for_sending) {
        link->Send(*lane);
      }
    }
    link->QueueIfBusy();
    if (link == newest) break;
  }
}

absl::StatusOr<int> TcpTransport::Poll(std::span<Completion> out) {
  if (const int count = Collect(out); count > 0) return count;
  const int room = static_cast<int>(out.size());
  if (open_lanes_ <= kDirectLanes && ++direct_polls_ % kPollsPerLook != 0) {
    for (TcpLink* link : open_links_) {
      for (const auto& lane : link->lanes()) {
        if (!link->closed() && !lane->ended) Progress(*lane, room);
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
    const Deadline start = Clock::now();
    const Deadline until = std::min(deadline, start + spin_);
    // Whose peer shares this processor would spin in its way.
    const Deadline alone = yield_ ? start : start + kSpinAlone;
    Deadline now = start;
    do {
      GW_ASSIGN_OR_RETURN(const int count, Poll(out));
      if (count > 0) return count;
      if (waker_.Take()) return 0;
      now = Clock::now();
      if (now >= alone) sched_yield();
    } while (now < until);
  }
  while (true) {
    // What needs no news first; then sleep until there are some.
    ProgressKnown(room);
    if (const int count = Collect(out); count > 0) return count;
    if (waker_.Take()) return 0;
    const Deadline now = Clock::now();
    if (now >= deadline) return DeadlineExceeded("nothing arrived in time");
    ArmForSending();
    auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - now).count();
    if (!listening_) left = std::min<int64_t>(left, 100);  // until strangers have had their time
    ++counters_.blocks;
    GW_RETURN_IF_ERROR(
        ProgressReady(room, static_cast<int>(std::clamp<int64_t>(left, 0, 1'000'000))));
  }
}

void TcpTransport::ArmForSending() {
  const TcpLink* const newest = queues_.busy.newest();
  while (TcpLink* const link = queues_.busy.Pop()) {
    for (const auto& lane : link->lanes()) {
      if (!link->closed() && lane->sending() != lane->armed_for_sending) Arm(*lane);
    }
    link->QueueIfBusy();
    if (link == newest) break;
  }
}

void TcpTransport::Arm(Lane& lane) {
  lane.armed_for_sending = lane.sending();
  epoll_event event = {};
  event.events = EPOLLIN | (lane.armed_for_sending ? EPOLLOUT : 0u);
  event.data.ptr = &lane;
  ++counters_.syscalls;
  epoll_ctl(data_epoll_.get(), EPOLL_CTL_MOD, lane.fd(), &event);
}

}  // namespace gradwire::tcp
