// Workers and other servers at a server.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "parameter_server/server_internal.h"

namespace gradwire::ps {
namespace {

// A worker that is started again at once may be faster than the news of its end.
constexpr std::chrono::seconds kNumberPatience{2};
constexpr std::chrono::seconds kConnectPatience{10};

}  // namespace

absl::Status Server::Impl::CheckJoin(const JoinRequest& request) const {
  if (request.transport != "auto" && !request.transport.empty() &&
      request.transport != transport_) {
    return FailedPrecondition(
        "data move by {} here ({}), not by {}; start both with the same "
        "--transport",
        transport_, device_, request.transport);
  }
  if (request.server < 0) return absl::OkStatus();
  if (!options_.replica || request.server != previous_server()) {
    return FailedPrecondition("server {} of {} keeps {}", options_.server, options_.servers,
                              options_.replica
                                  ? fmt::format("replicas of server {}, not of server {}",
                                                previous_server(), request.server)
                                  : "no replicas; start all servers with --replica");
  }
  // Its shards may have gone on without it, or it may come back with nothing.
  bool used = false;
  if (configured_) {
    for (const auto& replica : replicas_) {
      const ShardStatus status = replica->Status();
      used |= (status.initialized && !restored_) || status.updates > 0;
    }
  }
  const std::lock_guard lock(mutex_);
  if (promotions_ > 0 || used) {
    return FailedPrecondition(
        "the replicas of server {} hold a state that it has not seen{}; start the whole job again, "
        "from a checkpoint",
        request.server, promotions_ > 0 ? " and have taken over" : "");
  }
  return absl::OkStatus();
}

absl::StatusOr<Session> Server::Impl::Admit(const JoinRequest& request) {
  std::unique_lock lock(mutex_);
  const Deadline patience = Clock::now() + kNumberPatience;
  while (true) {
    if (stopping_) return Unavailable("it is going down");
    if (request.server >= 0 && sessions_.OfServer(request.server) != nullptr) {
      return MakeError(absl::StatusCode::kAlreadyExists,
                       "{} is here already; two servers must not have the same --index",
                       sessions_.OfServer(request.server)->NameOf(-1));
    }
    const absl::StatusOr<Session*> session = sessions_.Begin(request);
    if (session.ok()) {
      busy_ = Clock::now();
      const int64_t first = (*session)->first;
      gone_.erase(gone_.lower_bound(first), gone_.lower_bound(first + (*session)->count));
      return **session;
    }
    if (!absl::IsAlreadyExists(session.status()) || Clock::now() >= patience) {
      return session.status();
    }
    changed_.wait_until(lock, patience);
  }
}

absl::StatusOr<JoinReply> Server::Impl::Join(const JoinRequest& request) {
  GW_RETURN_IF_ERROR(CheckJoin(request));
  GW_RETURN_IF_ERROR(Configure(request.layout, request.run));
  // The next server may wait for this one: only workers wait until all copies are linked.
  if (request.server < 0) GW_RETURN_IF_ERROR(LinkReplicas(layout_));
  GW_ASSIGN_OR_RETURN(const Session session, Admit(request));
  spdlog::info("{} joined", session.NameOf(session.first));
  JoinReply reply;
  reply.session = session.id;
  reply.worker = session.first;
  reply.server = options_.server;
  reply.servers = options_.servers;
  reply.shards_per_server = threads();
  reply.replicas = options_.replica;
  reply.slice_bytes = options_.slice_bytes;
  reply.window = options_.window;
  reply.transport = transport_;
  reply.device = device_;
  reply.consistency = options_.shard.consistency;
  reply.staleness = options_.shard.staleness;
  reply.workers = options_.shard.workers;
  reply.layout = layout_;
  reply.initialized = std::all_of(shards_.begin(), shards_.end(),
                                  [](const auto& shard) { return shard->Status().initialized; });
  reply.restored_step = restored_ ? restored_->step : 0;
  reply.run = run_;
  return reply;
}

absl::StatusOr<ShardThread*> Server::Impl::FindShard(const Session& session, int shard) {
  if (!configured_) return FailedPrecondition("nobody has joined server {}", options_.server);
  const int own = shard - first_shard();
  if (own >= 0 && own < threads() && session.server < 0) {
    return shards_[static_cast<size_t>(own)].get();
  }
  const int replica = shard - first_replica();
  if (options_.replica && replica >= 0 && replica < threads()) {
    return replicas_[static_cast<size_t>(replica)].get();
  }
  return MakeError(
      absl::StatusCode::kOutOfRange, "{}: server {} keeps shards {}..{}{}, not {}",
      session.NameOf(session.first), options_.server, first_shard(), first_shard() + threads() - 1,
      options_.replica
          ? fmt::format(" and replicas of {}..{}", first_replica(), first_replica() + threads() - 1)
          : "",
      shard);
}

absl::StatusOr<ConnectReply> Server::Impl::Connect(const ConnectRequest& request) {
  Session session;
  {
    const std::lock_guard lock(mutex_);
    Session* const found = sessions_.Find(request.session);
    if (found == nullptr) return FailedPrecondition("its session is over; join again");
    if (found->server >= 0 ? request.worker != -1 : !found->Has(request.worker)) {
      return MakeError(absl::StatusCode::kPermissionDenied,
                       "{} has workers {}..{}, and may not connect as worker {}",
                       found->NameOf(found->first), found->first, found->first + found->count - 1,
                       request.worker);
    }
    if (found->server >= 0 && promotions_ > 0) {
      return FailedPrecondition("the replicas of server {} have taken over", found->server);
    }
    session = *found;
  }
  GW_ASSIGN_OR_RETURN(ShardThread* const shard, FindShard(session, request.shard));
  GW_ASSIGN_OR_RETURN(
      const ConnectReply reply,
      shard->Connect(request, session.NameOf(request.worker), Clock::now() + kConnectPatience));
  bool stands = false;
  {
    const std::lock_guard lock(mutex_);
    stands = sessions_.Find(request.session) != nullptr;
  }
  if (!stands) {
    // It ended while the link was made; what Leave() dropped may have come before.
    shard->Drop(request.worker, "its session ended while it connected");
    return FailedPrecondition("its session is over; join again");
  }
  return reply;
}

void Server::Impl::DropAll(const Session& session, const std::string& lost) {
  if (!configured_) return;
  for (int64_t worker = session.first; worker < session.first + session.count; ++worker) {
    // Under BSP the others are told this.
    const std::string who =
        lost.empty() ? "" : fmt::format("{} is lost: {}", session.NameOf(worker), lost);
    for (const auto& shard : shards_) shard->Drop(worker, who);
    if (!options_.replica) continue;
    {
      const std::lock_guard lock(mutex_);
      gone_[worker] = who;
    }
    for (const auto& replica : replicas_) replica->Drop(worker, who);
  }
}

void Server::Impl::Leave(int64_t id, const std::string& lost) {
  absl::StatusOr<Session> session = absl::UnknownError("");
  bool quiet = false;
  {
    const std::lock_guard lock(mutex_);
    session = sessions_.End(id);
    if (sessions_.workers() > 0 || (session.ok() && session->count > 0)) busy_ = Clock::now();
    quiet = going_down_;
  }
  if (!session.ok()) return;
  // In this order: a number that is given anew must not be dropped for its last owner.
  DropAll(*session, lost);
  {
    const std::lock_guard lock(mutex_);
    changed_.notify_all();
  }
  if (quiet) return;
  const std::string name = session->NameOf(session->first);
  const std::string all = session->count > 1 ? fmt::format(" with {} workers", session->count) : "";
  if (lost.empty()) {
    spdlog::info("{}{} left", name, all);
  } else {
    spdlog::warn("{}{} is lost: {}", name, all, lost);
  }
}

absl::Status Server::Impl::Promote(int shard) {
  const int index = shard - first_replica();
  if (!options_.replica || index < 0 || index >= threads() || !configured_) {
    return FailedPrecondition("server {} keeps no replica of shard {}", options_.server, shard);
  }
  {
    const std::lock_guard lock(mutex_);
    if (const Session* primary = sessions_.OfServer(previous_server())) {
      return Unavailable("shard {}: this replica still hears its primary, {}", shard,
                         primary->NameOf(-1));
    }
    ++promotions_;  // before the shard is: nobody feeds it from here on
  }
  ShardThread& replica = *replicas_[static_cast<size_t>(index)];
  const absl::Status promoted = replica.Promote();
  const std::lock_guard lock(mutex_);
  if (!promoted.ok()) {
    // A shard that has only not answered yet may still take over.
    if (!absl::IsDeadlineExceeded(promoted)) --promotions_;
    return promoted;
  }
  // Its primary may have died before it could say who was gone.
  for (const auto& [worker, lost] : gone_) replica.Drop(worker, lost);
  return absl::OkStatus();
}

}  // namespace gradwire::ps
