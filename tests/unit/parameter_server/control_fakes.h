// A server's handler that answers from what a test sets, and helpers around it.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "parameter_server/control.h"
#include "transport/link.h"

namespace gradwire::ps::testing {

inline Settings TestSettings() {
  Settings settings;
  settings.heartbeat_interval = std::chrono::milliseconds(100);
  settings.heartbeat_timeout = std::chrono::milliseconds(30'000);
  settings.join_timeout = std::chrono::milliseconds(10'000);
  settings.op_timeout = std::chrono::milliseconds(10'000);
  return settings;
}

inline Deadline Within(std::chrono::milliseconds time) {
  return std::chrono::steady_clock::now() + time;
}

class FakeHandler : public ControlHandler {
 public:
  struct Ending {
    int64_t session;
    std::string lost;
  };

  absl::StatusOr<JoinReply> Join(const JoinRequest& request) override {
    if (join_pause.count() > 0) std::this_thread::sleep_for(join_pause);
    const std::lock_guard lock(mutex_);
    joins_.push_back(request);
    if (!join_status.ok()) return join_status;
    JoinReply reply = join_reply;
    reply.session = ++sessions_;
    if (request.layout.size() > 0) reply.layout = request.layout;
    changed_.notify_all();
    return reply;
  }
  absl::StatusOr<ConnectReply> Connect(const ConnectRequest& request) override {
    ++connects;
    const std::lock_guard lock(mutex_);
    last_connect_ = request;
    if (!connect_status.ok()) return connect_status;
    return connect_reply;
  }
  void Leave(int64_t session, const std::string& lost) override {
    const std::lock_guard lock(mutex_);
    endings_.push_back({session, lost});
    changed_.notify_all();
  }
  absl::Status Promote(int shard) override {
    return Unavailable("shard {}: its replica still hears the primary", shard);
  }
  absl::StatusOr<std::string> Checkpoint() override { return std::string("/tmp/step-7"); }
  ServerStatus Status() override { return status; }
  void Stop(std::string_view reason) override {
    const std::lock_guard lock(mutex_);
    stopped_ = reason;
  }

  // What became of sessions, once there are `count` ends; fewer after `patience`.
  std::vector<Ending> Endings(size_t count, std::chrono::milliseconds patience) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, patience, [&] { return endings_.size() >= count; });
    return endings_;
  }
  std::vector<JoinRequest> joins() {
    const std::lock_guard lock(mutex_);
    return joins_;
  }
  ConnectRequest last_connect() {
    const std::lock_guard lock(mutex_);
    return last_connect_;
  }
  std::string stopped() {
    const std::lock_guard lock(mutex_);
    return stopped_;
  }

  // To be set before the server starts.
  JoinReply join_reply{.slice_bytes = 4096, .window = 8, .transport = "tcp"};
  absl::Status join_status;
  std::chrono::milliseconds join_pause{0};
  ConnectReply connect_reply;
  absl::Status connect_status;
  ServerStatus status;
  std::atomic<int> connects = 0;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int64_t sessions_ = 0;
  std::vector<JoinRequest> joins_;
  std::vector<Ending> endings_;
  ConnectRequest last_connect_;
  std::string stopped_;
};

}  // namespace gradwire::ps::testing
