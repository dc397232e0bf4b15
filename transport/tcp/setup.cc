// Setting up and taking down: addresses, memory, links. Nothing here is on the data path.
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <thread>
#include <utility>

#include "transport/descriptors.h"
#include "transport/pages.h"
#include "transport/tcp/transport.h"

namespace gradwire::tcp {
namespace {

constexpr std::chrono::seconds kPartingGrace{5};
constexpr std::chrono::milliseconds kClosingGrace{1};

// `theirs`, told by `who`, against what we tell ourselves.
absl::Status CheckFacts(const ConnectionFacts& theirs, const ConnectionFacts& mine,
                        std::string_view who) {
  GW_RETURN_IF_ERROR(CheckShape(theirs, mine, who));
  if (theirs.endpoints.size() != 1 || theirs.secret.size() != mine.secret.size()) {
    return ProtocolError("{} sent {} TCP addresses and a secret of {} bytes", who,
                         theirs.endpoints.size(), theirs.secret.size());
  }
  const TcpEndpoint& endpoint = theirs.endpoints.front();
  if (endpoint.port == 0) return ProtocolError("{} listens on port 0", who);
  return Annotate(SocketAddress::Parse(endpoint.address, endpoint.port).status(), who);
}

// Close() drops what the kernel holds when the peer's last words lie unread, so wait until all has
// been acknowledged; a peer that is stuck costs the time until `deadline`.
void AwaitDelivery(TcpLink& link, Lane& lane, Deadline deadline, const World& world) {
  for (std::chrono::microseconds nap(20); !link.closed() && Clock::now() < deadline;
       nap = std::min<std::chrono::microseconds>(2 * nap, std::chrono::milliseconds(1))) {
    tcp_info info = {};
    socklen_t length = sizeof(info);
    int unacknowledged = 0;
    if (!world.failure().ok() ||
        getsockopt(lane.fd(), IPPROTO_TCP, TCP_INFO, &info, &length) != 0 ||
        info.tcpi_state == TCP_CLOSE || ioctl(lane.fd(), SIOCOUTQ, &unacknowledged) != 0 ||
        (unacknowledged == 0 && !lane.sending())) {
      return;
    }
    link.Send(lane);
    std::this_thread::sleep_for(nap);
  }
}

}  // namespace

class TcpTransport::End : public LinkEnd {
 public:
  End(std::unique_ptr<TcpLink> link, ConnectionFacts facts) : link_(std::move(link)) {
    facts_ = std::move(facts);
  }
  TcpLink& link() { return *link_; }
  std::unique_ptr<TcpLink> Take() { return std::move(link_); }

 private:
  std::unique_ptr<TcpLink> link_;
};

TcpTransport::TcpTransport(World& world, const Settings& settings)
    : world_(world), settings_(settings), spin_(settings.spin_us), yield_(world.oversubscribed()) {}

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

  GW_RETURN_IF_ERROR(waker_.Open());
  control_epoll_ = FileDescriptor(epoll_create1(EPOLL_CLOEXEC));
  data_epoll_ = FileDescriptor(epoll_create1(EPOLL_CLOEXEC));
  spare_ = FileDescriptor(eventfd(0, EFD_CLOEXEC));
  if (!control_epoll_.valid() || !data_epoll_.valid() || !spare_.valid()) {
    return ErrnoError(errno, "epoll_create1");
  }
  GW_RETURN_IF_ERROR(Watch(control_epoll_, listener_.get(), &listener_));
  GW_RETURN_IF_ERROR(Watch(control_epoll_, world_.failure_fd(), &world_));
  GW_RETURN_IF_ERROR(Watch(data_epoll_, control_epoll_.get(), &control_epoll_));
  GW_RETURN_IF_ERROR(Watch(data_epoll_, waker_.fd(), &waker_));

  mine_.endpoints = {{choice.address.address, port}};
  mine_.lanes = settings_.lanes;
  ConnectionFacts mine = Facts({settings_.slots, static_cast<size_t>(settings_.slice_bytes)});
  GW_ASSIGN_OR_RETURN(mine.secret, MakeSecret());
  GW_ASSIGN_OR_RETURN(
      facts_, world_.ExchangeFacts(fmt::format("tcp/{}", name), mine, {}, settings_.join_timeout));
  for (int rank = 0; rank < world_.size(); ++rank) {
    GW_RETURN_IF_ERROR(
        CheckFacts(facts_[static_cast<size_t>(rank)], mine, world_.peer(rank).Describe()));
  }
  return absl::OkStatus();
}

TcpTransport::~TcpTransport() {
  const Deadline deadline = Clock::now() + kPartingGrace;
  for (TcpLink* link : open_links_) {
    for (const auto& lane : link->lanes()) AwaitDelivery(*link, *lane, deadline, world_);
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

ConnectionFacts TcpTransport::Facts(const LinkOptions& options) const {
  ConnectionFacts facts = mine_;
  facts.window = options.window;
  facts.slot_bytes = static_cast<int64_t>(options.slot_bytes);
  return facts;
}

absl::StatusOr<std::unique_ptr<TcpLink>> TcpTransport::MakeLink(uint64_t id, int peer,
                                                                std::string who,
                                                                const LinkOptions& options) {
  // Links that are not connected yet will want theirs as well.
  const auto waiting = static_cast<int>(links_.size() - open_links_.size());
  GW_RETURN_IF_ERROR(
      EnsureDescriptors((waiting + 1) * settings_.lanes + 1, fmt::format("a link to {}", who)));
  GW_ASSIGN_OR_RETURN(
      Region slots,
      Allocate(static_cast<size_t>(options.window) * options.slot_bytes, Access::kRemoteWrite));
  return std::make_unique<TcpLink>(id, peer, std::move(who), options, settings_.lanes,
                                   std::move(slots), counters_, queues_);
}

TcpLink* TcpTransport::Adopt(std::unique_ptr<TcpLink> link, Role role, std::string key) {
  link->Expect(role, std::move(key));
  auto& place = links_[link->id()];
  place = std::move(link);
  return place.get();
}

uint64_t TcpTransport::RankLinkId(int peer) const {
  return RankLinkNumber(std::min(peer, world_.rank()), std::max(peer, world_.rank()));
}

std::string TcpTransport::RankLinkKey(int peer) const {
  return LinkKey(facts_[static_cast<size_t>(std::min(peer, world_.rank()))].secret,
                 facts_[static_cast<size_t>(std::max(peer, world_.rank()))].secret);
}

int TcpTransport::ConnectingRank(uint64_t number) const {
  const auto rank = static_cast<int>(number >> 31 & 0x7fffffff);
  return rank < world_.rank() && number == RankLinkNumber(rank, world_.rank()) ? rank : -1;
}

absl::StatusOr<TcpLink*> TcpTransport::MakeRankLink(int peer) {
  GW_ASSIGN_OR_RETURN(auto link,
                      MakeLink(RankLinkId(peer), peer, world_.peer(peer).Describe(),
                               {settings_.slots, static_cast<size_t>(settings_.slice_bytes)}));
  return Adopt(std::move(link), world_.rank() < peer ? Role::kConnect : Role::kAccept,
               RankLinkKey(peer));
}

absl::StatusOr<Link*> TcpTransport::OpenLink(int peer, Deadline deadline) {
  if (peer < 0 || peer >= world_.size() || peer == world_.rank()) {
    return InvalidArgument("no link from rank {} to rank {} of {}", world_.rank(), peer,
                           world_.size());
  }
  const uint64_t id = RankLinkId(peer);
  const auto known = links_.find(id);
  TcpLink* link = known != links_.end() ? known->second.get() : nullptr;
  if (link == nullptr) {
    GW_ASSIGN_OR_RETURN(link, MakeRankLink(peer));
  }
  if (link->open()) return static_cast<Link*>(link);
  if (link->role() == Role::kAccept) {
    GW_RETURN_IF_ERROR(AwaitLanes(*link, deadline));
    return static_cast<Link*>(link);
  }
  const TcpEndpoint& endpoint = facts_[static_cast<size_t>(peer)].endpoints.front();
  if (absl::Status connected = Connect(*link, id, endpoint, deadline); !connected.ok()) {
    Forget(*link);
    return connected;
  }
  return static_cast<Link*>(link);
}

absl::StatusOr<std::unique_ptr<LinkEnd>> TcpTransport::PrepareLink(int peer, std::string who,
                                                                   const LinkOptions& options) {
  GW_RETURN_IF_ERROR(CheckOptions(options));
  ConnectionFacts facts = Facts(options);
  facts.link = next_id_++;
  GW_ASSIGN_OR_RETURN(facts.secret, MakeSecret());
  GW_ASSIGN_OR_RETURN(auto link, MakeLink(facts.link, peer, std::move(who), options));
  return std::make_unique<End>(std::move(link), std::move(facts));
}

absl::StatusOr<Link*> TcpTransport::FinishLink(std::unique_ptr<LinkEnd> end,
                                               const ConnectionFacts& theirs, Role role,
                                               Deadline deadline) {
  auto* const mine = dynamic_cast<End*>(end.get());
  if (mine == nullptr) return InvalidArgument("the end of a link is none of a TCP transport");
  GW_RETURN_IF_ERROR(CheckFacts(theirs, mine->facts(), mine->link().who()));
  if (theirs.link >= kRankLink) {
    return ProtocolError("{} numbers its link {}, as none is", mine->link().who(), theirs.link);
  }
  const bool connects = role == Role::kConnect;
  const std::string& first = connects ? mine->facts().secret : theirs.secret;
  const std::string& second = connects ? theirs.secret : mine->facts().secret;
  TcpLink* const link = Adopt(mine->Take(), role, LinkKey(first, second));
  if (!connects) return static_cast<Link*>(link);
  if (absl::Status connected = Connect(*link, theirs.link, theirs.endpoints.front(), deadline);
      !connected.ok()) {
    Forget(*link);
    return connected;
  }
  return static_cast<Link*>(link);
}

void TcpTransport::CloseLink(Link* link) {
  auto& closing = *static_cast<TcpLink*>(link);
  if (closing.open()) {
    const Deadline deadline = Clock::now() + kClosingGrace;
    for (const auto& lane : closing.lanes()) {
      AwaitDelivery(closing, *lane, deadline, world_);
      // What lies unread would make the kernel cut the connection instead of ending it.
      while (recv(lane->fd(), nullptr, size_t{1} << 30, MSG_TRUNC | MSG_DONTWAIT) > 0) {
        if (Clock::now() >= deadline) break;
      }
    }
  }
  Forget(closing);
}

void TcpTransport::Forget(TcpLink& link) {
  if (std::erase(open_links_, &link) > 0) open_lanes_ -= settings_.lanes;
  links_.erase(link.id());
}

}  // namespace gradwire::tcp
