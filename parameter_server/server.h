// A parameter server: the shards that one process keeps, and the service at which workers join.
//
// Several servers share a layout: server i of n keeps shards [i * threads, (i + 1) * threads) of
// n * threads. All are started with the same options but for the index. With replicas, server
// (i + 1) % n also keeps a copy of i's shards, which is updated before a push is acknowledged.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "parameter_server/control.h"
#include "parameter_server/shard_options.h"
#include "transport/settings.h"
#include "transport/status.h"

namespace gradwire::ps {

struct ServerOptions {
  int server = 0;  // index, 0..servers-1
  int servers = 1;
  int threads = 1;  // shards of this server, each with a thread, 1..64
  ShardOptions shard;
  bool replica = false;
  // Of all servers, in order of their index, as "host:port"; needed with replicas.
  std::vector<std::string> peers;
  bool peers_follow = false;       // SetPeers() brings them, once all servers have a port
  std::string address;             // to listen on, numeric; empty: all
  int port = 0;                    // 0: any free one
  int64_t slice_bytes = 64 << 10;  // the unit of one write, 1 KiB..16 MiB
  int window = 8;                  // slots of a worker at a shard, 2..64
  std::string checkpoint;          // folder; empty: none
  int keep_checkpoints = 3;
  std::string restore;  // checkpoint or folder of checkpoints; empty: start anew
};

// InvalidArgument names the flag.
absl::Status Validate(const ServerOptions& options);

class Server {
 public:
  // Serves from now on. The layout comes from the checkpoint or from who joins first.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerOptions& options,
                                                       const Settings& settings);
  // As Close(); what is not on disk is logged then.
  ~Server();

  int port() const;
  // With ServerOptions::peers_follow, before the first worker joins.
  absl::Status SetPeers(std::vector<std::string> peers);
  // "server 0 of 2 at 10.0.0.1:4000, rdma on urxe0 ...; ssp, 3 steps; adam".
  std::string description() const;
  ServerStatus Status() const;

  // Until Stop(), until `idle` has passed since the last worker left (zero: for ever), or until a
  // shard fails; the failure then.
  absl::Status Wait(std::chrono::milliseconds idle);
  // From any thread, signal handlers excepted.
  void Stop();
  // Ends all sessions and waits until the checkpoints that were begun are on disk; the error of the
  // last one. Nothing but the destructor may follow.
  absl::Status Close();

 private:
  class Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace gradwire::ps
