// How links get their lanes: connecting, accepting, greeting.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "transport/descriptors.h"
#include "transport/tcp/transport.h"

namespace gradwire::tcp {
namespace {

constexpr std::chrono::seconds kGreetingDeadline{5};
constexpr std::chrono::milliseconds kSweepInterval{100};
constexpr std::string_view kUnpaced = "reno";
// Strangers that connect and say nothing must not use up our descriptors: what comes beyond this
// waits in the listener's backlog.
constexpr size_t kMaxHandshakes = 256;

int MillisecondsUntil(Deadline deadline) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(left, 0, 1'000'000));
}

// Whether both ends of a connection have one address: that of their host.
bool StaysOnThisHost(int fd) {
  SocketAddress ends[2];
  for (SocketAddress& end : ends) end.length = sizeof(end.storage);
  auto* const local = reinterpret_cast<sockaddr*>(&ends[0].storage);
  auto* const remote = reinterpret_cast<sockaddr*>(&ends[1].storage);
  if (getsockname(fd, local, &ends[0].length) != 0) return false;
  if (getpeername(fd, remote, &ends[1].length) != 0) return false;
  const auto* const v4 = reinterpret_cast<const sockaddr_in*>(local);
  if (local->sa_family == AF_INET) {
    return v4->sin_addr.s_addr == reinterpret_cast<const sockaddr_in*>(remote)->sin_addr.s_addr;
  }
  return std::memcmp(&reinterpret_cast<const sockaddr_in6*>(local)->sin6_addr,
                     &reinterpret_cast<const sockaddr_in6*>(remote)->sin6_addr,
                     sizeof(in6_addr)) == 0;
}

}  // namespace

absl::Status TcpTransport::Watch(const FileDescriptor& epoll, int fd, void* source) {
  epoll_event event = {};
  event.events = EPOLLIN;
  event.data.ptr = source;
  if (epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &event) != 0) return ErrnoError(errno, "epoll_ctl");
  return absl::OkStatus();
}

absl::Status TcpTransport::Connect(TcpLink& link, uint64_t number_at_peer,
                                   const TcpEndpoint& endpoint, Deadline deadline) {
  GW_ASSIGN_OR_RETURN(const SocketAddress address,
                      SocketAddress::Parse(endpoint.address, endpoint.port));
  connect_error_ = absl::OkStatus();
  for (int lane = 0; lane < settings_.lanes && connect_error_.ok(); ++lane) {
    Handshake& handshake = handshakes_.emplace_back();
    handshake.place = std::prev(handshakes_.end());
    handshake.link = &link;
    handshake.number_at_peer = number_at_peer;
    handshake.lane = lane;
    handshake.deadline = deadline;
    auto fd = StartConnect(address, settings_);
    if (!fd.ok()) {
      connect_error_ = fd.status();
      break;
    }
    handshake.fd = *std::move(fd);
    Greet(handshake, link, number_at_peer, Role::kConnect);
    epoll_event event = {};
    event.events = EPOLLIN | EPOLLOUT;
    event.data.ptr = &handshake;
    if (epoll_ctl(control_epoll_.get(), EPOLL_CTL_ADD, handshake.fd.get(), &event) != 0) {
      connect_error_ = ErrnoError(errno, "epoll_ctl");
    }
  }
  const absl::Status connected = AwaitLanes(link, deadline);
  connect_error_ = absl::OkStatus();
  handshakes_.remove_if([&](const Handshake& handshake) { return handshake.link == &link; });
  ResumeListening();
  return Annotate(connected, fmt::format("connecting to {} at {}", link.who(), address.ToString()));
}

absl::Status TcpTransport::AwaitLanes(TcpLink& link, Deadline deadline) {
  while (!link.open()) {
    if (!connect_error_.ok()) return std::exchange(connect_error_, absl::OkStatus());
    const int left = MillisecondsUntil(deadline);
    if (left == 0) return DeadlineExceeded("no connection with {} in time", link.who());
    GW_RETURN_IF_ERROR(ServiceControl(left));
  }
  return link.status();
}

void TcpTransport::Greet(Handshake& handshake, const TcpLink& link, uint64_t number, Role role) {
  Greeting greeting;
  greeting.lane = static_cast<uint16_t>(handshake.lane);
  greeting.link = number;
  greeting.slots = link.slot_grant();
  greeting.role = role;
  const Greeting::Wire wire = greeting.Encode(link.key());
  handshake.outgoing.assign(wire.begin(), wire.end());
}

void TcpTransport::AcceptConnections() {
  while (true) {
    listening_ = handshakes_.size() < kMaxHandshakes;
    if (!listening_) {
      epoll_ctl(control_epoll_.get(), EPOLL_CTL_DEL, listener_.get(), nullptr);
      return;
    }
    FileDescriptor fd(accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!fd.valid() && errno == EMFILE) {
      if (EnsureDescriptors(1, "a connection").ok()) continue;
      // Whoever waits is told so, or the listener would report it for ever.
      spare_ = FileDescriptor();
      fd = FileDescriptor(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      const bool turned_away = fd.valid();
      fd = FileDescriptor();
      spare_ = FileDescriptor(eventfd(0, EFD_CLOEXEC));
      if (turned_away) continue;
    }
    if (!fd.valid()) return;
    Handshake& handshake = handshakes_.emplace_back();
    handshake.place = std::prev(handshakes_.end());
    handshake.fd = std::move(fd);
    handshake.deadline = Clock::now() + kGreetingDeadline;
    if (!Watch(control_epoll_, handshake.fd.get(), &handshake).ok()) Drop(handshake);
  }
}

void TcpTransport::Drop(Handshake& handshake) {
  handshakes_.erase(handshake.place);
  ResumeListening();
}

void TcpTransport::ResumeListening() {
  if (!listening_ && handshakes_.size() < kMaxHandshakes) {
    listening_ = Watch(control_epoll_, listener_.get(), &listener_).ok();
  }
}

absl::StatusOr<TcpLink*> TcpTransport::LinkFor(const Handshake& handshake,
                                               const Greeting& greeting) {
  const bool connector = handshake.connector();
  if (greeting.lane >= settings_.lanes ||
      greeting.role != (connector ? Role::kAccept : Role::kConnect)) {
    return ProtocolError("greeting on lane {} or from the wrong side", greeting.lane);
  }
  if (connector) {
    if (greeting.link != handshake.number_at_peer || greeting.lane != handshake.lane ||
        !ProofIsRight(handshake.incoming, handshake.link->key())) {
      return ProtocolError("it does not know the link's secrets");
    }
    return handshake.link;
  }
  const auto known = links_.find(greeting.link);
  if (known != links_.end() && known->second->role() == Role::kAccept) {
    TcpLink* const link = known->second.get();
    if (!ProofIsRight(handshake.incoming, link->key())) {
      return ProtocolError("{} greets without knowing the link's secrets", link->who());
    }
    return link;
  }
  // A rank may come before its link is asked for here.
  const int peer = ConnectingRank(greeting.link);
  if (peer < 0 || known != links_.end()) {
    return ProtocolError("greeting for link {}, which awaits none", greeting.link);
  }
  if (!ProofIsRight(handshake.incoming, RankLinkKey(peer))) {
    return ProtocolError("greeting claims to be rank {} but does not know its secret", peer);
  }
  return MakeRankLink(peer);
}

absl::Status TcpTransport::FinishHandshake(Handshake& handshake) {
  GW_ASSIGN_OR_RETURN(const Greeting greeting, Greeting::Decode(handshake.incoming));
  GW_ASSIGN_OR_RETURN(TcpLink* const link, LinkFor(handshake, greeting));
  if (link->HasLane(greeting.lane)) {
    return ProtocolError("{} opens lane {} twice", link->who(), greeting.lane);
  }
  if (!handshake.connector()) {
    handshake.lane = greeting.lane;
    Greet(handshake, *link, greeting.link, Role::kAccept);
    GW_RETURN_IF_ERROR(handshake.Step());
    if (!handshake.sent_all()) {
      return InternalError("a fresh socket takes no {} bytes", handshake.outgoing.size());
    }
  }
  const int fd = handshake.fd.get();
  if (settings_.tcp_congestion.empty() && StaysOnThisHost(fd)) {
    // Pacing (BBR's, for one) throttles a loopback that cannot be congested. Reno needs no
    // privilege; where it is missing the system's choice stays.
    setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, kUnpaced.data(), kUnpaced.size());
  }
  if (settings_.tcp_loss > 0) GW_RETURN_IF_ERROR(LoseArrivals(fd, settings_.tcp_loss));
  epoll_ctl(control_epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
  GW_RETURN_IF_ERROR(link->AddLane(greeting.lane, std::move(handshake.fd), greeting.slots));
  return link->open() ? Open(*link) : absl::OkStatus();
}

absl::Status TcpTransport::Open(TcpLink& link) {
  open_links_.push_back(&link);
  open_lanes_ += settings_.lanes;
  for (const auto& lane : link.lanes()) {
    if (absl::Status watched = Watch(data_epoll_, lane->fd(), lane.get()); !watched.ok()) {
      link.Close(Annotate(watched, link.who()));
      return watched;
    }
  }
  return absl::OkStatus();
}

bool TcpTransport::Step(Handshake& handshake) {
  absl::Status status = handshake.Step();
  if (status.ok()) {
    if (!handshake.greeted()) {
      if (handshake.connector() && handshake.sent_all()) {
        epoll_event event = {};
        event.events = EPOLLIN;
        event.data.ptr = &handshake;
        epoll_ctl(control_epoll_.get(), EPOLL_CTL_MOD, handshake.fd.get(), &event);
      }
      return false;
    }
    status = FinishHandshake(handshake);
  }
  // A stranger at the listener is not our peers' failure: it is turned away and the job goes on.
  if (!status.ok() && handshake.connector() && connect_error_.ok()) connect_error_ = status;
  return true;
}

absl::Status TcpTransport::ServiceControl(int timeout_ms) {
  std::array<epoll_event, 64> events;
  if (!handshakes_.empty()) {
    timeout_ms = std::min(timeout_ms, static_cast<int>(kSweepInterval.count()));
  }
  const int count =
      epoll_wait(control_epoll_.get(), events.data(), static_cast<int>(events.size()), timeout_ms);
  if (count < 0 && errno != EINTR) return ErrnoError(errno, "epoll_wait");
  for (int i = 0; i < count; ++i) {
    void* const source = events[static_cast<size_t>(i)].data.ptr;
    if (source == &listener_) {
      AcceptConnections();
    } else if (source == &world_) {
      GW_RETURN_IF_ERROR(world_.failure());
      return absl::AbortedError("another rank asks what went wrong");
    } else if (auto& handshake = *static_cast<Handshake*>(source); Step(handshake)) {
      Drop(handshake);
    }
  }
  if (const Deadline now = Clock::now(); now >= next_sweep_) {
    next_sweep_ = now + kSweepInterval;
    for (auto next = handshakes_.begin(); next != handshakes_.end();) {
      Handshake& handshake = *next++;
      if (handshake.deadline <= now) Drop(handshake);
    }
  }
  return absl::OkStatus();
}

}  // namespace gradwire::tcp
