// Setting up: addresses, connections, greetings. Nothing here is on the data path.
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <thread>
#include <utility>

#include "transport/pages.h"
#include "transport/tcp/transport.h"

namespace gradwire::tcp {
namespace {

constexpr std::chrono::seconds kGreetingDeadline{5};
constexpr std::chrono::seconds kPartingGrace{5};
constexpr std::string_view kUnpaced = "reno";
// Strangers that connect and say nothing must not use up our descriptors.
constexpr size_t kMaxHandshakes = 256;

int MillisecondsUntil(Deadline deadline) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(left, 0, 1'000'000));
}

}  // namespace

TcpTransport::TcpTransport(World& world, const Settings& settings)
    : world_(world),
      settings_(settings),
      spin_(settings.spin_us),
      yield_(world.oversubscribed()),
      links_(static_cast<size_t>(world.size())) {}

absl::StatusOr<std::unique_ptr<TcpTransport>> TcpTransport::Create(World& world,
                                                                   const Settings& settings,
                                                                   std::string_view name,
                                                                   std::string_view why) {
  GW_RETURN_IF_ERROR(Validate(settings));
  std::unique_ptr<TcpTransport> transport(new TcpTransport(world, settings));
  GW_RETURN_IF_ERROR(transport->Start(name, why));
  return transport;
}

absl::Status TcpTransport::Start(std::string_view name, std::string_view why) {
  GW_ASSIGN_OR_RETURN(const auto candidates, ListInterfaceAddresses());
  GW_ASSIGN_OR_RETURN(const InterfaceChoice choice,
                      ChooseAddress(candidates, settings_, world_.local_address()));
  GW_ASSIGN_OR_RETURN(const SocketAddress address, SocketAddress::Parse(choice.address.address, 0));
  uint16_t port = 0;
  GW_ASSIGN_OR_RETURN(listener_, Listen(address, settings_, port));
  description_ = fmt::format("tcp on {} ({}): {}", choice.address.interface, choice.address.address,
                             choice.reason);
  if (!why.empty()) description_ += fmt::format("; {}", why);

  control_epoll_ = FileDescriptor(epoll_create1(EPOLL_CLOEXEC));
  data_epoll_ = FileDescriptor(epoll_create1(EPOLL_CLOEXEC));
  if (!control_epoll_.valid() || !data_epoll_.valid()) return ErrnoError(errno, "epoll_create1");
  GW_RETURN_IF_ERROR(Watch(control_epoll_, listener_.get(), &listener_source_));
  GW_RETURN_IF_ERROR(Watch(control_epoll_, world_.failure_fd(), &failure_source_));
  GW_RETURN_IF_ERROR(Watch(data_epoll_, control_epoll_.get(), nullptr));

  ConnectionFacts mine;
  GW_ASSIGN_OR_RETURN(mine.secret, MakeSecret());
  mine.endpoints = {{choice.address.address, port}};
  mine.window = settings_.slots;
  mine.slot_bytes = settings_.slice_bytes;
  mine.lanes = settings_.lanes;
  GW_ASSIGN_OR_RETURN(
      facts_, world_.ExchangeFacts(fmt::format("tcp/{}", name), mine, {}, settings_.join_timeout));
  for (int rank = 0; rank < world_.size(); ++rank) {
    const ConnectionFacts& theirs = facts_[static_cast<size_t>(rank)];
    if (theirs.window != mine.window || theirs.slot_bytes != mine.slot_bytes ||
        theirs.lanes != mine.lanes) {
      return InvalidArgument(
          "{} has --slots {} --slice-bytes {} --lanes {}, rank {} has {}, {} and {}; give all "
          "ranks the same",
          world_.peer(rank).Describe(), theirs.window, theirs.slot_bytes, theirs.lanes,
          world_.rank(), mine.window, mine.slot_bytes, mine.lanes);
    }
    if (theirs.endpoints.size() != 1 || theirs.secret.size() != mine.secret.size()) {
      return ProtocolError("{} sent {} TCP addresses and a secret of {} bytes",
                           world_.peer(rank).Describe(), theirs.endpoints.size(),
                           theirs.secret.size());
    }
  }
  return absl::OkStatus();
}

TcpTransport::~TcpTransport() {
  // Close() drops what the kernel holds when the peer's last words lie unread, so wait until all
  // has been acknowledged; a peer that is stuck costs the grace at most.
  const Deadline deadline = Clock::now() + kPartingGrace;
  for (TcpLink* link : open_links_) {
    for (const auto& lane : link->lanes()) {
      while (!link->closed() && Clock::now() < deadline && world_.failure().ok()) {
        tcp_info info = {};
        socklen_t length = sizeof(info);
        int unacknowledged = 0;
        if (getsockopt(lane->fd(), IPPROTO_TCP, TCP_INFO, &info, &length) != 0 ||
            info.tcpi_state == TCP_CLOSE || ioctl(lane->fd(), SIOCOUTQ, &unacknowledged) != 0 ||
            (unacknowledged == 0 && !lane->sending())) {
          break;
        }
        link->Send(*lane);
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    }
  }
}

absl::StatusOr<Region> TcpTransport::Register(Bytes bytes, Access access) {
  GW_ASSIGN_OR_RETURN(const uint32_t key, regions_.Add(bytes, access));
  const MemoryGrant grant{reinterpret_cast<uint64_t>(bytes.data()), bytes.size(), key, 0};
  return Region(bytes, grant, 0, [this, key] { regions_.Remove(key); });
}

absl::StatusOr<Region> TcpTransport::Allocate(size_t bytes, Access access) {
  GW_ASSIGN_OR_RETURN(std::shared_ptr<void> memory, AllocatePages(bytes));
  const Bytes span(static_cast<std::byte*>(memory.get()), bytes);
  GW_ASSIGN_OR_RETURN(const uint32_t key, regions_.Add(span, access));
  const MemoryGrant grant{reinterpret_cast<uint64_t>(span.data()), bytes, key, 0};
  return Region(span, grant, 0, [this, memory = std::move(memory), key] { regions_.Remove(key); });
}

absl::Status TcpTransport::Watch(const FileDescriptor& epoll, int fd, Source* source) {
  epoll_event event = {};
  event.events = EPOLLIN;
  event.data.ptr = source;
  if (epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &event) != 0) return ErrnoError(errno, "epoll_ctl");
  return absl::OkStatus();
}

std::string TcpTransport::LinkKeyFor(int peer) const {
  const auto low = static_cast<size_t>(std::min(peer, world_.rank()));
  const auto high = static_cast<size_t>(std::max(peer, world_.rank()));
  return LinkKey(facts_[low].secret, facts_[high].secret);
}

absl::StatusOr<TcpLink*> TcpTransport::MakeLink(int peer) {
  auto& link = links_[static_cast<size_t>(peer)];
  if (link == nullptr) {
    GW_ASSIGN_OR_RETURN(Region slots,
                        Allocate(static_cast<size_t>(settings_.slots * settings_.slice_bytes),
                                 Access::kRemoteWrite));
    link = std::make_unique<TcpLink>(peer, world_.peer(peer).Describe(), settings_.slots,
                                     settings_.lanes, std::move(slots), counters_);
  }
  return link.get();
}

absl::StatusOr<Link*> TcpTransport::OpenLink(int peer, Deadline deadline) {
  if (peer < 0 || peer >= world_.size() || peer == world_.rank()) {
    return InvalidArgument("no link from rank {} to rank {} of {}", world_.rank(), peer,
                           world_.size());
  }
  const bool known = links_[static_cast<size_t>(peer)] != nullptr;
  GW_ASSIGN_OR_RETURN(TcpLink* const link, MakeLink(peer));
  if (!known && world_.rank() < peer) GW_RETURN_IF_ERROR(Connect(peer, deadline));
  while (!link->open()) {
    if (!connect_error_.ok()) return std::exchange(connect_error_, absl::OkStatus());
    const int left = MillisecondsUntil(deadline);
    if (left == 0) {
      return DeadlineExceeded("no connection with {} in time", world_.peer(peer).Describe());
    }
    GW_RETURN_IF_ERROR(ServiceControl(left));
  }
  return static_cast<Link*>(link);
}

absl::Status TcpTransport::Connect(int peer, Deadline deadline) {
  const TcpEndpoint& endpoint = facts_[static_cast<size_t>(peer)].endpoints.front();
  GW_ASSIGN_OR_RETURN(const SocketAddress address,
                      SocketAddress::Parse(endpoint.address, endpoint.port));
  for (int lane = 0; lane < settings_.lanes; ++lane) {
    PendingHandshake& pending = handshakes_.emplace_back();
    pending.source = {Source::Kind::kHandshake, nullptr, 0, &pending};
    Handshake& handshake = pending.handshake;
    auto fd = StartConnect(address, settings_);
    if (!fd.ok()) {
      handshakes_.pop_back();
      return Annotate(fd.status(), world_.peer(peer).Describe());
    }
    handshake.fd = *std::move(fd);
    handshake.connector = true;
    handshake.peer = peer;
    handshake.lane = lane;
    handshake.deadline = deadline;
    handshake.remote = address.ToString();
    GW_RETURN_IF_ERROR(Greet(handshake));
    epoll_event event = {};
    event.events = EPOLLIN | EPOLLOUT;
    event.data.ptr = &pending.source;
    if (epoll_ctl(control_epoll_.get(), EPOLL_CTL_ADD, handshake.fd.get(), &event) != 0) {
      return ErrnoError(errno, "epoll_ctl");
    }
  }
  return absl::OkStatus();
}

absl::Status TcpTransport::Greet(Handshake& handshake) {
  GW_ASSIGN_OR_RETURN(const TcpLink* const link, MakeLink(handshake.peer));
  Greeting greeting;
  greeting.lane = static_cast<uint16_t>(handshake.lane);
  greeting.from = static_cast<uint32_t>(world_.rank());
  greeting.to = static_cast<uint32_t>(handshake.peer);
  greeting.slots = link->slot_grant();
  const Greeting::Wire wire = greeting.Encode(LinkKeyFor(handshake.peer));
  handshake.outgoing.assign(wire.begin(), wire.end());
  return absl::OkStatus();
}

void TcpTransport::AcceptConnections() {
  while (true) {
    SocketAddress remote;
    remote.length = sizeof(remote.storage);
    FileDescriptor fd(accept4(listener_.get(), reinterpret_cast<sockaddr*>(&remote.storage),
                              &remote.length, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!fd.valid()) return;  // none left, or out of descriptors: the peer tries again or times out
    if (handshakes_.size() >= kMaxHandshakes) continue;
    PendingHandshake& pending = handshakes_.emplace_back();
    pending.source = {Source::Kind::kHandshake, nullptr, 0, &pending};
    pending.handshake.fd = std::move(fd);
    pending.handshake.deadline = Clock::now() + kGreetingDeadline;
    pending.handshake.remote = remote.ToString();
    if (!Watch(control_epoll_, pending.handshake.fd.get(), &pending.source).ok()) {
      handshakes_.pop_back();
    }
  }
}

absl::Status TcpTransport::Adopt(Handshake& handshake) {
  GW_ASSIGN_OR_RETURN(const Greeting greeting, Greeting::Decode(handshake.incoming));
  const auto me = static_cast<uint32_t>(world_.rank());
  if (greeting.to != me || greeting.from >= static_cast<uint32_t>(world_.size()) ||
      greeting.from == me || greeting.lane >= settings_.lanes) {
    return ProtocolError("greeting from rank {} to rank {} on lane {}", greeting.from, greeting.to,
                         greeting.lane);
  }
  const int peer = static_cast<int>(greeting.from);
  if (handshake.connector ? peer != handshake.peer || greeting.lane != handshake.lane
                          : peer > world_.rank()) {
    return ProtocolError("greeting of rank {} lane {} from the wrong side", peer, greeting.lane);
  }
  if (!ProofIsRight(handshake.incoming, LinkKeyFor(peer))) {
    return ProtocolError("greeting claims to be rank {} but does not know its secret", peer);
  }
  GW_ASSIGN_OR_RETURN(TcpLink* const link, MakeLink(peer));
  if (link->HasLane(greeting.lane)) {
    return ProtocolError("rank {} opens lane {} twice", peer, greeting.lane);
  }
  if (!handshake.connector) {
    handshake.peer = peer;
    handshake.lane = greeting.lane;
    GW_RETURN_IF_ERROR(Greet(handshake));
    GW_RETURN_IF_ERROR(handshake.Step());
    if (!handshake.sent_all())
      return InternalError("a fresh socket takes no {} bytes", handshake.outgoing.size());
  }
  const int fd = handshake.fd.get();
  const std::string& host = world_.peer(world_.rank()).host_id;
  if (settings_.tcp_congestion.empty() && world_.peer(peer).host_id == host) {
    // Pacing (BBR's, for one) throttles a loopback that cannot be congested. Reno needs no
    // privilege; where it is missing the system's choice stays.
    setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, kUnpaced.data(), kUnpaced.size());
  }
  epoll_ctl(control_epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
  lane_sources_.push_back(
      std::make_unique<Source>(Source{Source::Kind::kLane, link, greeting.lane, nullptr}));
  GW_RETURN_IF_ERROR(Watch(data_epoll_, fd, lane_sources_.back().get()));
  GW_RETURN_IF_ERROR(link->AddLane(greeting.lane, std::move(handshake.fd), greeting.slots));
  link->lanes()[greeting.lane]->source = lane_sources_.back().get();
  if (link->open()) {
    open_links_.push_back(link);
    open_lanes_ += settings_.lanes;
  }
  return absl::OkStatus();
}

bool TcpTransport::Step(PendingHandshake& pending) {
  Handshake& handshake = pending.handshake;
  absl::Status status = handshake.Step();
  if (status.ok()) {
    if (!handshake.greeted()) {
      if (handshake.connector && handshake.sent_all()) {
        epoll_event event = {};
        event.events = EPOLLIN;
        event.data.ptr = &pending.source;
        epoll_ctl(control_epoll_.get(), EPOLL_CTL_MOD, handshake.fd.get(), &event);
      }
      return false;
    }
    status = Adopt(handshake);
  }
  // A stranger at the listener is not our peers' failure: it is turned away and the job goes on.
  if (!status.ok() && handshake.connector && connect_error_.ok()) {
    connect_error_ =
        Annotate(status, fmt::format("connecting to {} at {}",
                                     world_.peer(handshake.peer).Describe(), handshake.remote));
  }
  return true;
}

absl::Status TcpTransport::ServiceControl(int timeout_ms) {
  std::array<epoll_event, 16> events;
  if (!handshakes_.empty()) timeout_ms = std::min(timeout_ms, 100);  // their deadlines
  const int count =
      epoll_wait(control_epoll_.get(), events.data(), static_cast<int>(events.size()), timeout_ms);
  if (count < 0 && errno != EINTR) return ErrnoError(errno, "epoll_wait");
  for (int i = 0; i < count; ++i) {
    auto* source = static_cast<Source*>(events[static_cast<size_t>(i)].data.ptr);
    switch (source->kind) {
      case Source::Kind::kListener:
        AcceptConnections();
        break;
      case Source::Kind::kFailure:
        GW_RETURN_IF_ERROR(world_.failure());
        return absl::AbortedError("another rank asks what went wrong");
      default:
        if (Step(*source->handshake)) {
          handshakes_.remove_if([&](const PendingHandshake& p) { return &p == source->handshake; });
        }
    }
  }
  const Deadline now = Clock::now();
  handshakes_.remove_if([&](const PendingHandshake& p) { return p.handshake.deadline <= now; });
  return absl::OkStatus();
}

}  // namespace gradwire::tcp
