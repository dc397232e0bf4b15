// The inside of Worker: joining and failing over in worker_connect.cc, requests in worker.cc.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "parameter_server/control.h"
#include "parameter_server/send_pool.h"
#include "parameter_server/shard_link.h"
#include "parameter_server/worker.h"
#include "transport/bootstrap/world.h"

namespace gradwire::ps {

class Worker::Impl {
 public:
  Impl(const Layout& layout, const WorkerOptions& options, const Settings& settings)
      : layout_(layout), options_(options), settings_(settings) {}
  ~Impl();

  absl::Status Join(const std::vector<std::string>& servers);
  // `scale` is for kApplyHeld; pushes find their own.
  absl::StatusOr<Handle> Ask(Op op, uint8_t flags, int first, int last, float scale = 1);
  absl::Status Wait(Handle handle);
  absl::Status Initialize(std::span<const float> values);
  absl::Status PushPull();
  absl::Status EndStep();
  absl::Status Leave();
  WorkerStats Stats() const;

  const Layout layout_;
  const WorkerOptions options_;
  Settings settings_;
  Placement placement_;
  JoinReply job_;  // what the first server said
  int64_t number_ = -1;
  int64_t step_ = 0;  // last one ended
  int64_t members_ = 0;
  std::string description_;
  std::span<float> parameters_;
  std::span<float> gradients_;
  absl::Status failure_;  // the first; every later call returns it

 private:
  // What the caller asked for, cut by shard.
  struct Operation {
    Op op = Op::kPull;
    uint8_t flags = 0;
    int first = 0, last = 0;
    int64_t step = 0;
    float scale = 1;
    int outstanding = 0;  // shards without an answer
    absl::Status status;
    std::vector<double> squares;  // kHold: by shard
  };
  struct Server {
    std::string address;
    std::unique_ptr<ControlClient> control;
    bool lost = false;  // its session has ended
  };
  struct Shard {
    int index = 0;
    int server = 0;            // that serves it now
    bool failed_over = false;  // to the replica
    std::unique_ptr<ShardLink> link;
    // What is not answered, to be asked again after a failover.
    std::deque<std::pair<uint64_t, Request>> asked;  // operation, request
  };

  // --- worker_connect.cc ---
  absl::Status JoinServer(int index, Deadline deadline);
  absl::Status OpenTransport(const std::string& server);
  absl::Status Allocate();
  // Makes the link to `shard` at `server`; returns the shard's clock for this worker.
  absl::StatusOr<int64_t> Connect(Shard& shard, int server, Deadline deadline);
  void Disconnect(Shard& shard);
  // The shard's link or server is gone: moves to the replica and asks again, or fails.
  absl::Status FailOver(Shard& shard, const absl::Status& why, Deadline deadline);
  absl::Status AskAgain(Shard& shard, int64_t clock);
  // Servers whose sessions ended since the last call.
  std::vector<std::pair<int, absl::Status>> TakeLost();
  std::string NameOf(int server) const;

  // --- worker.cc ---
  // Sends what stands in shard.asked.
  void Send(Shard& shard, const Request& request);
  void Answered(Shard& shard, const Reply& reply);
  // Moves everything on; sleeps until something happens or `deadline`.
  absl::Status Progress(Deadline deadline);
  absl::Status Latch(absl::Status status);
  std::string Overdue(const Operation& operation) const;
  absl::Status PushPullClipped();

  std::vector<Server> servers_;
  std::unique_ptr<World> world_;
  std::unique_ptr<Transport> transport_;
  Region parameters_region_;  // float32; what pulls are written to unless `wire` is half
  Region gradients_region_;
  Region landing_region_;  // half only: what pulls are written to
  Region packed_region_;   // half only: what pushes are sent from
  std::optional<SendPool> messages_;
  std::vector<Shard> shards_;
  std::map<uint64_t, Operation> operations_;
  uint64_t last_operation_ = 0;
  std::vector<double> held_squares_;  // of the last kHold, by shard
  bool step_open_ = false;            // something of step_ + 1 has been pushed
  bool left_ = false;
  WorkerStats stats_;

  mutable std::mutex mutex_;
  std::vector<std::pair<int, absl::Status>> lost_;  // guarded by mutex_
};

}  // namespace gradwire::ps
