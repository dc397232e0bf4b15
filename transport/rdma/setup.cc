// Opening the device and the links.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "transport/rdma/transport.h"

namespace gradwire::rdma {
namespace {

constexpr std::chrono::seconds kPartingGrace{2};
// Completions that a queue is made for at first; it grows with the links.
constexpr int kFirstEntries = 1024;

std::chrono::milliseconds Until(Deadline deadline) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
  return std::max(left, std::chrono::milliseconds(1));
}

}  // namespace

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
      links_(static_cast<size_t>(world.size())) {}

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
  GW_ASSIGN_OR_RETURN(domain_, device_->AllocateProtectionDomain());
  regions_.emplace(*domain_);
  const int entries = std::min(kFirstEntries, device_->attributes().max_cqe);
  GW_ASSIGN_OR_RETURN(completions_, device_->CreateCompletionQueue(entries, /*with_channel=*/true));
  if (settings_.receive_queue == "shared" && world_.size() > 1) {
    const int wanted = (world_.size() - 1) * settings_.lanes * ReceiveDepth();
    const int most = device_->attributes().max_srq_wr;
    if (device_->attributes().max_srq == 0 || wanted > most) {
      return FailedPrecondition(
          "--receive-queue shared: {} holds {} shared receives, {} ranks want {}; use own, or "
          "fewer --slots or --lanes",
          port_.device, device_->attributes().max_srq == 0 ? 0 : most, world_.size(), wanted);
    }
    GW_ASSIGN_OR_RETURN(shared_queue_, domain_->CreateSharedReceiveQueue(wanted));
    shared_receives_.emplace(nullptr, &*shared_queue_, settings_.receive_batch);
  }
  return absl::OkStatus();
}

// A lane never lacks a receive: its peer has at most window / lanes writes on their way without a
// release; credit messages each release half a window of ours or more, so at most three (two for
// an even window) can be under way; then comes a goodbye. Receives that were used up wait for a
// full batch before they are posted again.
int RdmaTransport::ReceiveDepth() const {
  constexpr int kCreditMessages = 3;
  constexpr int kGoodbye = 1;
  return (settings_.slots + settings_.lanes - 1) / settings_.lanes + kCreditMessages + kGoodbye +
         settings_.receive_batch - 1;
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
  if (links_[static_cast<size_t>(peer)] == nullptr) {
    GW_RETURN_IF_ERROR(Connect(peer, deadline));
  }
  return static_cast<Link*>(links_[static_cast<size_t>(peer)].get());
}

absl::Status RdmaTransport::Reserve() {
  const int per_link = settings_.lanes * (settings_.queue_depth + ReceiveDepth());
  const int wanted = (static_cast<int>(open_links_.size()) + 1) * per_link;
  if (wanted <= completions_->entries()) return absl::OkStatus();
  const int most = device_->attributes().max_cqe;
  if (wanted > most) {
    return FailedPrecondition(
        "{}: a completion queue holds {} completions, {} links of --queue-depth {} and --lanes {} "
        "need {}; use smaller ones",
        port_.device, most, open_links_.size() + 1, settings_.queue_depth, settings_.lanes, wanted);
  }
  return completions_->Resize(std::min(most, 2 * wanted));
}

absl::Status RdmaTransport::AddLanes(RdmaLink& link, ConnectionFacts& mine) {
  QueuePairOptions options;
  options.completion_queue = &*completions_;
  options.shared_receive_queue = shared_queue_ ? &*shared_queue_ : nullptr;
  options.send_depth = settings_.queue_depth;
  options.receive_depth = ReceiveDepth();
  options.inline_bytes = static_cast<int>(settings_.inline_bytes);
  for (int i = 0; i < settings_.lanes; ++i) {
    GW_ASSIGN_OR_RETURN(QueuePair made, domain_->CreateQueuePair(options));
    LaneOptions lane_options;
    lane_options.depth = settings_.queue_depth;
    lane_options.interval = settings_.signal_interval;
    lane_options.chain = settings_.chain_length;
    lane_options.inline_bytes =
        std::min(static_cast<int>(settings_.inline_bytes), made.inline_bytes());
    if (made.inline_bytes() < settings_.inline_bytes && open_links_.empty() && i == 0) {
      spdlog::warn("--inline-bytes {}: {} takes {} at most, which is what is used",
                   settings_.inline_bytes, port_.device, made.inline_bytes());
    }
    // Data by credits, as many credit messages, a settling write and the goodbye.
    lane_options.waiting = 2 * settings_.slots + 2;
    Lane& lane = link.AddLane(std::move(made), lane_options);
    GW_RETURN_IF_ERROR(Initialize(lane.queue_pair(), port_, connection_));
    if (shared_receives_) {
      lane.set_receives(&*shared_receives_);
    } else {
      lane.set_receives(own_receives_
                            .emplace_back(std::make_unique<Receives>(&lane.queue_pair(), nullptr,
                                                                     settings_.receive_batch))
                            .get());
    }
    if (const int error = lane.receives().Provide(ReceiveDepth()); error != 0) {
      return ErrnoError(error, "{}: cannot post {} receives", port_.device, ReceiveDepth());
    }
    GW_ASSIGN_OR_RETURN(const QueuePairEndpoint endpoint,
                        LocalEndpoint(lane.queue_pair(), port_, connection_));
    mine.queue_pairs.push_back(endpoint);
  }
  mine.grants = {link.slot_grant()};
  mine.window = settings_.slots;
  mine.slot_bytes = settings_.slice_bytes;
  mine.lanes = settings_.lanes;
  return absl::OkStatus();
}

absl::Status RdmaTransport::CheckFacts(const ConnectionFacts& theirs, int peer) const {
  if (theirs.window != settings_.slots || theirs.slot_bytes != settings_.slice_bytes ||
      theirs.lanes != settings_.lanes) {
    return InvalidArgument(
        "{} has --slots {} --slice-bytes {} --lanes {}, rank {} has {}, {} and {}; give all ranks "
        "the same",
        world_.peer(peer).Describe(), theirs.window, theirs.slot_bytes, theirs.lanes, world_.rank(),
        settings_.slots, settings_.slice_bytes, settings_.lanes);
  }
  if (theirs.queue_pairs.size() != static_cast<size_t>(settings_.lanes) ||
      theirs.grants.size() != 1) {
    return ProtocolError("{} sent {} queue pairs and {} grants, {} and 1 were agreed",
                         world_.peer(peer).Describe(), theirs.queue_pairs.size(),
                         theirs.grants.size(), settings_.lanes);
  }
  return absl::OkStatus();
}

absl::Status RdmaTransport::Connect(int peer, Deadline deadline) {
  const std::string who = world_.peer(peer).Describe();
  GW_RETURN_IF_ERROR(Reserve());
  GW_ASSIGN_OR_RETURN(
      Region slots,
      Allocate(static_cast<size_t>(settings_.slots * settings_.slice_bytes), Access::kRemoteWrite));
  auto link = std::make_unique<RdmaLink>(peer, who, settings_.slots, std::move(slots), counters_);
  ConnectionFacts mine;
  GW_RETURN_IF_ERROR(AddLanes(*link, mine));

  const int low = std::min(peer, world_.rank()), high = std::max(peer, world_.rank());
  const std::string exchange = fmt::format("rdma/{}/{}-{}", name_, low, high);
  GW_ASSIGN_OR_RETURN(const auto facts,
                      world_.ExchangeFacts(exchange, mine, {low, high}, Until(deadline)));
  const ConnectionFacts& theirs = facts[peer == high ? 1 : 0];
  GW_RETURN_IF_ERROR(CheckFacts(theirs, peer));
  size_t lane_number = 0;
  for (Lane& lane : link->lanes()) {
    GW_RETURN_IF_ERROR(rdma::Connect(lane.queue_pair(), port_, mine.queue_pairs[lane_number],
                                     theirs.queue_pairs[lane_number], connection_, who));
    ++lane_number;
  }
  GW_RETURN_IF_ERROR(link->Open(theirs.grants.front()));
  // A packet that comes before its queue pair is ready is dropped, which costs the sender a
  // timeout: nobody writes before both ends are ready.
  GW_RETURN_IF_ERROR(
      world_.AllGather(exchange + "/ready", "", {low, high}, Until(deadline)).status());
  for (Lane& lane : link->lanes()) places_[lane.queue_pair().number()] = {link.get(), &lane};
  open_links_.push_back(link.get());
  links_[static_cast<size_t>(peer)] = std::move(link);
  return absl::OkStatus();
}

void RdmaTransport::Drain(Deadline deadline) {
  while (error_.ok() && world_.failure().ok() && Clock::now() < deadline &&
         !std::all_of(open_links_.begin(), open_links_.end(),
                      [](const RdmaLink* link) { return link->Drained(); })) {
    if (!TakeCompletions().ok()) return;
    std::this_thread::yield();
  }
}

RdmaTransport::~RdmaTransport() {
  const Deadline deadline = Clock::now() + kPartingGrace;
  for (RdmaLink* link : open_links_) link->SettleEverything();
  Drain(deadline);
  for (RdmaLink* link : open_links_) link->SayGoodbye();
  Drain(deadline);
}

}  // namespace gradwire::rdma
