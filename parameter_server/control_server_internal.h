// The inside of ControlServer: life and sessions in control_server.cc, the calls in
// control_calls.cc.
#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>

#include "gradwire/v1/parameter_server.grpc.pb.h"
#include "parameter_server/control.h"
#include "parameter_server/control_pool_internal.h"

namespace gradwire::ps::internal {

using Time = std::chrono::steady_clock::time_point;

// For last answers when the server goes down.
inline constexpr std::chrono::milliseconds kClosingGrace{1000};

// Something that the queue hands back.
class Event {
 public:
  virtual ~Event() = default;
  // On the server's thread. `ok` as gRPC has it.
  virtual void Done(bool ok) = 0;
};

// One thread takes every event of the queue; handlers run on the threads of two pools.
class GrpcServer final : public ControlServer {
 public:
  using Service = v1::ParameterServer::AsyncService;

  GrpcServer(ControlHandler& handler, const Settings& settings);
  ~GrpcServer() override;

  absl::Status Start(const std::string& address, int port);
  int port() const override { return port_; }
  std::chrono::milliseconds silence(int64_t session) const override;

 private:
  template <typename Request, typename Reply>
  class Unary;
  class Attendance;
  struct Session {
    Time heard;  // last; of joining at first
    bool attended = false;
  };

  void Run();
  void Tick(Time now);

  // --- control_calls.cc ---
  // Has every call of the service accepted from now on.
  void AcceptCalls();
  void TickCalls(Time now);
  // This server was stopped for so long itself; beats may wait unread.
  void Forgive(std::chrono::steady_clock::duration pause);

  template <typename Request>
  absl::Status Check(const Request& request) const;

  // What the calls do.
  absl::Status Greet(const v1::GreetRequest&, v1::Done*) { return absl::OkStatus(); }
  absl::Status Join(const v1::JoinRequest& request, v1::JoinReply* reply);
  absl::Status Connect(const v1::ConnectRequest& request, v1::ConnectReply* reply);
  absl::Status Leave(const v1::LeaveRequest& request, v1::Done*);
  absl::Status Promote(const v1::PromoteRequest& request, v1::Done*);
  absl::Status Checkpoint(const v1::CheckpointRequest&, v1::CheckpointReply* reply);
  absl::Status Status(const v1::StatusRequest&, v1::StatusReply* reply);
  absl::Status Stop(const v1::StopRequest& request, v1::Done*);

  // Where a call runs; null: on the server's own thread, since it never waits.
  WorkPool* PoolFor(const v1::GreetRequest&) { return nullptr; }
  WorkPool* PoolFor(const v1::JoinRequest& request) {
    return request.server() < 0 ? &waiting_ : &pool_;  // workers wait for servers
  }
  WorkPool* PoolFor(const v1::CheckpointRequest&) { return &waiting_; }
  template <typename Request>
  WorkPool* PoolFor(const Request&) {
    return &pool_;
  }

  // The reply never left.
  void Undelivered(const v1::JoinReply& reply) {
    EndSession(reply.session(), "connection closed while it joined");
  }
  template <typename Reply>
  void Undelivered(const Reply&) {}

  // --- control_server.cc: sessions ---
  // The session's one attending call has come.
  absl::Status Attend(int64_t session);
  void Heard(int64_t session);
  bool Stands(int64_t session);
  // Whether the session stood; from now on it does not.
  bool TakeSession(int64_t session);
  void EndSession(int64_t session, std::string lost);

  ControlHandler& handler_;
  const Settings settings_;
  int port_ = 0;
  Service service_;
  std::unique_ptr<grpc::ServerCompletionQueue> queue_;
  std::unique_ptr<grpc::Server> server_;
  std::thread thread_;
  std::atomic<bool> closing_ = false;  // no new sessions, those that stand are told
  std::atomic<bool> closed_ = false;   // the server is down: end once all events are back

  // The server's thread alone:
  size_t calls_ = 0;  // all that the queue or a pool holds, those that wait for a caller included
  std::set<Attendance*> attendances_;
  bool told_ = false;

  mutable std::mutex mutex_;  // guards what follows
  std::map<int64_t, Session> sessions_;

  WorkPool pool_;
  WorkPool waiting_;
};

}  // namespace gradwire::ps::internal
