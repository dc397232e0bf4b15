// The inside of ShardThread: life and tasks in shard_thread.cc, the data path in shard_serve.cc.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "parameter_server/pooled_writes.h"
#include "parameter_server/protocol.h"
#include "parameter_server/replica_link.h"
#include "parameter_server/send_pool.h"
#include "parameter_server/shard_thread.h"

namespace gradwire::ps {

class ShardThread::Impl {
 public:
  Impl(Options options, std::unique_ptr<Transport> transport);
  ~Impl();

  absl::Status Start(const LoadedPieces* restore);

  absl::StatusOr<ConnectReply> Connect(const ConnectRequest& request, const std::string& who,
                                       Deadline deadline);
  void Drop(int64_t worker, const std::string& lost);
  absl::StatusOr<ConnectRequest> PrepareReplica(const std::string& who, Deadline deadline);
  absl::Status AttachReplica(const ConnectReply& reply, Deadline deadline);
  void DetachReplica(const std::string& why);
  absl::Status Promote();
  void TakeSnapshot();
  ShardStatus Status() const;
  absl::Status status() const;

 private:
  // A request that is not answered yet.
  struct Pending {
    Request request;
    absl::Status error;            // why it is refused
    uint32_t expected = 0;         // slices that come with it
    uint32_t received = 0;         // of them
    uint32_t sent = 0;             // slices pulled
    uint32_t applied = 0;          // slices of a push that have been seen to be applied
    int64_t min_clock = 0;         // when the first slice was sent
    std::optional<uint64_t> mark;  // what the replica must have before the reply; empty: not known
    Deadline blocked_since{};
    int64_t blocked_by = -1;
    std::chrono::nanoseconds waited{0};
    int64_t waited_for = -1;
    bool ended = false;  // its effects beside slices took place
  };
  // The other end of a link.
  struct Peer {
    int64_t worker = -1;  // -1: this replica's primary
    std::string who;
    Link* link = nullptr;
    DataType wire = DataType::kFloat32;
    RemoteRegion parameters;
    RemoteRegion gradients;
    bool maps = false;
    uint32_t last_number = 0;
    std::deque<Completion> arrivals;  // not consumed; their slots are still taken
    std::deque<Pending> pending;      // only the last may lack slices
    PooledWrites writes;
    bool ready = false;    // in ready_
    bool blocked = false;  // in blocked_: waits for a change of the shard
    bool dead = false;
  };

  // --- shard_thread.cc ---
  // Has the shard's thread carry out `task` and waits for it.
  absl::Status Run(std::function<absl::Status()> task, Deadline deadline);
  void Post(std::function<void()> task);
  void Loop();
  void RunTasks();
  absl::StatusOr<ConnectReply> Accept(const ConnectRequest& request, const std::string& who);
  void Remove(int64_t worker, const std::string& lost);
  void Detach(const std::string& why);
  void Fail(const absl::Status& why);
  void UpdateStatus();
  void ServeSnapshot();

  // --- shard_serve.cc ---
  void Dispatch(const Completion& completion);
  void MakeReady(Peer& peer);
  // Buffers have come back.
  void WakeStarved();
  // Does all that can be done now.
  void Serve();
  void Pump(Peer& peer);
  // Take in what has come; an error when the peer broke the protocol.
  absl::Status Consume(Peer& peer);
  absl::Status Begin(Peer& peer, const Completion& arrival);
  // The next slice of a request; false when it is not there yet or must wait.
  absl::StatusOr<bool> ConsumeSlice(Peer& peer, Pending& pending);
  // Where it lies; an error when something else has come.
  absl::StatusOr<ConstBytes> NextSlice(const Peer& peer, const Pending& pending,
                                       bool in_place) const;
  // Hands it to the shard; false when it must wait.
  bool TakeSlice(Peer& peer, Pending& pending, ConstBytes bytes);
  void EndPush(Peer& peer, Pending& pending);
  // Send what may be sent.
  absl::Status Answer(Peer& peer);
  // False when it must wait.
  absl::StatusOr<bool> SendSlices(Peer& peer, Pending& pending);
  absl::StatusOr<bool> SendReply(Peer& peer, Pending& pending);
  bool ReadyToReply(Peer& peer, Pending& pending);
  void Block(Peer& peer, Pending* pending, int64_t waits_for);
  void Unblock(Pending& pending);
  void Kill(Peer& peer, const absl::Status& why);
  void Bury();
  std::span<const float> Decode(ConstBytes bytes, DataType wire);

  const Options options_;
  const std::string name_;  // "shard 3"
  std::unique_ptr<Transport> transport_;
  Region parameters_;
  std::unique_ptr<Shard> shard_;
  std::optional<SendPool> slices_;   // to send from, of one slice each
  std::optional<SendPool> replies_;  // of one message each

  // The shard's thread alone.
  std::vector<std::unique_ptr<Peer>> peers_;  // by label; null where free
  std::vector<int> free_labels_;
  std::vector<Peer*> ready_;
  std::vector<Peer*> blocked_;
  std::vector<Peer*> starved_;  // wait for a buffer
  std::vector<Peer*> dead_;
  std::vector<float> decoded_;
  std::optional<ReplicaLink> replica_;
  bool replica_lost_ = false;
  bool is_replica_;
  uint64_t refused_ = 0;  // requests
  bool changed_ = false;  // the shard: what was blocked may go on
  bool snapshot_wanted_ = false;
  Deadline tell_{};  // when the status is due; at once after a worker has left

  std::atomic<bool> stop_{false};
  mutable std::mutex mutex_;
  std::vector<std::function<void()>> tasks_;  // guarded by mutex_
  ShardStatus told_;                          // guarded by mutex_
  absl::Status failure_;                      // guarded by mutex_
  std::thread thread_;                        // last: uses all of the above
};

}  // namespace gradwire::ps
