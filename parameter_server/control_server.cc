#include <grpcpp/grpcpp.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "gradwire/v1/parameter_server.grpc.pb.h"
#include "parameter_server/control.h"
#include "parameter_server/control_internal.h"
#include "parameter_server/control_pool_internal.h"
#include "transport/bootstrap/limits_internal.h"
#include "transport/bootstrap/service_internal.h"
#include "transport/bootstrap/tls_internal.h"

namespace gradwire::ps {
namespace {

using gradwire::internal::OneLine;
using internal::FromProto;
using internal::ToGrpc;
using internal::ToProto;
using std::chrono::milliseconds;
using std::chrono::steady_clock;
using Time = steady_clock::time_point;
using Service = v1::ParameterServer::AsyncService;

// How often silence and deadlines are looked at.
constexpr milliseconds kTick{100};
// For last answers when the server goes down.
constexpr milliseconds kClosingGrace{1000};
constexpr size_t kMaxCalls = 16 << 10;
// Calls that may wait for others (a worker's Join, a checkpoint) never keep the rest from a thread.
constexpr int kThreads = 4;
constexpr int kWaitingThreads = 8;

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
  GrpcServer(ControlHandler& handler, const Settings& settings)
      : handler_(handler), settings_(settings), pool_(kThreads), waiting_(kWaitingThreads) {}
  ~GrpcServer() override;

  absl::Status Start(const std::string& address, int port);
  int port() const override { return port_; }
  milliseconds silence(int64_t session) const override;

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
  internal::WorkPool* PoolFor(const v1::GreetRequest&) { return nullptr; }
  internal::WorkPool* PoolFor(const v1::JoinRequest& request) {
    return request.server() < 0 ? &waiting_ : &pool_;  // workers wait for servers
  }
  internal::WorkPool* PoolFor(const v1::CheckpointRequest&) { return &waiting_; }
  template <typename Request>
  internal::WorkPool* PoolFor(const Request&) {
    return &pool_;
  }

  // The reply never left.
  void Undelivered(const v1::JoinReply& reply) {
    EndSession(reply.session(), "connection closed while it joined");
  }
  template <typename Reply>
  void Undelivered(const Reply&) {}

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

  internal::WorkPool pool_;
  internal::WorkPool waiting_;
};

// A call with one request and one reply. It deletes itself.
template <typename Request, typename Reply>
class GrpcServer::Unary final : public Event {
 public:
  using Accept = void (Service::*)(grpc::ServerContext*, Request*,
                                   grpc::ServerAsyncResponseWriter<Reply>*, grpc::CompletionQueue*,
                                   grpc::ServerCompletionQueue*, void*);
  using Work = absl::Status (GrpcServer::*)(const Request&, Reply*);

  static void Arm(GrpcServer& server, Accept accept, Work work) {
    if (server.closing_) return;
    auto* call = new Unary(server, accept, work);
    ++server.calls_;
    (server.service_.*accept)(&call->context_, &call->request_, &call->writer_, server.queue_.get(),
                              server.queue_.get(), call);
  }

  void Done(bool ok) override {
    if (!accepted_ && ok) {
      accepted_ = true;
      Arm(server_, accept_, work_);
      return Begin();
    }
    (void)answered_.load(std::memory_order_acquire);
    if (accepted_ && !ok) server_.Undelivered(reply_);
    --server_.calls_;
    delete this;
  }

 private:
  Unary(GrpcServer& server, Accept accept, Work work)
      : server_(server), accept_(accept), work_(work), writer_(&context_) {}

  void Begin() {
    absl::Status status = server_.Check(request_);
    if (status.ok() && server_.calls_ > kMaxCalls) {
      status =
          MakeError(absl::StatusCode::kResourceExhausted, "it has {} calls open", server_.calls_);
    }
    if (!status.ok()) return Finish(status);
    internal::WorkPool* pool = server_.PoolFor(request_);
    if (pool == nullptr) return Finish(Call());
    pool->Submit([this] { Finish(Call()); });
  }

  // GCC's check of the object behind a pointer to member reads address 0 here.
  __attribute__((no_sanitize("vptr"))) absl::Status Call() {
    return (server_.*work_)(request_, &reply_);
  }

  void Finish(const absl::Status& status) {
    answered_.store(true, std::memory_order_release);
    if (status.ok()) {
      writer_.Finish(reply_, grpc::Status::OK, this);
    } else {
      writer_.FinishWithError(ToGrpc(status), this);
    }
  }

  GrpcServer& server_;
  const Accept accept_;
  const Work work_;
  grpc::ServerContext context_;
  Request request_;
  Reply reply_;
  grpc::ServerAsyncResponseWriter<Reply> writer_;
  bool accepted_ = false;
  // Says in our own code that the pool's thread comes before the one that deletes the call; the
  // completion queue, which orders them, is not instrumented.
  std::atomic<bool> answered_ = false;
};

// A session's call: as long as it stands and beats come, so does the session. It lives until its
// last event was taken from the queue.
class GrpcServer::Attendance final {
 public:
  static void Arm(GrpcServer& server) {
    if (server.closing_) return;
    auto* call = new Attendance(server);
    ++server.calls_;
    ++call->pending_;
    server.service_.RequestAttend(&call->context_, &call->stream_, server.queue_.get(),
                                  server.queue_.get(), &call->accept_);
  }

  void Tick(Time now) {
    const auto silence = now - heard_;
    if (ending_) {
      if (now > patience_) context_.TryCancel();  // the last message is not taken
    } else if (session_ == 0) {
      if (silence > internal::kAttendPatience) End(ProtocolError("a session was never named"));
    } else if (!server_.Stands(session_)) {
      End(absl::OkStatus());  // it left
    } else if (silence > server_.settings_.heartbeat_timeout) {
      const std::string lost =
          fmt::format("silent for {:.1f} s", std::chrono::duration<double>(silence).count());
      server_.EndSession(session_, lost);
      End(Unavailable("this process was {} and counts as lost", lost));
    }
  }

  // This server was stopped for so long itself; beats may wait unread.
  void Forgive(steady_clock::duration pause) { heard_ += pause; }

  void End(const absl::Status& status) {
    if (ending_) return;
    ending_ = true;
    status_ = status;
    patience_ = steady_clock::now() + kClosingGrace;
    Finish();
  }

 private:
  // One of the call's events.
  struct Tag final : Event {
    Tag(Attendance* owner, void (Attendance::*what)(bool)) : call(owner), handle(what) {}
    void Done(bool ok) override { call->Handle(handle, ok); }
    Attendance* call;
    void (Attendance::*handle)(bool);
  };

  explicit Attendance(GrpcServer& server) : server_(server), stream_(&context_) {}

  void Handle(void (Attendance::*handle)(bool), bool ok) {
    --pending_;
    (this->*handle)(ok);
    if (pending_ > 0) return;
    server_.attendances_.erase(this);
    --server_.calls_;
    delete this;
  }

  void Accepted(bool ok) {
    if (!ok) return;
    heard_ = steady_clock::now();
    server_.attendances_.insert(this);
    Arm(server_);
    Read();
    if (server_.calls_ > kMaxCalls) {
      End(MakeError(absl::StatusCode::kResourceExhausted, "it has {} calls open", server_.calls_));
    }
  }

  void Read() {
    ++pending_;
    stream_.Read(&beat_, &read_);
  }

  void Received(bool ok) {
    if (!ok) {  // the connection is gone, or the process closed its side
      if (!ending_ && session_ != 0) server_.EndSession(session_, "connection closed");
      ending_ = true;
      return Finish();
    }
    heard_ = steady_clock::now();
    if (!ending_ && session_ == 0) {
      absl::Status status = server_.Check(beat_);
      if (status.ok()) status = server_.Attend(beat_.session());
      if (status.ok()) session_ = beat_.session();
      if (!status.ok()) End(status);
    }
    if (session_ != 0) server_.Heard(session_);
    if (!ending_ && !writing_) {
      writing_ = true;
      ++pending_;
      stream_.Write(v1::Done(), &write_);
    }
    Read();
  }

  void Wrote(bool) {  // if not, the next read fails too
    writing_ = false;
    if (ending_) Finish();
  }

  void Finish() {
    if (writing_ || finished_) return;
    finished_ = true;
    ++pending_;
    stream_.Finish(ToGrpc(status_), &finish_);
  }
  void Finished(bool) {}

  GrpcServer& server_;
  grpc::ServerContext context_;
  grpc::ServerAsyncReaderWriter<v1::Done, v1::Beat> stream_;
  v1::Beat beat_;
  int64_t session_ = 0;  // 0: not named yet
  Time heard_;
  Time patience_;
  absl::Status status_;
  int pending_ = 0;  // events on their way; += at every start, -= in Handle
  bool writing_ = false;
  bool ending_ = false;
  bool finished_ = false;
  Tag accept_{this, &Attendance::Accepted};
  Tag read_{this, &Attendance::Received};
  Tag write_{this, &Attendance::Wrote};
  Tag finish_{this, &Attendance::Finished};
};

GrpcServer::~GrpcServer() {
  if (thread_.joinable()) {
    closing_ = true;
    // Sessions are told first; then calls that still run are cancelled, and awaited.
    server_->Shutdown(std::chrono::system_clock::now() + kClosingGrace);
    closed_ = true;
    thread_.join();
  }
  pool_.Finish();
  waiting_.Finish();
  std::map<int64_t, Session> left;
  {
    const std::lock_guard lock(mutex_);
    left.swap(sessions_);
  }
  for (const auto& [session, state] : left) handler_.Leave(session, "the server goes down");
}

absl::Status GrpcServer::Start(const std::string& address, int port) {
  GW_ASSIGN_OR_RETURN(auto credentials,
                      gradwire::internal::ServerCredentials(
                          {settings_.tls_ca, settings_.tls_cert, settings_.tls_key}));
  GW_RETURN_IF_ERROR(gradwire::internal::CheckPort("parameter server", address, port, "--port"));
  const std::string target = gradwire::internal::ListenTarget(address, port);
  grpc::ServerBuilder builder;
  builder.AddListeningPort(target, credentials, &port_);
  builder.RegisterService(&service_);
  // The limit holds for all calls of a server; all but Join are held to kMaxCallBytes in Check().
  builder.SetMaxReceiveMessageSize(internal::kMaxJoinBytes);
  // gRPC's default lets a second server share the port silently and take half of the workers.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, 256);
  queue_ = builder.AddCompletionQueue();
  server_ = builder.BuildAndStart();
  if (server_ == nullptr || port_ == 0) {
    // Queues are shut down and drained before they are destroyed.
    if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
    queue_->Shutdown();
    void* tag = nullptr;
    bool ok = false;
    while (queue_->Next(&tag, &ok)) {
    }
    return Unavailable("parameter server: cannot listen on {}; was the port taken a moment ago?",
                       target);
  }
  if (settings_.tls_cert.empty() && !gradwire::internal::IsLoopback(address)) {
    spdlog::warn(
        "parameter server on port {} is open to the network without TLS: anyone who reaches it can "
        "read the job's token; give --tls-cert and --tls-key, and --tls-ca for mutual TLS",
        port_);
  }
  Unary<v1::GreetRequest, v1::Done>::Arm(*this, &Service::RequestGreet, &GrpcServer::Greet);
  Unary<v1::JoinRequest, v1::JoinReply>::Arm(*this, &Service::RequestJoin, &GrpcServer::Join);
  Unary<v1::ConnectRequest, v1::ConnectReply>::Arm(*this, &Service::RequestConnect,
                                                   &GrpcServer::Connect);
  Unary<v1::LeaveRequest, v1::Done>::Arm(*this, &Service::RequestLeave, &GrpcServer::Leave);
  Unary<v1::PromoteRequest, v1::Done>::Arm(*this, &Service::RequestPromote, &GrpcServer::Promote);
  Unary<v1::CheckpointRequest, v1::CheckpointReply>::Arm(*this, &Service::RequestCheckpoint,
                                                         &GrpcServer::Checkpoint);
  Unary<v1::StatusRequest, v1::StatusReply>::Arm(*this, &Service::RequestStatus,
                                                 &GrpcServer::Status);
  Unary<v1::StopRequest, v1::Done>::Arm(*this, &Service::RequestStop, &GrpcServer::Stop);
  Attendance::Arm(*this);
  thread_ = std::thread([this] { Run(); });
  return absl::OkStatus();
}

void GrpcServer::Run() {
  Time last = steady_clock::now();
  // No event is left once the server is down and the last call was deleted: none can follow.
  while (!closed_ || calls_ > 0) {
    void* tag = nullptr;
    bool ok = false;
    const auto status = queue_->AsyncNext(&tag, &ok, std::chrono::system_clock::now() + kTick);
    if (status == grpc::CompletionQueue::GOT_EVENT) static_cast<Event*>(tag)->Done(ok);
    const Time now = steady_clock::now();
    if (now - last < kTick) continue;
    // A process that was stopped finds its sessions' beats still unread.
    if (now - last > kTick + std::chrono::seconds(1)) {
      for (Attendance* call : attendances_) call->Forgive(now - last);
    }
    last = now;
    Tick(now);
  }
  queue_->Shutdown();
  void* tag = nullptr;
  bool ok = false;
  while (queue_->Next(&tag, &ok)) {
  }
}

void GrpcServer::Tick(Time now) {
  for (Attendance* call : attendances_) call->Tick(now);
  if (closing_ && !told_) {
    told_ = true;
    for (Attendance* call : attendances_) call->End(Unavailable("it goes down"));
  }
  std::vector<int64_t> unattended;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [id, session] : sessions_) {
      if (!session.attended && now - session.heard > internal::kAttendPatience) {
        unattended.push_back(id);
      }
    }
  }
  for (const int64_t session : unattended) EndSession(session, "no heartbeat after it joined");
}

template <typename Request>
absl::Status GrpcServer::Check(const Request& request) const {
  if constexpr (!std::is_same_v<Request, v1::JoinRequest>) {
    if (request.ByteSizeLong() > internal::kMaxCallBytes) {
      return ProtocolError("a message of {} bytes exceeds {}", request.ByteSizeLong(),
                           internal::kMaxCallBytes);
    }
  }
  return internal::CheckCaller(request.caller(), settings_);
}

absl::Status GrpcServer::Join(const v1::JoinRequest& request, v1::JoinReply* reply) {
  GW_ASSIGN_OR_RETURN(const JoinRequest join, FromProto(request));
  if (closing_) return Unavailable("it goes down");
  GW_ASSIGN_OR_RETURN(JoinReply joined, handler_.Join(join));
  {
    const std::lock_guard lock(mutex_);
    sessions_[joined.session].heard = steady_clock::now();
  }
  if (join.layout.size() > 0) joined.layout = Layout();
  ToProto(joined, reply);
  reply->set_heartbeat_timeout_ms(settings_.heartbeat_timeout.count());
  return absl::OkStatus();
}

absl::Status GrpcServer::Connect(const v1::ConnectRequest& request, v1::ConnectReply* reply) {
  GW_ASSIGN_OR_RETURN(const ConnectRequest connect, FromProto(request));
  if (!Stands(connect.session)) {
    return FailedPrecondition("session {} is over; join again", connect.session);
  }
  GW_ASSIGN_OR_RETURN(const ConnectReply connected, handler_.Connect(connect));
  ToProto(connected, reply);
  return absl::OkStatus();
}

absl::Status GrpcServer::Leave(const v1::LeaveRequest& request, v1::Done*) {
  if (TakeSession(request.session())) handler_.Leave(request.session(), "");
  return absl::OkStatus();
}

absl::Status GrpcServer::Promote(const v1::PromoteRequest& request, v1::Done*) {
  if (request.shard() < 0 || request.shard() >= internal::kMaxShards) {
    return ProtocolError("shard {} is not in 0..{}", request.shard(), internal::kMaxShards - 1);
  }
  return handler_.Promote(request.shard());
}

absl::Status GrpcServer::Checkpoint(const v1::CheckpointRequest&, v1::CheckpointReply* reply) {
  GW_ASSIGN_OR_RETURN(const std::string folder, handler_.Checkpoint());
  reply->set_folder(folder);
  return absl::OkStatus();
}

absl::Status GrpcServer::Status(const v1::StatusRequest&, v1::StatusReply* reply) {
  ToProto(handler_.Status(), reply);
  return absl::OkStatus();
}

absl::Status GrpcServer::Stop(const v1::StopRequest& request, v1::Done*) {
  handler_.Stop(OneLine(request.reason(), gradwire::internal::kMaxNameBytes));
  return absl::OkStatus();
}

absl::Status GrpcServer::Attend(int64_t session) {
  const std::lock_guard lock(mutex_);
  const auto found = sessions_.find(session);
  if (found == sessions_.end() || found->second.attended) {
    return FailedPrecondition("there is no session {} to attend", session);
  }
  found->second.attended = true;
  return absl::OkStatus();
}

void GrpcServer::Heard(int64_t session) {
  const std::lock_guard lock(mutex_);
  const auto found = sessions_.find(session);
  if (found != sessions_.end()) found->second.heard = steady_clock::now();
}

milliseconds GrpcServer::silence(int64_t session) const {
  const std::lock_guard lock(mutex_);
  const auto found = sessions_.find(session);
  if (found == sessions_.end()) return milliseconds(0);
  return std::chrono::duration_cast<milliseconds>(steady_clock::now() - found->second.heard);
}

bool GrpcServer::Stands(int64_t session) {
  const std::lock_guard lock(mutex_);
  return sessions_.contains(session);
}

bool GrpcServer::TakeSession(int64_t session) {
  const std::lock_guard lock(mutex_);
  return sessions_.erase(session) > 0;
}

void GrpcServer::EndSession(int64_t session, std::string lost) {
  if (!TakeSession(session)) return;
  pool_.Submit([this, session, lost = std::move(lost)] {
    handler_.Leave(session, closing_ ? "the server goes down" : lost);
  });
}

}  // namespace

absl::StatusOr<std::unique_ptr<ControlServer>> ControlServer::Start(ControlHandler& handler,
                                                                    const std::string& address,
                                                                    int port,
                                                                    const Settings& settings) {
  auto server = std::make_unique<GrpcServer>(handler, settings);
  GW_RETURN_IF_ERROR(server->Start(address, port));
  return std::unique_ptr<ControlServer>(std::move(server));
}

}  // namespace gradwire::ps
