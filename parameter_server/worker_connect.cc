// Joining, and going over to a replica.
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "parameter_server/worker_internal.h"
#include "transport/bootstrap/launcher.h"
#include "transport/bootstrap/solo_world.h"

namespace gradwire::ps {
namespace {

constexpr std::chrono::milliseconds kPromotePause{100};
constexpr int kMessageBuffers = 256;

}  // namespace

std::string Worker::Impl::NameOf(int server) const {
  return fmt::format("server {} at {}", server, servers_[static_cast<size_t>(server)].address);
}

absl::Status Worker::Impl::Join(const std::vector<std::string>& servers) {
  if (servers.empty()) return InvalidArgument("no parameter server was named");
  GW_RETURN_IF_ERROR(Validate(settings_));
  if (options_.clip_norm < 0) {
    return InvalidArgument("--clip-norm {}: must not be negative", options_.clip_norm);
  }
  const Deadline deadline = Clock::now() + settings_.join_timeout;
  servers_.resize(servers.size());
  for (size_t i = 0; i < servers.size(); ++i) {
    servers_[i].address = servers[i];
    GW_RETURN_IF_ERROR(JoinServer(static_cast<int>(i), deadline));
  }
  if (options_.clip_norm > 0 && job_.replicas && job_.consistency == Consistency::kBsp) {
    return InvalidArgument(
        "--clip-norm under bsp needs sums that replicas do not have: use "
        "--clip-value, or servers without --replica");
  }
  GW_ASSIGN_OR_RETURN(placement_, Placement::Make(layout_, job_.servers * job_.shards_per_server,
                                                  job_.slice_bytes));
  GW_RETURN_IF_ERROR(OpenTransport(servers.front()));
  GW_RETURN_IF_ERROR(Allocate());
  shards_.resize(static_cast<size_t>(placement_.shards()));
  for (int i = 0; i < placement_.shards(); ++i) {
    Shard& shard = shards_[static_cast<size_t>(i)];
    shard.index = i;
    GW_ASSIGN_OR_RETURN(const int64_t clock, Connect(shard, i / job_.shards_per_server, deadline));
    // Shards may tell of different steps when workers come while others push: the first push may
    // lie ahead of a shard's clock, never behind it.
    step_ = std::max(step_, clock);
  }
  description_ =
      fmt::format("{}; {} server{}, {}{}", transport_->description(), servers_.size(),
                  servers_.size() == 1 ? "" : "s", ps::NameOf(job_.consistency),
                  job_.consistency == Consistency::kSsp ? fmt::format(" {}", job_.staleness) : "");
  return absl::OkStatus();
}

absl::Status Worker::Impl::JoinServer(int index, Deadline deadline) {
  Server& server = servers_[static_cast<size_t>(index)];
  GW_ASSIGN_OR_RETURN(server.control, ControlClient::Open(server.address, settings_, deadline));
  char host[256] = "";
  gethostname(host, sizeof(host) - 1);
  const JoinRequest request = {.layout = layout_,
                               .transport = settings_.transport,
                               .worker = index == 0 ? options_.worker : number_,
                               .host = host,
                               .pid = getpid(),
                               .run = job_.run};
  auto lost = [this, index](const absl::Status& why) {
    const std::lock_guard lock(mutex_);
    lost_.emplace_back(index, why);
    if (transport_ != nullptr) transport_->Wake();
  };
  absl::StatusOr<JoinReply> reply = server.control->Join(request, std::move(lost), deadline);
  if (!reply.ok()) return Annotate(reply.status(), NameOf(index));
  if (reply->servers != static_cast<int>(servers_.size()) || reply->server != index) {
    return InvalidArgument(
        "{} says that it is server {} of {}; name all servers, in the order of their index",
        NameOf(index), reply->server, reply->servers);
  }
  if (index == 0) {
    number_ = reply->worker;
    job_ = *std::move(reply);
    return absl::OkStatus();
  }
  const auto same = [](const JoinReply& a, const JoinReply& b) {
    return a.consistency == b.consistency && a.staleness == b.staleness && a.workers == b.workers &&
           a.slice_bytes == b.slice_bytes && a.window == b.window && a.transport == b.transport &&
           a.shards_per_server == b.shards_per_server && a.replicas == b.replicas &&
           a.restored_step == b.restored_step;
  };
  if (!same(job_, *reply)) {
    return InvalidArgument(
        "{} was started with other options than {}: compare consistency, "
        "workers, threads, slices, transport, replica and checkpoint",
        NameOf(index), NameOf(0));
  }
  return absl::OkStatus();
}

absl::Status Worker::Impl::OpenTransport(const std::string& server) {
  GW_ASSIGN_OR_RETURN(const auto place, ParseHostPort(server));
  settings_.transport = job_.transport;
  settings_.slots = job_.window;
  settings_.slice_bytes = job_.slice_bytes;
  settings_.lanes = 1;
  world_ = MakeSoloWorld(LocalAddressTowards(place.first, place.second));
  GW_ASSIGN_OR_RETURN(auto transport, CreateTransport(*world_, settings_, "ps"));
  const std::lock_guard lock(mutex_);
  transport_ = std::move(transport);
  return absl::OkStatus();
}

absl::Status Worker::Impl::Allocate() {
  const auto elements = static_cast<size_t>(layout_.elements());
  const size_t bytes = std::max<size_t>(elements, 16) * sizeof(float);
  const bool half = options_.wire != DataType::kFloat32;
  GW_ASSIGN_OR_RETURN(parameters_region_,
                      transport_->Allocate(bytes, half ? Access::kLocal : Access::kRemoteWrite));
  GW_ASSIGN_OR_RETURN(gradients_region_, transport_->Allocate(bytes, Access::kLocal));
  if (half) {
    GW_ASSIGN_OR_RETURN(landing_region_, transport_->Allocate(bytes / 2, Access::kRemoteWrite));
    GW_ASSIGN_OR_RETURN(packed_region_, transport_->Allocate(bytes / 2, Access::kLocal));
  }
  GW_ASSIGN_OR_RETURN(messages_, SendPool::Make(*transport_, sizeof(Request), kMessageBuffers));
  const auto view = [elements](const Region& region) {
    return std::span<float>(reinterpret_cast<float*>(region.bytes().data()), elements);
  };
  parameters_ = view(parameters_region_);
  gradients_ = view(gradients_region_);
  return absl::OkStatus();
}

absl::StatusOr<int64_t> Worker::Impl::Connect(Shard& shard, int server, Deadline deadline) {
  const bool half = options_.wire != DataType::kFloat32;
  const size_t elements = parameters_.size();
  GW_ASSIGN_OR_RETURN(
      auto end, transport_->PrepareLink(
                    shard.index, NameOf(server),
                    {.window = job_.window, .slot_bytes = static_cast<size_t>(job_.slice_bytes)}));
  ConnectRequest request = {
      .worker = number_, .shard = shard.index, .facts = end->facts(), .wire = options_.wire};
  request.parameters = half ? landing_region_.grant() : parameters_region_.grant();
  request.parameters.length = elements * SizeOf(options_.wire);
  if (!half) {
    request.gradients = gradients_region_.grant();
    request.gradients.length = elements * sizeof(float);
  }
  if (shard.failed_over) {
    request.step = step_;
    for (const auto& [operation, asked] : shard.asked) {
      const bool pushes = asked.op == Op::kPush || asked.op == Op::kPushPull;
      if (pushes) request.step = std::min(request.step, asked.step - 1);
    }
  }
  ControlClient& control = *servers_[static_cast<size_t>(server)].control;
  absl::StatusOr<ConnectReply> reply = control.Connect(request, deadline);
  if (!reply.ok()) return Annotate(reply.status(), NameOf(server));
  GW_ASSIGN_OR_RETURN(Link* const link, transport_->FinishLink(std::move(end), reply->facts,
                                                               Role::kConnect, deadline));
  const ShardLink::Memory memory = {.gradients = half ? &packed_region_ : &gradients_region_,
                                    .wire = options_.wire,
                                    .in_place = reply->maps};
  shard.server = server;
  shard.link =
      std::make_unique<ShardLink>(link, placement_.slices(shard.index), memory, *messages_);
  return reply->clock;
}

void Worker::Impl::Disconnect(Shard& shard) {
  if (shard.link == nullptr) return;
  stats_.bytes_pushed += shard.link->bytes_pushed();
  stats_.bytes_pulled += shard.link->bytes_pulled();
  Link* const link = shard.link->link();
  shard.link.reset();
  transport_->CloseLink(link);
}

std::vector<std::pair<int, absl::Status>> Worker::Impl::TakeLost() {
  const std::lock_guard lock(mutex_);
  return std::exchange(lost_, {});
}

absl::Status Worker::Impl::FailOver(Shard& shard, const absl::Status& why, Deadline deadline) {
  const std::string primary = NameOf(shard.server);
  if (!job_.replicas) {
    return Unavailable(
        "shard {}: {} was lost ({}); start it again from its last checkpoint with "
        "`gradwire ps serve --restore`, or run servers with --replica",
        shard.index, primary, Message(why));
  }
  const int next = (shard.server + 1) % static_cast<int>(servers_.size());
  if (shard.failed_over || servers_[static_cast<size_t>(next)].lost) {
    return Unavailable("shard {}: {} was lost ({}), and so was the server with its other copy",
                       shard.index, primary, Message(why));
  }
  Disconnect(shard);
  // The replica takes over once it, too, has lost the primary.
  ControlClient& control = *servers_[static_cast<size_t>(next)].control;
  absl::Status promoted = control.Promote(shard.index, deadline);
  while (absl::IsUnavailable(promoted) && control.status().ok() &&
         Clock::now() + kPromotePause < deadline) {
    std::this_thread::sleep_for(kPromotePause);
    promoted = control.Promote(shard.index, deadline);
  }
  if (!promoted.ok()) {
    return Annotate(promoted, fmt::format("shard {}: {} was lost ({}), {} cannot take over",
                                          shard.index, primary, Message(why), NameOf(next)));
  }
  shard.failed_over = true;
  ++stats_.failovers;
  GW_ASSIGN_OR_RETURN(const int64_t clock, Connect(shard, next, deadline));
  spdlog::warn("shard {}: {} was lost, {} goes on from step {}", shard.index, primary, NameOf(next),
               clock);
  return AskAgain(shard, clock);
}

absl::Status Worker::Impl::AskAgain(Shard& shard, int64_t clock) {
  for (auto& [operation, request] : shard.asked) {
    const bool pushes = request.op == Op::kPush || request.op == Op::kPushPull;
    if (pushes && request.step <= clock) {
      // The replica has the whole step: what is left is to read, or nothing.
      ++stats_.duplicates;
      request.flags = 0;
      if (request.op == Op::kPush) request.first = request.count = 0;
      request.op = Op::kPull;
    }
    Send(shard, request);
  }
  return shard.link->Pump();
}

absl::Status Worker::Impl::Leave() {
  if (std::exchange(left_, true)) return absl::OkStatus();
  for (Shard& shard : shards_) {
    if (shard.link != nullptr && transport_ != nullptr) Disconnect(shard);
  }
  for (Server& server : servers_) {
    if (server.control != nullptr) server.control->Leave();
  }
  return failure_;
}

Worker::Impl::~Impl() {
  Leave().IgnoreError();
  // Sessions end before what their callbacks use.
  servers_.clear();
}

}  // namespace gradwire::ps
