// The calls of the control plane: how each comes and goes, and what it does.
#include <type_traits>
#include <utility>

#include "parameter_server/control_internal.h"
#include "parameter_server/control_server_internal.h"
#include "transport/bootstrap/limits_internal.h"
#include "transport/bootstrap/service_internal.h"

namespace gradwire::ps::internal {
namespace {

using gradwire::internal::OneLine;
using std::chrono::steady_clock;

constexpr size_t kMaxCalls = 16 << 10;

}  // namespace

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
    WorkPool* pool = server_.PoolFor(request_);
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
      if (silence > kAttendPatience) End(ProtocolError("a session was never named"));
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

void GrpcServer::AcceptCalls() {
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
}

void GrpcServer::TickCalls(Time now) {
  for (Attendance* call : attendances_) call->Tick(now);
  if (!closing_ || told_) return;
  told_ = true;
  for (Attendance* call : attendances_) call->End(Unavailable("it goes down"));
}

void GrpcServer::Forgive(steady_clock::duration pause) {
  for (Attendance* call : attendances_) call->Forgive(pause);
}

template <typename Request>
absl::Status GrpcServer::Check(const Request& request) const {
  if constexpr (!std::is_same_v<Request, v1::JoinRequest>) {
    if (request.ByteSizeLong() > kMaxCallBytes) {
      return ProtocolError("a message of {} bytes exceeds {}", request.ByteSizeLong(),
                           kMaxCallBytes);
    }
  }
  return CheckCaller(request.caller(), settings_);
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
  if (request.shard() < 0 || request.shard() >= kMaxShards) {
    return ProtocolError("shard {} is not in 0..{}", request.shard(), kMaxShards - 1);
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

}  // namespace gradwire::ps::internal
