// Runs collectives one at a time in the order in which they were issued: a blocking call on the
// caller's thread when nothing is under way, everything else on a progress thread that the first
// asynchronous call starts.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "collectives/communicator.h"
#include "collectives/exchange.h"
#include "collectives/recorder.h"

namespace gradwire {

// A collective as it was asked for; sizes and overlap are checked.
struct Request {
  OperationKey key;
  ConstTensorView in;
  TensorView out;
};

struct Work::State {
  Request request;
  std::mutex mutex;
  std::condition_variable finished;
  bool done = false;
  absl::Status status;
  std::chrono::nanoseconds duration{0};

  void Finish(absl::Status result, std::chrono::nanoseconds took);
};

struct StepScope::State {
  explicit State(Recorder& into) : recorder(into), number(into.BeginStep()) {}
  ~State() { recorder.EndStep(number); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  Recorder& recorder;
  const uint64_t number;
};

class Communicator::Engine {
 public:
  Engine(World& world, std::unique_ptr<Transport> transport, const Settings& settings);
  // Collectives that have not started fail as cancelled; the one under way is waited for.
  ~Engine();

  World& world() { return world_; }
  Transport& transport() { return *transport_; }

  absl::Status Run(const Request& request);
  std::shared_ptr<Work::State> Start(Request request);
  CommunicatorStats stats() const;

  // All ranks together, before the first collective.
  absl::Status StartRecording();
  absl::Status SaveRecording();
  void Record(bool on) { recording_ = on; }
  std::unique_ptr<StepScope::State> BeginStep();

 private:
  // Runs the next collective; the caller holds running_.
  absl::Status Execute(const Request& request);
  Recorder* recorder() const { return recording_ ? recorder_.get() : nullptr; }
  absl::Status Dispatch(const Request& request);
  void ProgressThread();

  World& world_;
  const Settings settings_;
  const std::unique_ptr<Transport> transport_;
  std::unique_ptr<Recorder> recorder_;  // none: nothing is recorded
  std::atomic<bool> recording_ = true;
  Exchange exchange_;  // of whoever holds running_

  mutable std::mutex mutex_;
  std::condition_variable changed_;  // queue_, running_ or stopping_
  std::deque<std::shared_ptr<Work::State>> queue_;
  bool running_ = false;  // a thread is inside Execute
  bool stopping_ = false;
  absl::Status failure_;  // the first; latches
  uint64_t issued_ = 0;
  CommunicatorStats stats_;
  mutable uint64_t device_copied_ = 0;  // bytes, when last asked between collectives
  std::thread thread_;
};

}  // namespace gradwire
