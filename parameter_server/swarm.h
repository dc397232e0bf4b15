// Many simulated workers in one process against real servers: each has a link of its own to every
// shard (over RDMA a queue pair), pushes gradients and pulls parameters; only the computing between
// is left out.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "transport/settings.h"
#include "transport/status.h"

namespace gradwire::ps {

struct SwarmOptions {
  std::vector<std::string> servers;  // "host:port", in order of their index; at least one to run
  int workers = 10;                  // 1..10000
  int64_t bytes = 4096;              // of the one tensor, float32
  int steps = 100;                   // of each worker
  // Of a worker, from the start of one step to that of the next; 0: at once. Workers begin spread
  // over the first interval. A step that is late does not delay the ones after it.
  std::chrono::microseconds interval{0};
  int first_worker = -1;  // number of the first; -1: the server gives them
};

// InvalidArgument names the flag.
absl::Status Validate(const SwarmOptions& options);

// Times of one kind, in seconds. A percentile is the smallest time with that share of all at or
// below it (the nearest rank).
struct Distribution {
  uint64_t count = 0;
  double mean = 0, p50 = 0, p95 = 0, p99 = 0, max = 0;

  static Distribution Of(std::vector<float>& seconds);
};

struct SwarmReport {
  int workers = 0;
  int connected = 0;
  uint64_t steps_wanted = 0;
  uint64_t steps_done = 0;
  std::vector<std::string> errors;  // the first few, each another
  std::string transport;            // Transport::description()
  double connect_seconds = 0;       // of all workers
  Distribution connect;             // a worker's links to all shards
  double run_seconds = 0;           // from the first push to the last answer
  Distribution push_pull;           // from the push, or from when it was due, to the answer
  double worker_bytes = 0;          // resident memory here per worker, without its tensors
  int64_t tensor_bytes = 0;         // of a worker: parameters and gradients

  double success() const {
    return steps_wanted == 0 ? 0
                             : static_cast<double>(steps_done) / static_cast<double>(steps_wanted);
  }
  double setup_rate() const { return connect_seconds > 0 ? connected / connect_seconds : 0; }
  double update_rate() const {
    return run_seconds > 0 ? static_cast<double>(steps_done) / run_seconds : 0;
  }
};

// Connects all workers one after another, then lets them step. A worker that fails is counted, the
// others go on; an error is returned only when nothing could be measured. `progress` is told of
// (connected workers, finished steps) before the first connects, when all have, at the end, and now
// and then between; the links stand meanwhile.
absl::StatusOr<SwarmReport> RunSwarm(const SwarmOptions& options, const Settings& settings,
                                     const std::function<void(int, uint64_t)>& progress);

// Resident memory of a process in bytes; 0 when it is not known.
int64_t ResidentBytes(int64_t pid);

}  // namespace gradwire::ps
