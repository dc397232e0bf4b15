// The inside of Server: life and what people ask in server.cc, workers in server_control.cc, shards
// and replicas in server_shards.cc.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "parameter_server/checkpoint_writer.h"
#include "parameter_server/server.h"
#include "parameter_server/sessions.h"
#include "parameter_server/shard_thread.h"
#include "transport/bootstrap/world.h"

namespace gradwire::ps {

class Server::Impl final : public ControlHandler {
 public:
  Impl(const ServerOptions& options, const Settings& settings);
  ~Impl() override;
  absl::Status Close();

  absl::Status Start();
  int port() const { return control_->port(); }
  absl::Status SetPeers(std::vector<std::string> peers);
  std::string description() const;
  absl::Status Wait(std::chrono::milliseconds idle);
  void Stop();

  // --- ControlHandler ---
  absl::StatusOr<JoinReply> Join(const JoinRequest& request) override;
  absl::StatusOr<ConnectReply> Connect(const ConnectRequest& request) override;
  void Leave(int64_t session, const std::string& lost) override;
  absl::Status Promote(int shard) override;
  absl::StatusOr<std::string> Checkpoint() override;
  ServerStatus Status() override;
  void Stop(std::string_view reason) override;

 private:
  // Slices applied by a shard, sampled.
  struct Sample {
    Clock::time_point time;
    std::vector<uint64_t> updates;  // by shard, replicas last
  };

  int threads() const { return options_.threads; }
  int next_server() const { return (options_.server + 1) % options_.servers; }
  int previous_server() const {
    return (options_.server + options_.servers - 1) % options_.servers;
  }
  // Of this server in a list of all.
  int first_shard() const { return options_.server * threads(); }
  int first_replica() const { return previous_server() * threads(); }

  // --- server.cc ---
  // Where the copies of this server's shards are; empty while that is not known.
  std::string ReplicaAddress() const;
  void Keep();
  void TakeSample();
  absl::Status FirstFailure() const;
  // Of what is this server's to write: manifests for server 0, files of shards for the others.
  int64_t Written(const CheckpointWriter::Progress& progress) const;
  std::string NewestCheckpoint(const CheckpointWriter::Progress& progress) const;
  std::string CheckpointText() const;

  // --- server_control.cc ---
  absl::Status CheckJoin(const JoinRequest& request) const;
  // Waits a little for a number whose last owner was lost a moment ago.
  absl::StatusOr<Session> Admit(const JoinRequest& request);
  absl::StatusOr<ShardThread*> FindShard(const Session& session, int shard);
  void DropAll(const Session& session, const std::string& lost);

  // --- server_shards.cc ---
  absl::StatusOr<std::unique_ptr<Transport>> MakeTransport();
  absl::Status ReadRestored();
  // Makes the shards; a second call checks that the layout is the same. Waits for a first one.
  absl::Status Configure(const Layout& layout, const std::string& run);
  absl::Status StartShards(const Layout& layout, const std::string& run);
  absl::StatusOr<std::unique_ptr<ShardThread>> StartShard(const Layout& layout,
                                                          const Placement& placement, int shard,
                                                          bool replica);
  absl::Status StartCheckpoints(const std::string& run);
  // Links every shard to its replica, once; later calls tell how that went.
  absl::Status LinkReplicas(const Layout& layout);
  absl::Status LinkReplicasAt(const std::string& who, const Layout& layout);
  void ReplicasLost(const std::string& why);

  const ServerOptions options_;
  Settings settings_;  // as shards' transports take them
  const Settings control_settings_;
  std::unique_ptr<World> world_;
  std::vector<std::unique_ptr<Transport>> spare_;  // made at the start, for shards to come
  std::string transport_;                          // name and description of the first
  std::string device_;
  std::optional<CheckpointInfo> restored_;

  // Held while shards are made or linked; never while a worker's link is.
  std::mutex configuring_;
  std::string run_;
  std::unique_ptr<CheckpointWriter> checkpoints_;
  std::atomic<bool> configured_ = false;  // from here on what follows does not change
  Layout layout_;
  std::vector<std::unique_ptr<ShardThread>> shards_;
  std::vector<std::unique_ptr<ShardThread>> replicas_;  // of the previous server's

  mutable std::mutex linking_;
  std::vector<std::string> peers_;                 // guarded by linking_
  bool linked_ = false;                            // guarded by linking_
  std::unique_ptr<ControlClient> replica_server_;  // guarded by linking_

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  Sessions sessions_;
  int promotions_ = 0;  // of replicas, done or under way
  // Workers that left or were lost (how; empty: left) and have not come again; with replicas alone.
  std::map<int64_t, std::string> gone_;
  bool stopping_ = false;  // Wait() returns
  bool going_down_ = false;
  Clock::time_point busy_;  // last moment with a worker
  std::deque<Sample> samples_;

  std::unique_ptr<ControlServer> control_;
  std::atomic<ControlServer*> control_ready_ = nullptr;
  std::thread keeper_;  // last: uses all of the above
};

}  // namespace gradwire::ps
