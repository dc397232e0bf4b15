// The control plane between workers and servers as plain values; control_server.cc and
// control_client.cc carry them over gRPC. No push or pull waits on it.
//
// A session is one process at one server: it begins with Join and stands as long as its heartbeats
// come. Its end, whether by Leave, by death or by silence, is the end of all its workers there.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "parameter_server/consistency.h"
#include "parameter_server/layout.h"
#include "transport/connection_facts.h"
#include "transport/memory.h"
#include "transport/settings.h"
#include "transport/status.h"

namespace gradwire::ps {

inline constexpr int64_t kMaxWorkers = 1 << 20;  // numbers of workers are below it

// What a session wants of a server.
struct JoinRequest {
  Layout layout;          // empty: whatever the server has (monitors, swarms of pulls)
  std::string transport;  // auto | rdma | tcp: what the worker can do
  int64_t worker = -1;    // number of the first worker; -1: the server gives one
  int64_t count = 1;      // workers of this session, with numbers one after another
  std::string host;       // for messages: "rank 2 (node7, pid 4711)" is what a worker is called
  int64_t pid = 0;
  int64_t server = -1;  // this process is a server itself, with this index, and connects as the
                        // primary of shards; -1: workers
  std::string run;      // as server 0's reply has it; empty: not known yet
};

// What the server tells of itself and of the job.
struct JoinReply {
  int64_t session = 0;
  int64_t worker = 0;  // number of the first worker
  int server = 0;      // index of this server, of `servers`
  int servers = 1;
  int shards_per_server = 1;  // server i keeps shards [i * n, (i + 1) * n)
  bool replicas = false;      // server (i + 1) % servers keeps replicas of i's shards
  int64_t slice_bytes = 0;
  int window = 0;         // slots per link
  std::string transport;  // rdma | tcp
  std::string device;     // Transport::description()
  Consistency consistency = Consistency::kBsp;
  int64_t staleness = 0;
  int workers = 0;  // bsp: how many take part
  Layout layout;
  bool initialized = false;   // all shards of this server have values
  int64_t restored_step = 0;  // of the checkpoint the server started from; 0: none
  std::string run;            // names this run; its checkpoints carry it
};

// One worker's link to one shard.
struct ConnectRequest {
  int64_t session = 0;  // filled in by ControlClient
  int64_t worker = 0;
  int shard = 0;
  ConnectionFacts facts;
  MemoryGrant parameters;  // the worker's parameters of the whole layout, to write pulls into
  MemoryGrant gradients;   // likewise; a length of 0: the shard is sent slices only
  DataType wire = DataType::kFloat32;  // or kFloat16, kBfloat16: of slices in both directions
  // Of a worker that comes to a replica: the last step that all of its pushes to the shard were
  // acknowledged for. -1: it comes anew.
  int64_t step = -1;
};
struct ConnectReply {
  ConnectionFacts facts;
  int64_t clock = 0;  // last step of this worker that the shard has whole
  bool maps = false;  // the shard reads the worker's gradients where they lie
};

// State of a server, for people.
struct WorkerStatus {
  int64_t worker = 0;
  std::string who;
  int64_t clock = 0;  // least over the server's shards
  int64_t waits_for = -1;
  int64_t silent_ms = 0;
};
struct ShardStatus {
  int shard = 0;
  std::string role;       // "primary", "primary, not replicated", "replica"
  int64_t bytes = 0;      // of parameters
  int64_t min_clock = 0;  // Shard::step()
  uint64_t updates = 0;   // slices applied
  uint64_t duplicates = 0;
  uint64_t refused = 0;
  double updates_per_second = 0;  // lately
  int links = 0;
  bool initialized = false;                         // has values
  std::string failure;                              // why every request is refused; empty: none
  std::vector<std::pair<int64_t, int64_t>> clocks;  // (worker, last step pushed)
  std::vector<std::pair<int64_t, int64_t>> waits;   // (worker, the worker it waits for) just now
};
struct ServerStatus {
  int server = 0, servers = 1;
  std::string address;
  std::string transport;
  std::string device;
  Consistency consistency = Consistency::kBsp;
  int64_t staleness = 0;
  std::string optimizer;
  std::string checkpoint;  // newest written, or why the last one failed
  std::string failure;     // empty: none
  std::vector<ShardStatus> shards;
  std::vector<WorkerStatus> workers;
};

// Implemented by the server. Called by threads of the control plane, several at once.
class ControlHandler {
 public:
  virtual ~ControlHandler() = default;
  virtual absl::StatusOr<JoinReply> Join(const JoinRequest& request) = 0;
  virtual absl::StatusOr<ConnectReply> Connect(const ConnectRequest& request) = 0;
  // The session's end; `lost` is empty for an orderly one, else how it was lost ("connection
  // closed", "silent for 30.0 s").
  virtual void Leave(int64_t session, const std::string& lost) = 0;
  // A worker lost the primary of `shard` and asks its replica to take over. Unavailable while the
  // replica hears the primary.
  virtual absl::Status Promote(int shard) = 0;
  virtual absl::StatusOr<std::string> Checkpoint() = 0;  // the folder it is written to
  virtual ServerStatus Status() = 0;
  virtual void Stop(std::string_view reason) = 0;  // asked for by `gradwire ps stop`
};

// Serves `handler` until it is destroyed. TLS, token and heartbeats as for the rendezvous.
class ControlServer {
 public:
  // `address`: numeric, empty: all. AlreadyExists when the port is taken.
  static absl::StatusOr<std::unique_ptr<ControlServer>> Start(ControlHandler& handler,
                                                              const std::string& address, int port,
                                                              const Settings& settings);
  virtual ~ControlServer() = default;
  virtual int port() const = 0;
  // Time since the session's last heartbeat; 0 for one that is not there.
  virtual std::chrono::milliseconds silence(int64_t session) const = 0;
};

// A process's session at one server.
class ControlClient {
 public:
  // `server`: "host:port". Unavailable, saying what is wrong, when it is not reached by `deadline`.
  static absl::StatusOr<std::unique_ptr<ControlClient>> Open(
      const std::string& server, const Settings& settings,
      std::chrono::steady_clock::time_point deadline);
  virtual ~ControlClient() = default;  // leaves

  virtual const std::string& server() const = 0;
  // Join also starts the heartbeats. `lost` is called once, by a thread of the session, when the
  // server is gone or silent.
  virtual absl::StatusOr<JoinReply> Join(const JoinRequest& request,
                                         std::function<void(const absl::Status&)> lost,
                                         std::chrono::steady_clock::time_point deadline) = 0;
  virtual absl::StatusOr<ConnectReply> Connect(const ConnectRequest& request,
                                               std::chrono::steady_clock::time_point deadline) = 0;
  virtual absl::Status Promote(int shard, std::chrono::steady_clock::time_point deadline) = 0;
  virtual absl::StatusOr<std::string> Checkpoint() = 0;
  virtual absl::StatusOr<ServerStatus> Status() = 0;
  virtual absl::Status Stop(std::string_view reason) = 0;
  virtual void Leave() = 0;
  // OK until the server was lost.
  virtual absl::Status status() const = 0;
};

}  // namespace gradwire::ps
