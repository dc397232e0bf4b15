#include "parameter_server/shard_thread.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <future>
#include <utility>

#include "parameter_server/shard_thread_internal.h"

namespace gradwire::ps {
namespace {

constexpr std::chrono::milliseconds kIdleWait{100};
constexpr std::chrono::seconds kTaskPatience{10};
// Slices that a snapshot copies between two looks at the links.
constexpr int kSnapshotSlices = 16;
constexpr int kSliceBuffers = 64;
constexpr int kReplyBuffers = 256;

// Told once: by the task, or by its end undone.
struct Outcome {
  void Set(absl::Status status) {
    promise.set_value(std::move(status));
    told = true;
  }
  ~Outcome() {
    if (!told) promise.set_value(absl::CancelledError("the shard has ended"));
  }
  std::promise<absl::Status> promise;
  bool told = false;
};

}  // namespace

ShardThread::Impl::Impl(Options options, std::unique_ptr<Transport> transport)
    : options_(std::move(options)),
      name_(fmt::format("shard {}", options_.shard)),
      transport_(std::move(transport)),
      is_replica_(options_.replica) {}

ShardThread::Impl::~Impl() {
  stop_ = true;
  transport_->Wake();
  if (thread_.joinable()) thread_.join();
}

absl::Status ShardThread::Impl::Start(const LoadedPieces* restore) {
  const Placement& placement = options_.placement;
  const auto elements =
      static_cast<size_t>(placement.end(options_.shard) - placement.begin(options_.shard));
  GW_ASSIGN_OR_RETURN(
      parameters_,
      transport_->Allocate(std::max<size_t>(elements, 1) * sizeof(float), Access::kLocal));
  const std::span<float> parameters(reinterpret_cast<float*>(parameters_.bytes().data()), elements);
  GW_ASSIGN_OR_RETURN(shard_, Shard::Make(options_.layout, placement, options_.shard, parameters,
                                          options_.shard_options));
  if (restore != nullptr) GW_RETURN_IF_ERROR(shard_->Restore(*restore));
  decoded_.resize(static_cast<size_t>(placement.largest_slice()));
  const size_t slice_bytes = std::max<size_t>(decoded_.size() * sizeof(float), 64);
  GW_ASSIGN_OR_RETURN(slices_, SendPool::Make(*transport_, slice_bytes, kSliceBuffers));
  GW_ASSIGN_OR_RETURN(replies_, SendPool::Make(*transport_, sizeof(Reply), kReplyBuffers));
  shard_->set_observer([this](const Request& change, std::span<const float> values) {
    changed_ = true;
    if (replica_) replica_->Tell(change, values);
  });
  UpdateStatus();
  thread_ = std::thread([this] { Loop(); });
  return absl::OkStatus();
}

void ShardThread::Impl::Loop() {
  pthread_setname_np(pthread_self(), fmt::format("ps-{}", name_).substr(0, 15).c_str());
  std::array<Completion, 64> completions;
  while (!stop_) {
    RunTasks();
    Serve();
    ServeSnapshot();
    Bury();
    if (const Deadline now = Clock::now(); now >= tell_) {
      UpdateStatus();
      tell_ = now + kIdleWait;
    }
    const bool more = !ready_.empty() || shard_->snapshot_open();
    const absl::StatusOr<int> count = more
                                          ? transport_->Poll(completions)
                                          : transport_->Wait(completions, Clock::now() + kIdleWait);
    if (!count.ok()) {
      if (absl::IsDeadlineExceeded(count.status())) continue;
      Fail(count.status());
      break;
    }
    for (int i = 0; i < *count; ++i) Dispatch(completions[static_cast<size_t>(i)]);
  }
  RunTasks();
  for (const auto& peer : peers_) {
    if (peer != nullptr && peer->link != nullptr) transport_->CloseLink(peer->link);
  }
  replica_.reset();
}

void ShardThread::Impl::RunTasks() {
  std::vector<std::function<void()>> tasks;
  {
    const std::lock_guard lock(mutex_);
    tasks.swap(tasks_);
  }
  for (const auto& task : tasks) task();
}

void ShardThread::Impl::Post(std::function<void()> task) {
  {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
  }
  transport_->Wake();
}

absl::Status ShardThread::Impl::Run(std::function<absl::Status()> task, Deadline deadline) {
  GW_RETURN_IF_ERROR(status());
  auto answer = std::make_shared<Outcome>();
  std::future<absl::Status> told = answer->promise.get_future();
  Post([task = std::move(task), answer] { answer->Set(task()); });
  answer.reset();
  if (told.wait_until(deadline) != std::future_status::ready) {
    return DeadlineExceeded("{} does not answer", name_);
  }
  return told.get();
}

void ShardThread::Impl::Fail(const absl::Status& why) {
  spdlog::error("{}: {}", name_, Message(why));
  const std::lock_guard lock(mutex_);
  if (failure_.ok()) failure_ = Annotate(why, name_);
}

absl::Status ShardThread::Impl::status() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

ShardStatus ShardThread::Impl::Status() const {
  const std::lock_guard lock(mutex_);
  return told_;
}

void ShardThread::Impl::UpdateStatus() {
  ShardStatus now;
  now.shard = options_.shard;
  now.role = is_replica_ ? "replica" : replica_lost_ ? "primary, not replicated" : "primary";
  now.bytes = static_cast<int64_t>(parameters_.size());
  now.initialized = shard_->initialized();
  now.min_clock = shard_->step();
  for (const auto& [worker, step] : shard_->clock().steps()) now.clocks.emplace_back(worker, step);
  now.updates = shard_->counters().slices_applied;
  now.duplicates = shard_->counters().duplicates;
  now.refused = refused_;
  now.failure = Message(shard_->failure());
  for (const auto& peer : peers_) {
    if (peer == nullptr || peer->dead) continue;
    ++now.links;
    if (!peer->pending.empty() && peer->pending.front().blocked_by >= 0) {
      now.waits.emplace_back(peer->worker, peer->pending.front().blocked_by);
    }
  }
  const std::lock_guard lock(mutex_);
  told_ = std::move(now);
}

// --- Tasks ---

absl::StatusOr<ConnectReply> ShardThread::Impl::Connect(const ConnectRequest& request,
                                                        const std::string& who, Deadline deadline) {
  auto reply = std::make_shared<ConnectReply>();
  GW_RETURN_IF_ERROR(Run(
      [this, request, who, reply] {
        absl::StatusOr<ConnectReply> made = Accept(request, who);
        if (made.ok()) *reply = *std::move(made);
        return made.status();
      },
      deadline));
  return *std::move(reply);
}

absl::StatusOr<ConnectReply> ShardThread::Impl::Accept(const ConnectRequest& request,
                                                       const std::string& who) {
  const bool primary = request.worker < 0;
  if (primary && !is_replica_) {
    return FailedPrecondition("{} is no replica (any more): {} may not feed it", name_, who);
  }
  if (!primary && is_replica_) {
    return Unavailable("{} is a replica here; its primary serves", name_);
  }
  const auto elements = static_cast<uint64_t>(options_.layout.elements());
  if (!primary) {
    if (request.wire != DataType::kFloat32 && request.wire != DataType::kFloat16 &&
        request.wire != DataType::kBfloat16) {
      return InvalidArgument("{}: numbers travel as float32, float16 or bfloat16, not {}", who,
                             NameOf(request.wire));
    }
    if (request.parameters.length != elements * SizeOf(request.wire)) {
      return InvalidArgument("{} has room for {} bytes of parameters, {} are needed", who,
                             request.parameters.length, elements * SizeOf(request.wire));
    }
    if (request.gradients.length != 0 && request.gradients.length != elements * sizeof(float)) {
      return InvalidArgument("{} has {} bytes of gradients, not {}", who, request.gradients.length,
                             elements * sizeof(float));
    }
  }
  ConnectReply reply;
  if (!primary) {
    GW_ASSIGN_OR_RETURN(reply.clock, shard_->Admit(request.worker, request.step));
    changed_ = true;
  }
  for (const auto& peer : peers_) {
    if (peer != nullptr && !peer->dead && peer->worker == request.worker) {
      Kill(*peer, absl::CancelledError("its worker has opened another link"));
    }
  }
  if (free_labels_.empty()) {
    free_labels_.push_back(static_cast<int>(peers_.size()));
    peers_.emplace_back();
  }
  const int label = free_labels_.back();
  const LinkOptions link_options = {.window = options_.window,
                                    .slot_bytes = static_cast<size_t>(options_.slice_bytes)};
  GW_ASSIGN_OR_RETURN(auto end, transport_->PrepareLink(label, who, link_options));
  reply.facts = end->facts();
  GW_ASSIGN_OR_RETURN(Link* const link,
                      transport_->FinishLink(std::move(end), request.facts, Role::kAccept,
                                             Clock::now() + kTaskPatience));
  free_labels_.pop_back();
  auto peer = std::make_unique<Peer>();
  peer->worker = request.worker;
  peer->who = who;
  peer->link = link;
  peer->wire = request.wire;
  peer->parameters = RemoteRegion(request.parameters);
  if (request.gradients.length != 0 && request.wire == DataType::kFloat32) {
    peer->gradients = link->Map(request.gradients);
    peer->maps = reply.maps = peer->gradients.mapped();
  }
  peers_[static_cast<size_t>(label)] = std::move(peer);
  return reply;
}

void ShardThread::Impl::Drop(int64_t worker, const std::string& lost) {
  Post([this, worker, lost] { Remove(worker, lost); });
}

void ShardThread::Impl::Remove(int64_t worker, const std::string& lost) {
  for (const auto& peer : peers_) {
    if (peer != nullptr && !peer->dead && peer->worker == worker) {
      Kill(*peer, absl::CancelledError(lost.empty() ? "its worker left" : lost));
    }
  }
  // A replica is told by its primary, until it is one itself.
  if (!is_replica_) shard_->Remove(worker, lost);
  changed_ = true;
  tell_ = {};
}

absl::StatusOr<ConnectRequest> ShardThread::Impl::PrepareReplica(const std::string& who,
                                                                 Deadline deadline) {
  auto request = std::make_shared<ConnectRequest>();
  GW_RETURN_IF_ERROR(Run(
      [this, who, request] {
        const LinkOptions options = {.window = options_.window,
                                     .slot_bytes = static_cast<size_t>(options_.slice_bytes)};
        absl::StatusOr<std::unique_ptr<LinkEnd>> end = transport_->PrepareLink(-1, who, options);
        if (!end.ok()) return end.status();
        request->worker = -1;
        request->shard = options_.shard;
        request->facts = (*end)->facts();
        replica_.emplace(*transport_, *std::move(end), who, *replies_, *slices_);
        return absl::OkStatus();
      },
      deadline));
  return *std::move(request);
}

absl::Status ShardThread::Impl::AttachReplica(const ConnectReply& reply, Deadline deadline) {
  return Run(
      [this, reply, deadline] {
        if (!replica_) return FailedPrecondition("{} has no replica to attach", name_);
        return replica_->Attach(reply.facts, deadline);
      },
      deadline);
}

void ShardThread::Impl::DetachReplica(const std::string& why) {
  Post([this, why] { Detach(why); });
}

void ShardThread::Impl::Detach(const std::string& why) {
  if (!replica_) return;
  spdlog::warn("{} goes on without its replica at {}: {}", name_, replica_->who(), why);
  replica_.reset();
  WakeStarved();
  replica_lost_ = true;
  changed_ = true;
}

absl::Status ShardThread::Impl::Promote() {
  return Run(
      [this] {
        if (!is_replica_) return absl::OkStatus();
        if (!shard_->initialized() && shard_->slices().size() > 0) {
          return FailedPrecondition("{}: this replica has no values yet", name_);
        }
        for (const auto& peer : peers_) {
          if (peer != nullptr && !peer->dead && peer->worker < 0) {
            Kill(*peer, absl::CancelledError("the replica has taken over"));
          }
        }
        is_replica_ = false;
        shard_->Promote();
        replica_lost_ = true;
        spdlog::warn("{}: the replica takes over at step {}", name_, shard_->step());
        UpdateStatus();
        return absl::OkStatus();
      },
      Clock::now() + kTaskPatience);
}

void ShardThread::Impl::TakeSnapshot() {
  Post([this] { snapshot_wanted_ = true; });
}

void ShardThread::Impl::ServeSnapshot() {
  if (options_.checkpoints == nullptr || is_replica_) return;
  if (!shard_->snapshot_open()) {
    if (!snapshot_wanted_ && !shard_->SnapshotDue()) return;
    if (!shard_->initialized()) return;
    snapshot_wanted_ = false;
    shard_->BeginSnapshot();
  }
  std::unique_ptr<ShardSnapshot> snapshot = shard_->ContinueSnapshot(kSnapshotSlices);
  if (snapshot != nullptr) options_.checkpoints->Save(std::move(snapshot));
}

// --- ShardThread ---

absl::StatusOr<std::unique_ptr<ShardThread>> ShardThread::Start(
    Options options, std::unique_ptr<Transport> transport, const LoadedPieces* restore) {
  auto impl = std::make_unique<Impl>(std::move(options), std::move(transport));
  GW_RETURN_IF_ERROR(impl->Start(restore));
  return std::unique_ptr<ShardThread>(new ShardThread(std::move(impl)));
}

ShardThread::ShardThread(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ShardThread::~ShardThread() = default;

absl::StatusOr<ConnectReply> ShardThread::Connect(const ConnectRequest& request,
                                                  const std::string& who, Deadline deadline) {
  return impl_->Connect(request, who, deadline);
}
void ShardThread::Drop(int64_t worker, const std::string& lost) { impl_->Drop(worker, lost); }
absl::StatusOr<ConnectRequest> ShardThread::PrepareReplica(const std::string& who,
                                                           Deadline deadline) {
  return impl_->PrepareReplica(who, deadline);
}
absl::Status ShardThread::AttachReplica(const ConnectReply& reply, Deadline deadline) {
  return impl_->AttachReplica(reply, deadline);
}
void ShardThread::DetachReplica(const std::string& why) { impl_->DetachReplica(why); }
absl::Status ShardThread::Promote() { return impl_->Promote(); }
void ShardThread::TakeSnapshot() { impl_->TakeSnapshot(); }
ShardStatus ShardThread::Status() const { return impl_->Status(); }
absl::Status ShardThread::status() const { return impl_->status(); }

}  // namespace gradwire::ps
