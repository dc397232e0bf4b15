// Making the shards of a server, and linking them to their replicas.
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "parameter_server/server_internal.h"

namespace gradwire::ps {
namespace {

// A link carries requests, replies and credits of one window in either direction.
constexpr int kOtherRequests = 8;
constexpr int kMinQueueDepth = 16;

std::string HostName() {
  char host[256] = "";
  gethostname(host, sizeof(host) - 1);
  return host;
}

}  // namespace

// Each shard has a transport of its own. Links are many and each is narrow: small queues, and
// receives that all links of a shard share.
absl::StatusOr<std::unique_ptr<Transport>> Server::Impl::MakeTransport() {
  Settings settings = settings_;
  settings.slots = options_.window;
  settings.slice_bytes = options_.slice_bytes;
  settings.lanes = 1;
  settings.receive_queue = "shared";
  settings.queue_depth = std::max(kMinQueueDepth, 2 * options_.window + kOtherRequests);
  settings.signal_interval = std::min(settings.signal_interval, settings.queue_depth / 2);
  settings.chain_length = std::min(settings.chain_length, settings.queue_depth / 2);
  if (!transport_.empty()) settings.transport = transport_;  // what the first one decided
  return CreateTransport(*world_, settings, "ps");
}

absl::Status Server::Impl::ReadRestored() {
  if (options_.restore.empty()) return absl::OkStatus();
  absl::StatusOr<CheckpointInfo> info = ReadCheckpoint(options_.restore);
  if (!info.ok()) {
    return Annotate(info.status(), fmt::format("--restore {}", options_.restore));
  }
  restored_ = *std::move(info);
  return absl::OkStatus();
}

absl::Status Server::Impl::Configure(const Layout& layout, const std::string& run) {
  const std::lock_guard lock(configuring_);
  if (configured_) {
    return layout.size() == 0 ? absl::OkStatus()
                              : Annotate(layout.Matches(layout_), "another layout than this job's");
  }
  if (restored_ && layout.size() > 0) {
    GW_RETURN_IF_ERROR(
        Annotate(layout.Matches(restored_->layout), "another layout than the checkpoint's"));
  }
  const Layout& chosen = restored_ ? restored_->layout : layout;
  if (chosen.size() == 0) {
    return Unavailable("it has no layout yet: a worker that brings one joins first");
  }
  const absl::Status started = StartShards(chosen, run);
  if (!started.ok()) {
    shards_.clear();
    replicas_.clear();
    return started;
  }
  layout_ = chosen;
  configured_ = true;
  return absl::OkStatus();
}

absl::Status Server::Impl::StartShards(const Layout& layout, const std::string& run) {
  GW_ASSIGN_OR_RETURN(const Placement placement,
                      Placement::Make(layout, options_.servers * threads(), options_.slice_bytes));
  GW_RETURN_IF_ERROR(StartCheckpoints(run));
  for (int i = 0; i < threads(); ++i) {
    GW_ASSIGN_OR_RETURN(auto shard, StartShard(layout, placement, first_shard() + i, false));
    shards_.push_back(std::move(shard));
  }
  for (int i = 0; options_.replica && i < threads(); ++i) {
    GW_ASSIGN_OR_RETURN(auto shard, StartShard(layout, placement, first_replica() + i, true));
    replicas_.push_back(std::move(shard));
  }
  spdlog::info("placement:\n{}", placement.Describe(layout));
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<ShardThread>> Server::Impl::StartShard(const Layout& layout,
                                                                      const Placement& placement,
                                                                      int shard, bool replica) {
  std::unique_ptr<Transport> transport;
  if (!spare_.empty()) {
    transport = std::move(spare_.back());
    spare_.pop_back();
  } else {
    GW_ASSIGN_OR_RETURN(transport, MakeTransport());
  }
  std::optional<LoadedPieces> loaded;
  if (restored_) {
    const std::vector<Piece> wanted = PiecesOf(layout, placement, shard);
    GW_ASSIGN_OR_RETURN(loaded, LoadPieces(restored_->folder, wanted));
  }
  return ShardThread::Start({.layout = layout,
                             .placement = placement,
                             .shard = shard,
                             .shard_options = options_.shard,
                             .window = options_.window,
                             .slice_bytes = options_.slice_bytes,
                             .replica = replica,
                             .checkpoints = checkpoints_.get()},
                            std::move(transport), loaded ? &*loaded : nullptr);
}

absl::Status Server::Impl::StartCheckpoints(const std::string& run) {
  if (options_.checkpoint.empty() || checkpoints_ != nullptr) return absl::OkStatus();
  if (options_.server > 0) {
    if (run.empty()) {
      return FailedPrecondition(
          "its checkpoints carry the name of the run, which server 0 gives: join server 0 first");
    }
    run_ = run;
  }
  GW_ASSIGN_OR_RETURN(checkpoints_, CheckpointWriter::Start({.folder = options_.checkpoint,
                                                             .keep = options_.keep_checkpoints,
                                                             .run = run_}));
  return absl::OkStatus();
}

absl::Status Server::Impl::LinkReplicas(const Layout& layout) {
  if (!options_.replica) return absl::OkStatus();
  const std::lock_guard lock(linking_);
  if (linked_) return absl::OkStatus();
  if (peers_.empty()) {
    return Unavailable("server {} has not been told where its peers are", options_.server);
  }
  const std::string& peer = peers_[static_cast<size_t>(next_server())];
  const std::string who = fmt::format("server {} at {}", next_server(), peer);
  const absl::Status linked = LinkReplicasAt(peer, layout);
  if (!linked.ok()) {
    replica_server_.reset();
    return Annotate(linked, fmt::format("the replicas at {} cannot be linked", who));
  }
  linked_ = true;
  return absl::OkStatus();
}

absl::Status Server::Impl::LinkReplicasAt(const std::string& peer, const Layout& layout) {
  const Deadline deadline = Clock::now() + control_settings_.join_timeout;
  GW_ASSIGN_OR_RETURN(replica_server_, ControlClient::Open(peer, control_settings_, deadline));
  const JoinRequest request = {.layout = layout,
                               .transport = transport_,
                               .count = 0,
                               .host = HostName(),
                               .pid = getpid(),
                               .server = options_.server,
                               .run = run_};
  GW_ASSIGN_OR_RETURN(
      const JoinReply reply,
      replica_server_->Join(
          request, [this](const absl::Status& why) { ReplicasLost(Message(why)); }, deadline));
  if (reply.server != next_server() || reply.servers != options_.servers || !reply.replicas ||
      reply.shards_per_server != threads() || reply.slice_bytes != options_.slice_bytes ||
      reply.window != options_.window || reply.transport != transport_ ||
      reply.consistency != options_.shard.consistency) {
    return FailedPrecondition(
        "it is server {} of {} and was started with other options; start all servers alike but "
        "for --index, with --peers in the order of the indices",
        reply.server, reply.servers);
  }
  for (const auto& shard : shards_) {
    GW_ASSIGN_OR_RETURN(ConnectRequest connect, shard->PrepareReplica(peer, deadline));
    connect.worker = -1;
    GW_ASSIGN_OR_RETURN(const ConnectReply connected, replica_server_->Connect(connect, deadline));
    GW_RETURN_IF_ERROR(shard->AttachReplica(connected, deadline));
  }
  return absl::OkStatus();
}

void Server::Impl::ReplicasLost(const std::string& why) {
  {
    const std::lock_guard lock(mutex_);
    if (going_down_) return;
  }
  for (const auto& shard : shards_) shard->DetachReplica(why);
}

}  // namespace gradwire::ps
