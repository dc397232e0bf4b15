// Collectives among the ranks of a world.
//
// Every rank calls the same collectives in the same order with the same element count, type and
// operation; a difference is an error on every rank that names the ranks and both values. For one
// algorithm and world size a result is bitwise equal on every rank, whatever the transport, slice
// size or timing. Any count is allowed, zero included.
//
// A call returns when this rank's result is complete and its buffers may be reused. The first
// failure latches: each later call returns it.
//
// Threads. Blocking calls may be mixed with asynchronous ones; all run in the order in which they
// were issued. Calls are issued by one thread at a time.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "collectives/tensor_view.h"
#include "collectives/types.h"
#include "transport/bootstrap/world.h"
#include "transport/memory.h"
#include "transport/settings.h"
#include "transport/status.h"
#include "transport/transport.h"

namespace gradwire {

// Handle of an asynchronous collective. Its tensors must outlive Wait(). Dropping a handle does not
// cancel the collective.
class Work {
 public:
  struct State;
  Work() = default;
  explicit Work(std::shared_ptr<State> state) : state_(std::move(state)) {}

  // True once finished, with or without success; never blocks. True for an empty handle.
  bool Done() const;
  // Blocks until finished; bounded by settings.op_timeout once the collective has started.
  absl::Status Wait();
  // Time from its start on the progress thread to its end; zero until Done().
  std::chrono::nanoseconds duration() const;

 private:
  std::shared_ptr<State> state_;
};

// What this rank has spent on collectives so far.
struct CommunicatorStats {
  uint64_t collectives = 0;
  std::chrono::nanoseconds busy{0};  // inside collectives, on whatever thread
  TransportCounters transport;
  // By collectives, the transport and what is below it, where that tells: DeviceCounters.
  uint64_t bytes_copied = 0;
};

// A step of training in a recording; see Communicator::BeginStep.
class StepScope {
 public:
  struct State;
  explicit StepScope(std::unique_ptr<State> state);
  ~StepScope();
  StepScope(StepScope&&) noexcept;
  StepScope& operator=(StepScope&&) = delete;

 private:
  std::unique_ptr<State> state_;  // none where nothing is recorded
};

class Communicator {
 public:
  // Collective over `world`: opens the transport that `settings` ask for. `world` must outlive it.
  static absl::StatusOr<std::unique_ptr<Communicator>> Create(World& world,
                                                              const Settings& settings);
  ~Communicator();

  int rank() const;
  int size() const;
  // "tcp" or "rdma", and the line that says which device and why.
  std::string transport_name() const;
  std::string description() const;
  CommunicatorStats stats() const;

  // out = reduction of every rank's `in`; same count and type. In place when both are the same
  // memory; partial overlap is InvalidArgument.
  absl::Status AllReduce(TensorView in_out, ReduceOp op = ReduceOp::kSum);
  absl::Status AllReduce(ConstTensorView in, TensorView out, ReduceOp op = ReduceOp::kSum);
  Work AllReduceAsync(TensorView in_out, ReduceOp op = ReduceOp::kSum);
  Work AllReduceAsync(ConstTensorView in, TensorView out, ReduceOp op = ReduceOp::kSum);

  // in.count() = size() * out.count(); rank r receives the reduction of block r. In place when
  // `out` is this rank's block of `in`.
  absl::Status ReduceScatter(ConstTensorView in, TensorView out, ReduceOp op = ReduceOp::kSum);
  Work ReduceScatterAsync(ConstTensorView in, TensorView out, ReduceOp op = ReduceOp::kSum);

  // out.count() = size() * in.count(); block r of `out` is rank r's `in`. In place when `in` is
  // this rank's block of `out`.
  absl::Status AllGather(ConstTensorView in, TensorView out);
  Work AllGatherAsync(ConstTensorView in, TensorView out);

  // Every rank's tensor becomes root's.
  absl::Status Broadcast(TensorView tensor, int root);
  Work BroadcastAsync(TensorView tensor, int root);

  // Returns on no rank before all have called it.
  absl::Status Barrier();
  Work BarrierAsync();

  // Writes what --telemetry recorded so far into its folder; OK when nothing is recorded. Otherwise
  // the destructor does it and can only log what goes wrong.
  absl::Status SaveRecording();
  // Whether collectives and steps that follow are recorded; they are unless told otherwise.
  void Record(bool on);
  // A step of training by this thread, until what is returned is destroyed: a recording tells how
  // long it took, and how long the thread stood still for collectives meanwhile. One that begins
  // ends the one before. Steps end before the communicator, and in the thread that began them.
  [[nodiscard]] StepScope BeginStep();

  // Page-aligned, zeroed memory that is registered once: the place for gradient buckets.
  absl::StatusOr<Region> Allocate(size_t bytes);

 private:
  class Engine;
  explicit Communicator(std::unique_ptr<Engine> engine);
  std::unique_ptr<Engine> engine_;
};

}  // namespace gradwire
