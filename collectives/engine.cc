#include "collectives/engine.h"

#include <spdlog/spdlog.h>

#include <cstring>
#include <utility>

#include "collectives/algorithms.h"

namespace gradwire {

void Work::State::Finish(absl::Status result, std::chrono::nanoseconds took) {
  {
    const std::lock_guard lock(mutex);
    status = std::move(result);
    duration = took;
    done = true;
  }
  finished.notify_all();
}

bool Work::Done() const {
  if (state_ == nullptr) return true;
  const std::lock_guard lock(state_->mutex);
  return state_->done;
}

absl::Status Work::Wait() {
  if (state_ == nullptr) return absl::OkStatus();
  const telemetry::Span held(telemetry::Kind::kHeld);
  std::unique_lock lock(state_->mutex);
  state_->finished.wait(lock, [this] { return state_->done; });
  return state_->status;
}

std::chrono::nanoseconds Work::duration() const {
  if (state_ == nullptr) return {};
  const std::lock_guard lock(state_->mutex);
  return state_->duration;
}

Communicator::Engine::Engine(World& world, std::unique_ptr<Transport> transport,
                             const Settings& settings)
    : world_(world),
      settings_(settings),
      transport_(std::move(transport)),
      exchange_(world, *transport_, settings) {}

Communicator::Engine::~Engine() {
  std::deque<std::shared_ptr<Work::State>> left;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    left.swap(queue_);
  }
  changed_.notify_all();
  for (const auto& state : left) {
    state->Finish(absl::CancelledError("the communicator was destroyed"), {});
  }
  if (thread_.joinable()) thread_.join();
  if (recorder_ && !recorder_->saved()) {
    if (const absl::Status saved = recorder_->Save(); !saved.ok()) {
      spdlog::error("the recording of this rank is lost: {}", Message(saved));
    }
  }
}

absl::Status Communicator::Engine::StartRecording() {
  if (settings_.telemetry.empty()) return absl::OkStatus();
  GW_ASSIGN_OR_RETURN(recorder_, Recorder::Start(world_, *transport_, settings_));
  return absl::OkStatus();
}

absl::Status Communicator::Engine::SaveRecording() {
  if (!recorder_) return absl::OkStatus();
  std::unique_lock lock(mutex_);
  const Deadline deadline = Clock::now() + settings_.op_timeout;
  while (!queue_.empty() || running_) {
    if (Clock::now() >= deadline) return DeadlineExceeded("a collective is under way still");
    changed_.wait_for(lock, std::chrono::milliseconds(1));
  }
  return recorder_->Save();
}

std::unique_ptr<StepScope::State> Communicator::Engine::BeginStep() {
  Recorder* const recording = recorder();
  return recording == nullptr ? nullptr : std::make_unique<StepScope::State>(*recording);
}

absl::Status Communicator::Engine::Run(const Request& request) {
  std::unique_lock lock(mutex_);
  if (!queue_.empty() || running_) {  // keep the order: behind what was issued before
    lock.unlock();
    return Work(Start(request)).Wait();
  }
  running_ = true;
  lock.unlock();
  const telemetry::Span held(telemetry::Kind::kHeld);
  absl::Status status = Execute(request);
  lock.lock();
  running_ = false;
  if (thread_.joinable()) {
    lock.unlock();
    changed_.notify_all();
  }
  return status;
}

std::shared_ptr<Work::State> Communicator::Engine::Start(Request request) {
  auto state = std::make_shared<Work::State>();
  state->request = std::move(request);
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back(state);
    if (!thread_.joinable()) thread_ = std::thread([this] { ProgressThread(); });
  }
  changed_.notify_all();
  return state;
}

void Communicator::Engine::ProgressThread() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stopping_ || (!queue_.empty() && !running_); });
    if (stopping_) return;
    const std::shared_ptr<Work::State> state = std::move(queue_.front());
    queue_.pop_front();
    running_ = true;
    lock.unlock();
    const Deadline start = Clock::now();
    absl::Status status = Execute(state->request);
    const auto took = Clock::now() - start;
    // Before anybody learns of the end: stats() is to have all of it then.
    lock.lock();
    running_ = false;
    lock.unlock();
    state->Finish(std::move(status), took);
    lock.lock();
  }
}

absl::Status Communicator::Engine::Execute(const Request& request) {
  if (!failure_.ok()) return failure_;
  if (const int64_t late = settings_.delay_us.For(world_.rank());
      late > 0 && request.key.count > 0) {
    std::this_thread::sleep_for(std::chrono::microseconds(late));
  }
  const Deadline start = Clock::now();
  absl::Status status;
  {
    const Recorder::Operation recorded(recorder(), request.key, issued_ + 1);
    status = exchange_.Begin(request.key, ++issued_);
    if (status.ok()) status = Dispatch(request);
  }
  if (!status.ok()) status = exchange_.Explain(std::move(status));
  const std::lock_guard lock(mutex_);
  if (!status.ok()) failure_ = status;
  ++stats_.collectives;
  stats_.busy += Clock::now() - start;
  stats_.transport = transport_->counters();
  stats_.bytes_copied = stats_.transport.bytes_copied + exchange_.bytes_copied();
  return status;
}

absl::Status Communicator::Engine::Dispatch(const Request& request) {
  const OperationKey& key = request.key;
  const Tensors tensors{static_cast<const std::byte*>(request.in.data()),
                        static_cast<std::byte*>(request.out.data()), key.count, key.type, key.op};
  // Without bytes there is still a meeting, so that a rank which has some is found out.
  const bool meeting = key.kind == CollectiveKind::kBarrier || key.count == 0;
  if (exchange_.size() == 1) {
    if (!meeting && tensors.in != tensors.out) {
      std::memcpy(tensors.out, tensors.in, tensors.bytes());
    }
    return absl::OkStatus();
  }
  if (meeting || key.kind == CollectiveKind::kAllReduce) {
    switch (
        ChooseAllReduce(settings_, exchange_.size(), world_.oversubscribed(), tensors.bytes())) {
      case AllReduceAlgorithm::kTree:
        return TreeAllReduce(exchange_, tensors);
      case AllReduceAlgorithm::kRecursiveDoubling:
        return RecursiveDoublingAllReduce(exchange_, tensors);
      case AllReduceAlgorithm::kRing:
        return meeting ? RecursiveDoublingAllReduce(exchange_, tensors)
                       : RingAllReduce(exchange_, tensors);
    }
  }
  switch (key.kind) {
    case CollectiveKind::kReduceScatter:
      return RingReduceScatter(exchange_, tensors);
    case CollectiveKind::kAllGather:
      return RingAllGather(exchange_, tensors);
    default:
      return gradwire::Broadcast(exchange_, tensors, key.root);
  }
}

CommunicatorStats Communicator::Engine::stats() const {
  const std::lock_guard lock(mutex_);
  CommunicatorStats stats = stats_;
  // The device belongs to whoever runs a collective. TCP has none that copies, and asking its
  // kernel is a system call for each connection.
  if (!running_ && transport_->name() != "tcp") {
    device_copied_ = transport_->device_counters().bytes_copied;
  }
  stats.bytes_copied += device_copied_;
  return stats;
}

}  // namespace gradwire
