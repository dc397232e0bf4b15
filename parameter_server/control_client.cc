#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>

#include "gradwire/v1/parameter_server.grpc.pb.h"
#include "gradwire/v1/rendezvous.grpc.pb.h"
#include "parameter_server/control.h"
#include "parameter_server/control_internal.h"
#include "transport/bootstrap/launcher.h"
#include "transport/bootstrap/limits_internal.h"
#include "transport/bootstrap/reach_internal.h"
#include "transport/bootstrap/tls_internal.h"

namespace gradwire::ps {
namespace {

using gradwire::internal::OneLine;
using internal::FromProto;
using internal::SetCaller;
using internal::ToProto;
using std::chrono::milliseconds;
using std::chrono::steady_clock;
using Time = steady_clock::time_point;

// For calls that the server answers from memory.
constexpr milliseconds kShortCall{10'000};
// For the goodbye: nobody waits long for a server that does not answer.
constexpr milliseconds kLeavePatience{2000};
constexpr milliseconds kRetryPause{50};
// Beats in the time after which the server takes silence for death.
constexpr int kBeatsPerTimeout = 4;

std::chrono::system_clock::time_point SystemTime(Time time) {
  return std::chrono::system_clock::now() +
         std::chrono::duration_cast<std::chrono::system_clock::duration>(time -
                                                                         steady_clock::now());
}

double Seconds(steady_clock::duration time) { return std::chrono::duration<double>(time).count(); }

// The heartbeats of a session: one call, and one thread that takes its events.
class Heartbeat {
 public:
  Heartbeat(v1::ParameterServer::Stub& stub, std::string server, milliseconds interval,
            milliseconds timeout)
      : server_(std::move(server)),
        interval_(interval),
        timeout_(timeout),
        stream_(stub.PrepareAsyncAttend(&context_, &queue_)) {}
  ~Heartbeat() { Stop(); }

  // Sends the first beat and waits until it is answered.
  absl::Status Start(v1::Beat first, std::function<void(const absl::Status&)> lost, Time deadline);
  // No loss is told from here on.
  void Stop();
  absl::Status status() const {
    const std::lock_guard lock(mutex_);
    return status_;
  }

 private:
  enum class Event : intptr_t { kStart = 1, kRead, kWrite, kFinish };
  static void* Tag(Event event) { return reinterpret_cast<void*>(event); }

  void Run();
  void Handle(Event event, bool ok);
  void Beat();
  void Lose(absl::Status status);

  const std::string server_;
  const milliseconds interval_;
  const milliseconds timeout_;
  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::ClientAsyncReaderWriter<v1::Beat, v1::Done>> stream_;
  std::thread thread_;

  // The thread alone:
  v1::Done incoming_;
  v1::Beat beat_;
  grpc::Status end_;
  bool writing_ = false;
  bool over_ = false;  // nothing more can be read or written
  bool finishing_ = false;
  bool ended_ = false;
  Time heard_;

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::function<void(const absl::Status&)> lost_;
  bool answered_ = false;  // the first beat was
  bool stopping_ = false;
  absl::Status status_;
};

absl::Status Heartbeat::Start(v1::Beat first, std::function<void(const absl::Status&)> lost,
                              Time deadline) {
  beat_ = std::move(first);
  heard_ = steady_clock::now();
  stream_->StartCall(Tag(Event::kStart));
  thread_ = std::thread([this] { Run(); });
  std::unique_lock lock(mutex_);
  const bool decided =
      changed_.wait_until(lock, deadline, [this] { return answered_ || !status_.ok(); });
  if (!decided) return DeadlineExceeded("server {} does not answer heartbeats", server_);
  GW_RETURN_IF_ERROR(status_);
  lost_ = std::move(lost);
  return absl::OkStatus();
}

void Heartbeat::Stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    lost_ = nullptr;
  }
  context_.TryCancel();
  if (thread_.joinable()) thread_.join();
}

void Heartbeat::Run() {
  Time next = steady_clock::now() + interval_;
  Time last_turn = steady_clock::now();
  while (true) {
    void* tag = nullptr;
    bool ok = false;
    const auto status = queue_.AsyncNext(&tag, &ok, SystemTime(next));
    if (status == grpc::CompletionQueue::SHUTDOWN) return;
    if (status == grpc::CompletionQueue::GOT_EVENT) {
      Handle(static_cast<Event>(reinterpret_cast<intptr_t>(tag)), ok);
    }
    const Time now = steady_clock::now();
    // A process that was stopped for a while must not take its own sleep for the server's silence.
    if (now - last_turn > interval_ + std::chrono::seconds(1)) heard_ = now;
    last_turn = now;
    if (now < next) continue;
    next = now + interval_;
    Beat();
  }
}

void Heartbeat::Handle(Event event, bool ok) {
  switch (event) {
    case Event::kStart:
    case Event::kWrite:
      if (event == Event::kStart && ok) {
        writing_ = true;
        stream_->Write(beat_, Tag(Event::kWrite));
        stream_->Read(&incoming_, Tag(Event::kRead));
        beat_.Clear();
        return;
      }
      writing_ = false;
      over_ |= event == Event::kStart;
      break;
    case Event::kRead:
      over_ = !ok;
      if (over_) break;
      heard_ = steady_clock::now();
      {
        const std::lock_guard lock(mutex_);
        answered_ = true;
        changed_.notify_all();
      }
      stream_->Read(&incoming_, Tag(Event::kRead));
      return;
    case Event::kFinish:
      Lose(internal::IsOurs(end_)
               ? Annotate(internal::FromGrpc(end_), fmt::format("server {}", server_))
               : Unavailable("server {} is gone: its control connection closed", server_));
      queue_.Shutdown();
      return;
  }
  // Once nothing more can be read and no write is on its way: fetch the call's status.
  if (over_ && !writing_ && !finishing_) {
    finishing_ = true;
    stream_->Finish(&end_, Tag(Event::kFinish));
  }
}

void Heartbeat::Beat() {
  if (finishing_) return;
  const auto silence = steady_clock::now() - heard_;
  if (silence > timeout_) {
    Lose(Unavailable("server {} has been silent for {:.1f} s", server_, Seconds(silence)));
    context_.TryCancel();
  } else if (!writing_ && !over_) {
    writing_ = true;
    stream_->Write(beat_, Tag(Event::kWrite));
  }
}

void Heartbeat::Lose(absl::Status status) {
  std::function<void(const absl::Status&)> lost;
  {
    const std::lock_guard lock(mutex_);
    if (!status_.ok() || stopping_) return;
    status_ = status;
    lost = std::exchange(lost_, nullptr);
    changed_.notify_all();
  }
  if (lost) lost(status);
}

class Client final : public ControlClient {
 public:
  Client(std::string server, const Settings& settings, std::shared_ptr<grpc::Channel> channel)
      : server_(std::move(server)),
        settings_(settings),
        channel_(std::move(channel)),
        stub_(v1::ParameterServer::NewStub(channel_)) {}
  ~Client() override { Leave(); }

  // Whether the server takes us. Unavailable when it cannot be asked.
  absl::Status Greet(Time deadline);

  const std::string& server() const override { return server_; }
  absl::StatusOr<JoinReply> Join(const JoinRequest& request,
                                 std::function<void(const absl::Status&)> lost,
                                 Time deadline) override;
  absl::StatusOr<ConnectReply> Connect(const ConnectRequest& request, Time deadline) override;
  absl::Status Promote(int shard, Time deadline) override;
  absl::StatusOr<std::string> Checkpoint() override;
  absl::StatusOr<ServerStatus> Status() override;
  absl::Status Stop(std::string_view reason) override;
  void Leave() override;
  absl::Status status() const override;

 private:
  template <typename Request, typename Reply>
  using Method = grpc::Status (v1::ParameterServer::Stub::*)(grpc::ClientContext*, const Request&,
                                                             Reply*);
  // `what` completes "server X did not answer ...".
  template <typename Request, typename Reply>
  absl::Status Call(Method<Request, Reply> method, std::string_view what, Request& request,
                    Reply* reply, Time deadline);
  absl::Status Explain(const grpc::Status& status, std::string_view what, Time start);
  bool IsRendezvous();

  const std::string server_;
  const Settings settings_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<v1::ParameterServer::Stub> stub_;

  mutable std::mutex mutex_;  // guards what follows
  int64_t session_ = 0;       // 0: none
  std::unique_ptr<Heartbeat> heartbeat_;
};

template <typename Request, typename Reply>
absl::Status Client::Call(Method<Request, Reply> method, std::string_view what, Request& request,
                          Reply* reply, Time deadline) {
  GW_RETURN_IF_ERROR(status());
  SetCaller(settings_, request.mutable_caller());
  grpc::ClientContext context;
  context.set_deadline(SystemTime(deadline));
  const Time start = steady_clock::now();
  return Explain((stub_.get()->*method)(&context, request, reply), what, start);
}

absl::Status Client::Explain(const grpc::Status& status, std::string_view what, Time start) {
  if (status.ok()) return absl::OkStatus();
  const std::string name = fmt::format("server {}", server_);
  if (internal::IsOurs(status)) return Annotate(internal::FromGrpc(status), name);
  if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED) {
    return DeadlineExceeded("{} did not answer {} within {:.1f} s", name, what,
                            Seconds(steady_clock::now() - start));
  }
  if (status.error_code() == grpc::StatusCode::UNIMPLEMENTED) {
    return IsRendezvous() ? FailedPrecondition(
                                "{} is a rendezvous, not a parameter server; start one with "
                                "`gradwire ps serve` and name its port",
                                name)
                          : FailedPrecondition(
                                "{} speaks gRPC, but is no parameter server; start one with "
                                "`gradwire ps serve` and name its port",
                                name);
  }
  return Unavailable("{} is gone ({}: {})", name, what, OneLine(status.error_message(), 200));
}

// A rendezvous ends a call in which nothing was said without an error; others do not know it.
bool Client::IsRendezvous() {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kLeavePatience);
  const auto stub = v1::Rendezvous::NewStub(channel_);
  const auto stream = stub->Attend(&context);
  stream->WritesDone();
  v1::ToRank answer;
  while (stream->Read(&answer)) {
  }
  return stream->Finish().ok();
}

absl::Status Client::Greet(Time deadline) {
  v1::GreetRequest request;
  v1::Done done;
  return Call(&v1::ParameterServer::Stub::Greet, "a greeting", request, &done,
              std::min(deadline, steady_clock::now() + kShortCall));
}

absl::StatusOr<JoinReply> Client::Join(const JoinRequest& request,
                                       std::function<void(const absl::Status&)> lost,
                                       Time deadline) {
  {
    const std::lock_guard lock(mutex_);
    if (heartbeat_ != nullptr) return FailedPrecondition("server {}: joined already", server_);
  }
  v1::JoinRequest message;
  ToProto(request, &message);
  v1::JoinReply reply;
  GW_RETURN_IF_ERROR(
      Call(&v1::ParameterServer::Stub::Join, "a request to join", message, &reply, deadline));
  absl::StatusOr<JoinReply> joined = FromProto(reply);
  if (!joined.ok()) return Annotate(joined.status(), fmt::format("server {}", server_));
  if (request.layout.size() > 0) joined->layout = request.layout;

  const milliseconds theirs(std::clamp<int64_t>(reply.heartbeat_timeout_ms(), 1,
                                                milliseconds(std::chrono::hours(24)).count()));
  auto heartbeat = std::make_unique<Heartbeat>(
      *stub_, server_,
      std::min(settings_.heartbeat_interval, theirs / kBeatsPerTimeout + milliseconds(1)),
      settings_.heartbeat_timeout);
  v1::Beat first;
  SetCaller(settings_, first.mutable_caller());
  first.set_session(joined->session);
  GW_RETURN_IF_ERROR(heartbeat->Start(std::move(first), std::move(lost), deadline));
  const std::lock_guard lock(mutex_);
  session_ = joined->session;
  heartbeat_ = std::move(heartbeat);
  return joined;
}

absl::StatusOr<ConnectReply> Client::Connect(const ConnectRequest& request, Time deadline) {
  v1::ConnectRequest message;
  ToProto(request, &message);
  {
    const std::lock_guard lock(mutex_);
    message.set_session(session_);
  }
  v1::ConnectReply reply;
  GW_RETURN_IF_ERROR(
      Call(&v1::ParameterServer::Stub::Connect, "a request to connect", message, &reply, deadline));
  absl::StatusOr<ConnectReply> connected = FromProto(reply);
  if (!connected.ok()) return Annotate(connected.status(), fmt::format("server {}", server_));
  return connected;
}

absl::Status Client::Promote(int shard, Time deadline) {
  v1::PromoteRequest request;
  request.set_shard(shard);
  v1::Done done;
  return Call(&v1::ParameterServer::Stub::Promote, "a request to take a shard over", request, &done,
              deadline);
}

absl::StatusOr<std::string> Client::Checkpoint() {
  v1::CheckpointRequest request;
  v1::CheckpointReply reply;
  GW_RETURN_IF_ERROR(Call(&v1::ParameterServer::Stub::Checkpoint, "a request for a checkpoint",
                          request, &reply, steady_clock::now() + settings_.op_timeout));
  return OneLine(reply.folder());
}

absl::StatusOr<ServerStatus> Client::Status() {
  v1::StatusRequest request;
  v1::StatusReply reply;
  GW_RETURN_IF_ERROR(Call(&v1::ParameterServer::Stub::Status, "a request for its status", request,
                          &reply, steady_clock::now() + kShortCall));
  absl::StatusOr<ServerStatus> status = FromProto(reply);
  if (!status.ok()) return Annotate(status.status(), fmt::format("server {}", server_));
  return status;
}

absl::Status Client::Stop(std::string_view reason) {
  v1::StopRequest request;
  request.set_reason(OneLine(reason, gradwire::internal::kMaxNameBytes));
  v1::Done done;
  return Call(&v1::ParameterServer::Stub::Stop, "a request to stop", request, &done,
              steady_clock::now() + kShortCall);
}

void Client::Leave() {
  std::unique_ptr<Heartbeat> heartbeat;
  v1::LeaveRequest request;
  {
    const std::lock_guard lock(mutex_);
    if (heartbeat_ == nullptr) return;
    request.set_session(std::exchange(session_, 0));
    heartbeat = std::move(heartbeat_);
  }
  if (heartbeat->status().ok()) {
    v1::Done done;
    // A server that cannot be told sees the connection close.
    (void)Call(&v1::ParameterServer::Stub::Leave, "a goodbye", request, &done,
               steady_clock::now() + kLeavePatience);
  }
  heartbeat->Stop();
}

absl::Status Client::status() const {
  const std::lock_guard lock(mutex_);
  return heartbeat_ == nullptr ? absl::OkStatus() : heartbeat_->status();
}

}  // namespace

absl::StatusOr<std::unique_ptr<ControlClient>> ControlClient::Open(const std::string& server,
                                                                   const Settings& settings,
                                                                   Time deadline) {
  GW_ASSIGN_OR_RETURN(const auto place, ParseHostPort(server));
  const auto& [host, port] = place;
  const gradwire::internal::TlsFiles tls{settings.tls_ca, settings.tls_cert, settings.tls_key};
  GW_ASSIGN_OR_RETURN(auto credentials, gradwire::internal::ClientCredentials(tls));
  grpc::ChannelArguments arguments = gradwire::internal::ChannelArguments(internal::kMaxJoinBytes);
  // The target is an address; the certificate is checked against the name that the user gave.
  if (!tls.ca.empty()) arguments.SetSslTargetNameOverride(host);
  while (true) {
    absl::StatusOr<std::string> target = gradwire::internal::Reach(
        host, port, tls, deadline, {"parameter server", "is `gradwire ps serve` running there"});
    if (absl::IsDeadlineExceeded(target.status()))
      return Unavailable("{}", Message(target.status()));
    if (!target.ok()) return target.status();
    auto client = std::make_unique<Client>(
        server, settings, grpc::CreateCustomChannel(*target, credentials, arguments));
    const absl::Status greeted = client->Greet(deadline);
    if (greeted.ok()) return std::unique_ptr<ControlClient>(std::move(client));
    // It may be coming up or have gone down meanwhile.
    if (!absl::IsUnavailable(greeted) || steady_clock::now() + kRetryPause >= deadline) {
      return greeted;
    }
    std::this_thread::sleep_for(kRetryPause);
  }
}

}  // namespace gradwire::ps
