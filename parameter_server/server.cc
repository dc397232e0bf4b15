#include "parameter_server/server.h"

#include <spdlog/spdlog.h>
#include <sys/random.h>

#include <algorithm>
#include <map>
#include <utility>

#include "parameter_server/server_internal.h"
#include "transport/bootstrap/launcher.h"
#include "transport/bootstrap/solo_world.h"

namespace gradwire::ps {
namespace {

using std::chrono::milliseconds;

constexpr int kMaxServers = 4096;
constexpr int kMaxThreads = 64;
constexpr int64_t kMinSliceBytes = 1 << 10;
constexpr int64_t kMaxSliceBytes = 16 << 20;
constexpr milliseconds kKeep{250};
constexpr size_t kSamples = 12;  // rates are over the last three seconds
constexpr std::chrono::seconds kFlushPatience{10};
constexpr milliseconds kCheckpointPoll{20};

std::string RandomRun() {
  uint64_t random = 0;
  if (getrandom(&random, sizeof(random), 0) != static_cast<ssize_t>(sizeof(random))) {
    random = static_cast<uint64_t>(Clock::now().time_since_epoch().count());
  }
  return fmt::format("{:016x}", random);
}

std::string Text(const ShardOptions& options) {
  std::string text(NameOf(options.consistency));
  if (options.consistency == Consistency::kBsp)
    text += fmt::format(", {} worker{}", options.workers, options.workers == 1 ? "" : "s");
  if (options.consistency == Consistency::kSsp)
    text += fmt::format(", {} steps", options.staleness);
  return text;
}

absl::Status ValidatePeers(const ServerOptions& options, const std::vector<std::string>& peers) {
  if (options.replica && peers.size() != static_cast<size_t>(options.servers)) {
    return InvalidArgument("--replica needs --peers with the {} servers' addresses, not {}",
                           options.servers, peers.size());
  }
  for (const std::string& peer : peers) {
    GW_RETURN_IF_ERROR(Annotate(ParseHostPort(peer).status(), "--peers"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Validate(const ServerOptions& options) {
  const auto in_range = [](std::string_view flag, int64_t value, int64_t low, int64_t high) {
    return value >= low && value <= high
               ? absl::OkStatus()
               : InvalidArgument("{} {}: must be in {}..{}", flag, value, low, high);
  };
  GW_RETURN_IF_ERROR(in_range("--of", options.servers, 1, kMaxServers));
  GW_RETURN_IF_ERROR(in_range("--index", options.server, 0, options.servers - 1));
  GW_RETURN_IF_ERROR(in_range("--threads", options.threads, 1, kMaxThreads));
  GW_RETURN_IF_ERROR(in_range("--port", options.port, 0, 65535));
  GW_RETURN_IF_ERROR(
      in_range("--slice-bytes", options.slice_bytes, kMinSliceBytes, kMaxSliceBytes));
  if (options.slice_bytes % 64 != 0) {
    return InvalidArgument("--slice-bytes {}: must be a multiple of 64", options.slice_bytes);
  }
  GW_RETURN_IF_ERROR(in_range("--window", options.window, 2, Immediate::kMaxWindow));
  GW_RETURN_IF_ERROR(in_range("--keep-checkpoints", options.keep_checkpoints, 1, 1000));
  const ShardOptions& shard = options.shard;
  GW_RETURN_IF_ERROR(in_range("--workers", shard.workers, 1, 1 << 16));
  GW_RETURN_IF_ERROR(in_range("--staleness", shard.staleness, 0, 1 << 20));
  GW_RETURN_IF_ERROR(
      in_range("--checkpoint-every", shard.checkpoint_interval, 0, int64_t{1} << 40));
  if (!(shard.clip_value >= 0)) {
    return InvalidArgument("--clip-value {}: must not be negative", shard.clip_value);
  }
  if (shard.checkpoint_interval > 0 && options.checkpoint.empty()) {
    return InvalidArgument("--checkpoint-every needs --checkpoint, the folder to write to");
  }
  if (options.replica && options.servers < 2) {
    return InvalidArgument("--replica needs another server to keep the copies: --of 2 or more");
  }
  if (!options.peers_follow) GW_RETURN_IF_ERROR(ValidatePeers(options, options.peers));
  return Validate(shard.optimizer);
}

Server::Impl::Impl(const ServerOptions& options, const Settings& settings)
    : options_(options),
      settings_(settings),
      control_settings_(settings),
      run_(options.server == 0 ? RandomRun() : ""),
      peers_(options.peers),
      sessions_(options.shard.consistency, options.shard.workers),
      busy_(Clock::now()) {}

absl::Status Server::Impl::Start() {
  GW_RETURN_IF_ERROR(Validate(settings_));
  std::string local =
      options_.address == "::" || options_.address == "0.0.0.0" ? "" : options_.address;
  if (local.empty() && options_.replica && !options_.peers.empty()) {
    GW_ASSIGN_OR_RETURN(const auto peer,
                        ParseHostPort(options_.peers[static_cast<size_t>(next_server())]));
    local = LocalAddressTowards(peer.first, peer.second);
  }
  world_ = MakeSoloWorld(std::move(local));
  GW_RETURN_IF_ERROR(ReadRestored());
  const int transports = threads() * (options_.replica ? 2 : 1);
  for (int i = 0; i < transports; ++i) {
    GW_ASSIGN_OR_RETURN(auto transport, MakeTransport());
    if (i == 0) {
      transport_ = transport->name();
      device_ = transport->description();
    }
    spare_.push_back(std::move(transport));
  }
  // An unwritable folder is better told now than in the middle of the training.
  if (options_.server == 0) GW_RETURN_IF_ERROR(StartCheckpoints(run_));
  GW_ASSIGN_OR_RETURN(
      control_, ControlServer::Start(*this, options_.address, options_.port, control_settings_));
  control_ready_ = control_.get();
  keeper_ = std::thread([this] { Keep(); });
  return absl::OkStatus();
}

Server::Impl::~Impl() {
  if (const absl::Status closed = Close(); !closed.ok()) spdlog::warn("{}", Message(closed));
}

absl::Status Server::Impl::Close() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    going_down_ = true;
    changed_.notify_all();
  }
  if (keeper_.joinable()) keeper_.join();
  // Sessions first: whoever joins or connects is inside a handler.
  control_ready_ = nullptr;
  control_.reset();
  {
    const std::lock_guard lock(linking_);
    replica_server_.reset();
  }
  shards_.clear();
  replicas_.clear();
  const auto writer = std::move(checkpoints_);
  if (writer == nullptr) return absl::OkStatus();
  return Annotate(writer->Flush(Clock::now() + kFlushPatience),
                  "the last checkpoint is not on disk");
}

std::string Server::Impl::description() const {
  const std::string address = options_.address.empty() ? "*" : options_.address;
  const bool ipv6 = address.find(':') != std::string::npos;
  return fmt::format("server {} of {} at {}:{}, {}; {}; {}{}", options_.server, options_.servers,
                     ipv6 ? "[" + address + "]" : address, port(), device_, Text(options_.shard),
                     options_.shard.optimizer.name,
                     options_.replica ? fmt::format("; replicas at {}", ReplicaAddress()) : "");
}

std::string Server::Impl::ReplicaAddress() const {
  const std::lock_guard lock(linking_);
  return peers_.empty() ? "" : peers_[static_cast<size_t>(next_server())];
}

absl::Status Server::Impl::SetPeers(std::vector<std::string> peers) {
  GW_RETURN_IF_ERROR(ValidatePeers(options_, peers));
  const std::lock_guard lock(linking_);
  if (!peers_.empty())
    return FailedPrecondition("the peers of server {} are known", options_.server);
  peers_ = std::move(peers);
  return absl::OkStatus();
}

// Looks after what no call waits for.
void Server::Impl::Keep() {
  std::unique_lock lock(mutex_);
  while (!going_down_) {
    lock.unlock();
    TakeSample();
    const absl::Status failure = FirstFailure();
    lock.lock();
    if (sessions_.workers() > 0) busy_ = Clock::now();
    if (!failure.ok()) changed_.notify_all();
    changed_.wait_for(lock, kKeep, [this] { return going_down_; });
  }
}

void Server::Impl::TakeSample() {
  if (!configured_) return;
  Sample sample = {.time = Clock::now()};
  for (const auto& shard : shards_) sample.updates.push_back(shard->Status().updates);
  for (const auto& shard : replicas_) sample.updates.push_back(shard->Status().updates);
  const std::lock_guard lock(mutex_);
  samples_.push_back(std::move(sample));
  if (samples_.size() > kSamples) samples_.pop_front();
}

absl::Status Server::Impl::FirstFailure() const {
  if (!configured_) return absl::OkStatus();
  for (const auto& shard : shards_) GW_RETURN_IF_ERROR(shard->status());
  for (const auto& shard : replicas_) GW_RETURN_IF_ERROR(shard->status());
  return absl::OkStatus();
}

absl::Status Server::Impl::Wait(milliseconds idle) {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    lock.unlock();
    const absl::Status failure = FirstFailure();
    lock.lock();
    GW_RETURN_IF_ERROR(failure);
    if (idle.count() > 0 && sessions_.workers() == 0 && Clock::now() - busy_ >= idle) {
      spdlog::info("no worker for {} s, ending", idle.count() / 1000.0);
      return absl::OkStatus();
    }
    changed_.wait_for(lock, kKeep, [this] { return stopping_; });
  }
  return absl::OkStatus();
}

void Server::Impl::Stop() {
  const std::lock_guard lock(mutex_);
  stopping_ = true;
  changed_.notify_all();
}

void Server::Impl::Stop(std::string_view reason) {
  spdlog::info("asked to stop: {}", reason);
  Stop();
}

int64_t Server::Impl::Written(const CheckpointWriter::Progress& progress) const {
  return options_.server == 0 ? progress.manifests : progress.files;
}

std::string Server::Impl::NewestCheckpoint(const CheckpointWriter::Progress& progress) const {
  return fmt::format("{}/step-{:06}", options_.checkpoint,
                     options_.server == 0 ? progress.complete : progress.written);
}

absl::StatusOr<std::string> Server::Impl::Checkpoint() {
  if (options_.checkpoint.empty()) {
    return FailedPrecondition("server {} was started without --checkpoint", options_.server);
  }
  if (!configured_) return FailedPrecondition("there is nothing to save: nobody has joined yet");
  const CheckpointWriter::Progress before = checkpoints_->progress();
  for (const auto& shard : shards_) shard->TakeSnapshot();
  {
    const std::lock_guard lock(mutex_);
    if (promotions_ > 0) {
      for (const auto& shard : replicas_) shard->TakeSnapshot();
    }
  }
  const Deadline start = Clock::now();
  while (true) {
    const CheckpointWriter::Progress now = checkpoints_->progress();
    if (now.failed > before.failed) return now.status;
    // Counted: with nothing pushed meanwhile the step is the one that is on disk already.
    if (Written(now) > Written(before)) return NewestCheckpoint(now);
    GW_RETURN_IF_ERROR(FirstFailure());
    std::unique_lock lock(mutex_);
    if (stopping_) return Unavailable("server {} is going down", options_.server);
    if (Clock::now() - start > control_settings_.op_timeout / 2) {
      return DeadlineExceeded(
          "no checkpoint was complete within {:.1f} s: shards may have been at different steps; "
          "ask all servers, or use --checkpoint-every",
          std::chrono::duration<double>(Clock::now() - start).count());
    }
    changed_.wait_for(lock, kCheckpointPoll);
  }
}

std::string Server::Impl::CheckpointText() const {
  if (options_.checkpoint.empty()) return "";
  if (!configured_) return "none yet";
  const CheckpointWriter::Progress progress = checkpoints_->progress();
  if (!progress.status.ok()) return Message(progress.status);
  return Written(progress) == 0 ? "none yet" : NewestCheckpoint(progress);
}

ServerStatus Server::Impl::Status() {
  ServerStatus status;
  status.server = options_.server;
  status.servers = options_.servers;
  ControlServer* const control = control_ready_;
  status.address = fmt::format("{}:{}", options_.address.empty() ? "*" : options_.address,
                               control == nullptr ? options_.port : control->port());
  status.transport = transport_;
  status.device = device_;
  status.consistency = options_.shard.consistency;
  status.staleness = options_.shard.staleness;
  status.optimizer = options_.shard.optimizer.name;
  status.checkpoint = CheckpointText();
  if (const absl::Status failure = FirstFailure(); !failure.ok()) status.failure = Message(failure);
  if (!configured_) return status;

  std::map<int64_t, WorkerStatus> workers;
  const auto add = [&](const ShardThread& thread) {
    ShardStatus shard = thread.Status();
    if (status.failure.empty()) status.failure = shard.failure;
    for (const auto& [worker, clock] : shard.clocks) {
      const auto [at, fresh] = workers.try_emplace(worker, WorkerStatus{worker, "", clock});
      if (!fresh) at->second.clock = std::min(at->second.clock, clock);
    }
    for (const auto& [worker, waits_for] : shard.waits) workers[worker].waits_for = waits_for;
    status.shards.push_back(std::move(shard));
  };
  for (const auto& shard : shards_) add(*shard);
  for (const auto& shard : replicas_) add(*shard);

  const std::lock_guard lock(mutex_);
  if (samples_.size() > 1 && samples_.back().updates.size() == status.shards.size()) {
    const std::chrono::duration<double> time = samples_.back().time - samples_.front().time;
    for (size_t i = 0; i < status.shards.size(); ++i) {
      status.shards[i].updates_per_second =
          static_cast<double>(samples_.back().updates[i] - samples_.front().updates[i]) /
          time.count();
    }
  }
  for (auto& [number, worker] : workers) {
    worker.worker = number;
    const Session* const session = sessions_.OfWorker(number);
    worker.who =
        session == nullptr ? fmt::format("worker {} (not here)", number) : session->NameOf(number);
    if (session != nullptr && control != nullptr) {
      worker.silent_ms = control->silence(session->id).count();
    }
    status.workers.push_back(std::move(worker));
  }
  return status;
}

// --- Server ---

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerOptions& options,
                                                      const Settings& settings) {
  GW_RETURN_IF_ERROR(Validate(options));
  auto impl = std::make_unique<Impl>(options, settings);
  GW_RETURN_IF_ERROR(impl->Start());
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Server::~Server() = default;
int Server::port() const { return impl_->port(); }
absl::Status Server::SetPeers(std::vector<std::string> peers) {
  return impl_->SetPeers(std::move(peers));
}
std::string Server::description() const { return impl_->description(); }
ServerStatus Server::Status() const { return impl_->Status(); }
absl::Status Server::Wait(milliseconds idle) { return impl_->Wait(idle); }
void Server::Stop() { impl_->Stop(); }
absl::Status Server::Close() { return impl_->Close(); }

}  // namespace gradwire::ps
