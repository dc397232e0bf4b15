// A worker's side of the parameter server.
//
//   GW_ASSIGN_OR_RETURN(auto worker, ps::Worker::Join(servers, layout, options, settings));
//   GW_RETURN_IF_ERROR(worker->Initialize(values));     // the first one's count
//   GW_RETURN_IF_ERROR(worker->Pull());
//   for each step:
//     fill worker->gradients(i) from worker->parameters(i)
//     GW_RETURN_IF_ERROR(worker->PushPull());
//
// Parameters and gradients lie in registered memory of the worker, tensor by tensor in the order of
// the layout; parameters arrive there by RDMA. Gradients must not change between a push and the end
// of its wait, parameters are not to be read between a pull and the end of its wait.
//
// Failure. A server that is lost fails over to its replica where there is one: the call takes
// longer, nothing is lost or counted twice. Otherwise the first failure latches.
//
// Threads. One thread at a time.
#pragma once

#include <Eigen/Core>
#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "parameter_server/consistency.h"
#include "parameter_server/layout.h"
#include "transport/settings.h"
#include "transport/status.h"
#include "transport/transport.h"

namespace gradwire::ps {

struct WorkerOptions {
  int64_t worker = -1;  // number; -1: the first server gives one. BSP: the rank, 0..workers-1
  DataType wire = DataType::kFloat32;  // kFloat16 and kBfloat16 halve the bytes, both ways
  double clip_norm = 0;  // global L2 norm that a step's gradient is scaled down to; 0: off
};

// Tensors [first, last) of the layout, an operation under way.
struct Handle {
  uint64_t number = 0;
};

// What it has cost so far.
struct WorkerStats {
  uint64_t steps = 0;
  uint64_t bytes_pushed = 0;  // payload
  uint64_t bytes_pulled = 0;
  uint64_t failovers = 0;
  uint64_t duplicates = 0;  // pushes that the servers had already when they were sent again
  std::chrono::nanoseconds waited{0};   // inside Wait and what calls it
  std::chrono::nanoseconds held_up{0};  // of that: servers waited for other workers
  int64_t held_up_by = -1;              // the worker waited for last
  int64_t max_staleness = 0;            // steps: own step less the least clock of what was pulled
  TransportCounters transport;
};

class Worker {
 public:
  // `servers`: "host:port" of all, in order of their index. Blocks until connected to all or
  // settings.join_timeout; InvalidArgument when they disagree with `layout` or each other.
  static absl::StatusOr<std::unique_ptr<Worker>> Join(const std::vector<std::string>& servers,
                                                      const Layout& layout,
                                                      const WorkerOptions& options,
                                                      const Settings& settings);
  ~Worker();  // leaves

  int64_t number() const;
  const Layout& layout() const;
  const Placement& placement() const;
  Consistency consistency() const;
  int64_t staleness() const;
  // The last step pushed; after joining, that from which the servers want this worker to go on.
  int64_t step() const;
  const std::string& transport() const;  // rdma | tcp
  // Workers that took part in the last reply.
  int64_t members() const;
  // One line: transport, device, servers, consistency.
  std::string description() const;
  WorkerStats stats() const;

  std::span<float> parameters();  // all, in layout order
  std::span<float> gradients();
  Eigen::Map<Eigen::ArrayXf> parameter(int tensor);
  Eigen::Map<Eigen::ArrayXf> gradient(int tensor);

  // First values, unless the servers have some. Then every worker pulls.
  absl::Status Initialize(std::span<const float> values);

  // The step's gradients of all tensors, or of [first, last); EndStep belongs after the last ones.
  // PushPull() of all tensors ends the step by itself.
  absl::StatusOr<Handle> PushAsync(int first, int last);
  absl::StatusOr<Handle> PullAsync(int first, int last);
  absl::StatusOr<Handle> PushPullAsync(int first, int last);
  // Bounded by settings.op_timeout; DeadlineExceeded names the server and whom it waits for.
  absl::Status Wait(Handle handle);
  absl::Status EndStep();

  absl::Status Push();
  absl::Status Pull();
  absl::Status PushPull();

  // Orderly end.
  absl::Status Leave();

 private:
  class Impl;
  explicit Worker(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace gradwire::ps
