// A shard at work: one thread with a transport of its own, which takes requests off the links of
// all workers, hands slices to the shard, and writes parameters and replies.
//
// Threads. Everything public may be called from any thread; it is carried out by the shard's own.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "parameter_server/checkpoint_writer.h"
#include "parameter_server/control.h"
#include "parameter_server/layout.h"
#include "parameter_server/shard.h"
#include "transport/settings.h"
#include "transport/transport.h"

namespace gradwire::ps {

class ShardThread {
 public:
  struct Options {
    Layout layout;
    Placement placement;
    int shard = 0;
    ShardOptions shard_options;
    int window = 8;
    int64_t slice_bytes = 64 << 10;
    bool replica = false;  // repeats another shard until it is promoted
    // Where snapshots go; null: nowhere. Outlives the thread.
    CheckpointWriter* checkpoints = nullptr;
  };

  // Takes over `transport`. `restore`: start from a checkpoint; may be null.
  static absl::StatusOr<std::unique_ptr<ShardThread>> Start(Options options,
                                                            std::unique_ptr<Transport> transport,
                                                            const LoadedPieces* restore);
  // Ends all links; workers see them closed.
  ~ShardThread();

  // A worker's link; the worker takes part from now on. A second link of a worker ends the first.
  // `who` describes it in messages. With `request.worker` < 0 the peer is the shard's primary, and
  // this is its replica.
  absl::StatusOr<ConnectReply> Connect(const ConnectRequest& request, const std::string& who,
                                       Deadline deadline);
  // The worker is gone; `lost` is empty for an orderly end.
  void Drop(int64_t worker, const std::string& lost);

  // This shard's end of the link to its replica, and what the replica answered. From AttachReplica
  // on no push is acknowledged before the replica has it. The replica must hold the same state:
  // attach before the first value.
  absl::StatusOr<ConnectRequest> PrepareReplica(const std::string& who, Deadline deadline);
  absl::Status AttachReplica(const ConnectReply& reply, Deadline deadline);
  // The replica is gone: the shard goes on without.
  void DetachReplica(const std::string& why);
  // This replica takes over; workers may connect from now on.
  absl::Status Promote();

  void TakeSnapshot();
  ShardStatus Status() const;
  // OK while the thread serves.
  absl::Status status() const;

 private:
  class Impl;
  explicit ShardThread(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace gradwire::ps
