// Opening the device and the links.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "transport/descriptors.h"
#include "transport/rdma/advice.h"
#include "transport/rdma/transport.h"
#include "transport/urxe/urxe.h"

namespace gradwire::rdma {
namespace {

constexpr std::chrono::seconds kPartingGrace{2};
constexpr std::chrono::milliseconds kClosingGrace{1};
// Completions that a queue is made for at first; it grows with the links.
constexpr int kFirstEntries = 1024;

std::chrono::milliseconds Until(Deadline deadline) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
  return std::max(left, std::chrono::milliseconds(1));
}

// `theirs`, told by `who`, against what we tell ourselves.
absl::Status CheckFacts(const ConnectionFacts& theirs, const ConnectionFacts& mine,
                        std::string_view who) {
  GW_RETURN_IF_ERROR(CheckShape(theirs, mine, who));
  if (theirs.queue_pairs.size() != mine.queue_pairs.size() || theirs.grants.size() != 1) {
    return ProtocolError("{} sent {} queue pairs and {} grants, {} and 1 were agreed", who,
                         theirs.queue_pairs.size(), theirs.grants.size(), mine.queue_pairs.size());
  }
  return absl::OkStatus();
}

}  // namespace

class RdmaTransport::End : public LinkEnd {
 public:
  End(RdmaTransport& transport, std::unique_ptr<RdmaLink> link)
      : transport_(transport), link_(std::move(link)) {}
  ~End() override {
    if (link_ != nullptr) transport_.Discard(std::move(link_));
  }
  RdmaLink& link() { return *link_; }
  std::unique_ptr<RdmaLink> Take() { return std::move(link_); }
  ConnectionFacts& mine() { return facts_; }

 private:
  RdmaTransport& transport_;
  std::unique_ptr<RdmaLink> link_;
};

absl::StatusOr<PortChoice> RdmaTransport::FindPort(const World& world, const Settings& settings) {
  GW_ASSIGN_OR_RETURN(const std::vector<Port> ports, ListPorts());
  return ChoosePort(ports, settings, world.local_address());
}

RdmaTransport::RdmaTransport(World& world, const Settings& settings, PortChoice port,
                             std::string_view name)
    : world_(world),
      settings_(settings),
      mode_(settings.completion == "polling"   ? Mode::kPolling
            : settings.completion == "channel" ? Mode::kChannel
                                               : Mode::kAdaptive),
      spin_(settings.spin_us),
      yield_(world.oversubscribed()),
      port_(std::move(port)),
      connection_(ConnectionOptions::From(settings)),
      name_(name),
      by_rank_(static_cast<size_t>(world.size())) {}

absl::StatusOr<std::unique_ptr<RdmaTransport>> RdmaTransport::Create(World& world,
                                                                     const Settings& settings,
                                                                     std::string_view name) {
  GW_RETURN_IF_ERROR(Validate(settings));
  GW_ASSIGN_OR_RETURN(PortChoice port, FindPort(world, settings));
  std::unique_ptr<RdmaTransport> transport(
      new RdmaTransport(world, settings, std::move(port), name));
  GW_RETURN_IF_ERROR(transport->Start());
  return transport;
}

absl::Status RdmaTransport::Start() {
  GW_ASSIGN_OR_RETURN(device_, Device::Open(port_.device));
  if (urxe_is_urxe(device_->get()) == 0) {
    hw_counters_.emplace(device_->get()->device->ibdev_path, port_.port);
  }
  GW_ASSIGN_OR_RETURN(domain_, device_->AllocateProtectionDomain());
  regions_.emplace(*domain_);
  const int entries = std::min(kFirstEntries, device_->attributes().max_cqe);
  GW_ASSIGN_OR_RETURN(completions_, device_->CreateCompletionQueue(entries, /*with_channel=*/true));
  if (settings_.receive_queue == "shared") {
    const ibv_device_attr& device = device_->attributes();
    if (device.max_srq == 0 || device.max_srq_wr < ReceiveDepth(settings_.slots)) {
      return FailedPrecondition(
          "--receive-queue shared: {} shares {} receives, a queue pair wants {}; use own, or fewer "
          "--slots",
          port_.device, device.max_srq == 0 ? 0 : device.max_srq_wr, ReceiveDepth(settings_.slots));
    }
    shared_receives_.emplace(*domain_, device.max_srq_wr, settings_.receive_batch);
  }
  return waker_.Open();
}

// A lane never lacks a receive: its peer has at most window / lanes writes on their way without a
// release; credit messages each release half a window of ours or more, so at most three (two for
// an even window) can be under way; then comes a goodbye. Receives that were used up wait for a
// full batch before they are posted again.
int RdmaTransport::ReceiveDepth(int window) const {
  constexpr int kCreditMessages = 3;
  constexpr int kGoodbye = 1;
  return (window + settings_.lanes - 1) / settings_.lanes + kCreditMessages + kGoodbye +
         settings_.receive_batch - 1;
}

int RdmaTransport::CompletionsOf(int window) const {
  return settings_.lanes * (settings_.queue_depth + ReceiveDepth(window));
}

absl::StatusOr<Region> RdmaTransport::Register(Bytes bytes, Access access) {
  return regions_->Register(bytes, access);
}

absl::StatusOr<Region> RdmaTransport::Allocate(size_t bytes, Access access) {
  return regions_->Allocate(bytes, access);
}

absl::StatusOr<Link*> RdmaTransport::OpenLink(int peer, Deadline deadline) {
  if (peer < 0 || peer >= world_.size() || peer == world_.rank()) {
    return InvalidArgument("no link from rank {} to rank {} of {}", world_.rank(), peer,
                           world_.size());
  }
  GW_RETURN_IF_ERROR(error_);
  RdmaLink*& link = by_rank_[static_cast<size_t>(peer)];
  if (link == nullptr) {
    GW_ASSIGN_OR_RETURN(link, Connect(peer, deadline));
  }
  return static_cast<Link*>(link);
}

absl::Status RdmaTransport::Reserve(int completions) {
  const int wanted = reserved_ + completions;
  if (wanted > completions_->entries()) {
    const int most = device_->attributes().max_cqe;
    if (wanted > most) {
      return FailedPrecondition(
          "{}: a completion queue holds {} completions, {} links of --queue-depth {} and --lanes "
          "{} need {}; use smaller ones",
          port_.device, most, links_.size() + 1, settings_.queue_depth, settings_.lanes, wanted);
    }
    GW_RETURN_IF_ERROR(completions_->Resize(std::min(most, 2 * wanted)));
  }
  reserved_ = wanted;
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<RdmaTransport::End>> RdmaTransport::Prepare(
    int peer, std::string who, const LinkOptions& options) {
  GW_RETURN_IF_ERROR(CheckOptions(options));
  GW_RETURN_IF_ERROR(error_);
  GW_RETURN_IF_ERROR(EnsureDescriptors(1, fmt::format("a link to {}", who)));
  GW_ASSIGN_OR_RETURN(
      Region slots,
      Allocate(static_cast<size_t>(options.window) * options.slot_bytes, Access::kRemoteWrite));
  GW_RETURN_IF_ERROR(Reserve(CompletionsOf(options.window)));
  auto end = std::make_unique<End>(
      *this, std::make_unique<RdmaLink>(peer, std::move(who), options, std::move(slots), counters_,
                                        queues_));
  GW_RETURN_IF_ERROR(AddLanes(end->link(), end->mine()));
  return end;
}

absl::Status RdmaTransport::AddLanes(RdmaLink& link, ConnectionFacts& mine) {
  int receives = ReceiveDepth(link.window());
  if (settings_.receive_depth > 0) receives = std::min(receives, settings_.receive_depth);
  for (int i = 0; i < settings_.lanes; ++i) {
    SharedReceives::Pool* pool = nullptr;
    if (shared_receives_) {
      GW_ASSIGN_OR_RETURN(pool, shared_receives_->Add(receives));
    }
    QueuePairOptions options;
    options.completion_queue = &*completions_;
    options.shared_receive_queue = pool != nullptr ? &pool->queue() : nullptr;
    options.send_depth = settings_.queue_depth;
    options.receive_depth = receives;
    options.inline_bytes = static_cast<int>(settings_.inline_bytes);
    auto made = domain_->CreateQueuePair(options);
    if (!made.ok()) {
      if (pool != nullptr) shared_receives_->Remove(*pool, receives);
      return made.status();
    }
    LaneOptions lane_options;
    lane_options.depth = settings_.queue_depth;
    lane_options.interval = settings_.signal_interval;
    lane_options.chain = settings_.chain_length;
    lane_options.inline_bytes =
        std::min(static_cast<int>(settings_.inline_bytes), made->inline_bytes());
    if (made->inline_bytes() < settings_.inline_bytes && links_.empty() && i == 0) {
      spdlog::warn("--inline-bytes {}: {} takes {} at most, which is what is used",
                   settings_.inline_bytes, port_.device, made->inline_bytes());
    }
    // Data by credits, as many credit messages, a settling write and the goodbye.
    lane_options.waiting = 2 * link.window() + 2;
    lane_options.lanes = settings_.lanes;
    // A batch that is never complete would never be posted again.
    Lane& lane = link.AddLane(*std::move(made), lane_options, pool,
                              std::min(settings_.receive_batch, receives));
    GW_RETURN_IF_ERROR(Initialize(lane.queue_pair(), port_, connection_));
    if (pool == nullptr) {
      if (const int error = lane.receives().Provide(receives); error != 0) {
        return ErrnoError(error, "{}: cannot post {} receives", port_.device, receives);
      }
    }
    GW_ASSIGN_OR_RETURN(const QueuePairEndpoint endpoint,
                        LocalEndpoint(lane.queue_pair(), port_, connection_));
    mine.queue_pairs.push_back(endpoint);
  }
  mine.grants = {link.slot_grant()};
  mine.window = link.window();
  mine.slot_bytes = static_cast<int64_t>(link.slot_bytes());
  mine.lanes = settings_.lanes;
  return absl::OkStatus();
}

absl::Status RdmaTransport::Finish(End& end, const ConnectionFacts& theirs) {
  RdmaLink& link = end.link();
  GW_RETURN_IF_ERROR(CheckFacts(theirs, end.facts(), link.who()));
  size_t number = 0;
  for (Lane& lane : link.lanes()) {
    GW_RETURN_IF_ERROR(rdma::Connect(lane.queue_pair(), port_, end.facts().queue_pairs[number],
                                     theirs.queue_pairs[number], connection_, link.who()));
    ++number;
  }
  return link.Open(theirs.grants.front());
}

RdmaLink* RdmaTransport::Keep(End& end) {
  std::unique_ptr<RdmaLink> link = end.Take();
  RdmaLink* const kept = link.get();
  for (Lane& lane : kept->lanes()) places_[lane.queue_pair().number()] = {kept, &lane};
  links_[kept] = std::move(link);
  return kept;
}

absl::StatusOr<std::unique_ptr<LinkEnd>> RdmaTransport::PrepareLink(int peer, std::string who,
                                                                    const LinkOptions& options) {
  return Prepare(peer, std::move(who), options);
}

absl::StatusOr<Link*> RdmaTransport::FinishLink(std::unique_ptr<LinkEnd> end,
                                                const ConnectionFacts& theirs, Role, Deadline) {
  auto* const mine = dynamic_cast<End*>(end.get());
  if (mine == nullptr) return InvalidArgument("the end of a link is none of an RDMA transport");
  GW_RETURN_IF_ERROR(error_);
  GW_RETURN_IF_ERROR(Finish(*mine, theirs));
  return static_cast<Link*>(Keep(*mine));
}

absl::StatusOr<RdmaLink*> RdmaTransport::Connect(int peer, Deadline deadline) {
  GW_ASSIGN_OR_RETURN(const std::unique_ptr<End> end,
                      Prepare(peer, world_.peer(peer).Describe(),
                              {settings_.slots, static_cast<size_t>(settings_.slice_bytes)}));
  const int low = std::min(peer, world_.rank()), high = std::max(peer, world_.rank());
  const std::string exchange = fmt::format("rdma/{}/{}-{}", name_, low, high);
  GW_ASSIGN_OR_RETURN(const auto facts,
                      world_.ExchangeFacts(exchange, end->facts(), {low, high}, Until(deadline)));
  GW_RETURN_IF_ERROR(Finish(*end, facts[peer == high ? 1 : 0]));
  // A packet that comes before its queue pair is ready is dropped, which costs the sender a
  // timeout: nobody writes before both ends are ready.
  GW_RETURN_IF_ERROR(
      world_.AllGather(exchange + "/ready", "", {low, high}, Until(deadline)).status());
  return Keep(*end);
}

void RdmaTransport::CloseLink(Link* link) {
  const auto place = links_.find(link);
  RdmaLink& closing = *place->second;
  if (error_.ok() && !closing.closed()) {
    closing.SayGoodbye();
    const Deadline deadline = Clock::now() + kClosingGrace;
    while (!closing.Drained() && Clock::now() < deadline && TakeCompletions().ok()) {
      std::this_thread::yield();
    }
    closing.Close(Unavailable("this end of the link was closed"));
  }
  // What is on its way completes as flushed, and is looked at before the queue pairs go: their
  // numbers will be others', and shared receives that were used up must be posted again.
  for (Lane& lane : closing.lanes()) {
    ibv_qp_attr attributes = {};
    attributes.qp_state = IBV_QPS_ERR;
    if (absl::Status ended = lane.queue_pair().Modify(attributes, IBV_QP_STATE, "to ERR");
        !ended.ok()) {
      spdlog::warn("{}: {}", closing.who(), Message(ended));
    }
  }
  for (int left = completions_->entries(); left > 0;) {
    const int taken = TakeCompletions().value_or(0);
    if (taken == 0) break;
    left -= taken;
  }
  std::replace(by_rank_.begin(), by_rank_.end(), &closing, static_cast<RdmaLink*>(nullptr));
  for (Lane& lane : closing.lanes()) places_.erase(lane.queue_pair().number());
  std::unique_ptr<RdmaLink> ended = std::move(place->second);
  links_.erase(place);
  Discard(std::move(ended));
}

void RdmaTransport::Discard(std::unique_ptr<RdmaLink> link) {
  const int window = link->window();
  const std::vector<SharedReceives::Pool*> pools = link->pools();
  link.reset();
  for (SharedReceives::Pool* pool : pools) shared_receives_->Remove(*pool, ReceiveDepth(window));
  reserved_ -= CompletionsOf(window);
}

void RdmaTransport::Drain(Deadline deadline) {
  while (error_.ok() && world_.failure().ok() && Clock::now() < deadline &&
         !std::all_of(links_.begin(), links_.end(),
                      [](const auto& link) { return link.second->Drained(); })) {
    if (!TakeCompletions().ok()) return;
    std::this_thread::yield();
  }
}

RdmaTransport::~RdmaTransport() {
  const Deadline deadline = Clock::now() + kPartingGrace;
  for (const auto& [key, link] : links_) link->SettleEverything();
  Drain(deadline);
  for (const auto& [key, link] : links_) link->SayGoodbye();
  Drain(deadline);
}

}  // namespace gradwire::rdma
