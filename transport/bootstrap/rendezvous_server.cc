#include "transport/bootstrap/rendezvous_server.h"

#include <grpcpp/alarm.h>
#include <grpcpp/grpcpp.h>

#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <utility>

#include "gradwire/v1/rendezvous.grpc.pb.h"
#include "transport/bootstrap/job_internal.h"
#include "transport/bootstrap/limits_internal.h"
#include "transport/bootstrap/rendezvous_server_internal.h"
#include "transport/bootstrap/service_internal.h"
#include "transport/bootstrap/tls_internal.h"

namespace gradwire {
namespace {

using internal::Job;
using internal::Time;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

// How often deadlines are looked at while any call is open, and while none is.
constexpr milliseconds kTick{100};
constexpr milliseconds kIdleTick{10'000};

}  // namespace

// The server's thread drives every call; all members are its own unless said otherwise.
class RendezvousServer::Impl {
 public:
  explicit Impl(Options options) : options_(std::move(options)) {}
  ~Impl() { Stop(milliseconds(0)); }

  absl::Status Start();
  void Stop(milliseconds grace);
  int port() const { return port_; }
  std::shared_ptr<grpc::Channel> InProcessChannel() {
    return server_->InProcessChannel(internal::ChannelArguments());
  }

 private:
  class Call;
  struct Event {
    Call* call;
    enum class Kind { kAccept, kRead, kWrite, kFinish } kind;
  };

  void Run();
  void Accept();
  // Finds or makes the job that `join` names.
  absl::StatusOr<std::shared_ptr<Job>> JobFor(const v1::Join& join);
  void Tick(Time now);

  const Options options_;
  int port_ = 0;
  v1::Rendezvous::AsyncService service_;
  std::unique_ptr<grpc::ServerCompletionQueue> queue_;
  std::unique_ptr<grpc::Server> server_;
  std::map<std::string, std::shared_ptr<Job>> jobs_;
  std::set<Call*> calls_;  // accepted and not yet ended
  bool closed_ = false;    // every job was told that the server goes down
  std::thread thread_;

  std::mutex mutex_;  // guards what follows
  std::condition_variable drained_signal_;
  bool stopping_ = false;
  bool drained_ = false;
  Time stop_deadline_;
  grpc::Alarm wake_;
};

// One rank's call. It lives until its last event was taken from the queue.
class RendezvousServer::Impl::Call final : public internal::Channel {
 public:
  explicit Call(Impl& server) : server_(server), stream_(&context_) {}

  void Accept() {
    ++pending_;
    server_.service_.RequestAttend(&context_, &stream_, server_.queue_.get(), server_.queue_.get(),
                                   &accept_);
  }

  void Send(std::shared_ptr<const v1::ToRank> message) override {
    if (broken_ || ending_) return;
    outbox_.push_back(std::move(message));
    Pump();
  }

  void End(const absl::Status& status) override {
    job_ = nullptr;
    if (ending_) return;
    if (!status.ok()) {
      v1::ToRank message;
      message.mutable_refused()->set_code(static_cast<int>(status.code()));
      message.mutable_refused()->set_message(Message(status));
      Send(std::make_shared<const v1::ToRank>(std::move(message)));
    }
    ending_ = true;
    patience_ = steady_clock::now() + internal::kCallPatience;
    Pump();
  }

  // Handles one event; deletes the call with its last one.
  void Handle(Event::Kind kind, bool ok) {
    --pending_;
    switch (kind) {
      case Event::Kind::kAccept:
        if (ok) Accepted();
        break;
      case Event::Kind::kRead:
        if (ok) {
          Received();
        } else {
          Broken();
        }
        break;
      case Event::Kind::kWrite:
        writing_ = false;
        if (ok && !broken_) {  // a broken call has no outbox any more
          outbox_.pop_front();
          Pump();
        } else {
          Broken();
        }
        break;
      case Event::Kind::kFinish:
        break;
    }
    if (pending_ == 0) {
      server_.calls_.erase(this);
      delete this;
    }
  }

  // Cancels a call that neither joined nor took its last messages in time.
  void Tick(Time now) {
    if (job_ == nullptr && now > patience_) context_.TryCancel();
  }
  void Cancel() { context_.TryCancel(); }

 private:
  void Accepted() {
    patience_ = steady_clock::now() + internal::kCallPatience;
    server_.Accept();
    server_.calls_.insert(this);
    if (server_.calls_.size() > internal::kMaxCalls) {
      End(MakeError(absl::StatusCode::kResourceExhausted, "the rendezvous has {} calls open",
                    server_.calls_.size()));
    }
    Read();
  }

  void Read() {
    ++pending_;
    incoming_.Clear();
    stream_.Read(&incoming_, &read_);
  }

  void Received() {
    const Time now = steady_clock::now();
    if (job_ != nullptr) {
      // The job may end this call, and with it forget job_, while it handles the message.
      const std::shared_ptr<Job> job = job_;
      if (const absl::Status status = job->Receive(rank_, incoming_, now); !status.ok()) {
        job->Lost(rank_, Message(status));
        End(status);
      }
    } else if (!ending_) {
      Join(now);
    }
    Read();
  }

  void Join(Time now) {
    if (!incoming_.has_join()) {
      return End(ProtocolError("a call to the rendezvous must start with joining"));
    }
    absl::StatusOr<std::shared_ptr<Job>> job = server_.JobFor(incoming_.join());
    if (!job.ok()) return End(job.status());
    job_ = *job;
    rank_ = incoming_.join().self().rank();
    if (const absl::Status status = job_->Admit(incoming_.join(), this, now); !status.ok()) {
      End(status);
    }
  }

  // The connection is gone, or the rank closed its side.
  void Broken() {
    broken_ = true;
    outbox_.clear();
    if (const std::shared_ptr<Job> job = std::exchange(job_, nullptr)) {
      job->Lost(rank_, "its control connection closed without leaving");
    }
    ending_ = true;
    Pump();
  }

  void Pump() {
    if (writing_ || finished_) return;
    if (!outbox_.empty()) {
      writing_ = true;
      ++pending_;
      stream_.Write(*outbox_.front(), &write_);
    } else if (ending_) {
      finished_ = true;
      ++pending_;
      stream_.Finish(grpc::Status::OK, &finish_);
    }
  }

  Impl& server_;
  grpc::ServerContext context_;
  grpc::ServerAsyncReaderWriter<v1::ToRank, v1::FromRank> stream_;
  v1::FromRank incoming_;
  std::deque<std::shared_ptr<const v1::ToRank>> outbox_;  // front: being written
  std::shared_ptr<Job> job_;                              // while a member
  int rank_ = -1;
  Time patience_;
  int pending_ = 0;  // events on their way; += at every start, -= in Handle
  bool writing_ = false;
  bool broken_ = false;
  bool ending_ = false;
  bool finished_ = false;
  Event accept_{this, Event::Kind::kAccept};
  Event read_{this, Event::Kind::kRead};
  Event write_{this, Event::Kind::kWrite};
  Event finish_{this, Event::Kind::kFinish};
};

absl::Status RendezvousServer::Impl::Start() {
  GW_ASSIGN_OR_RETURN(
      internal::Listening listening,
      internal::Listen(service_, {.name = "rendezvous",
                                  .address = options_.address,
                                  .port = options_.port,
                                  .port_setting = "MASTER_PORT or rendezvous port",
                                  .tls = {options_.tls_ca, options_.tls_cert, options_.tls_key},
                                  .max_message_bytes = internal::kMaxMessageBytes,
                                  .max_streams = 16}));
  port_ = listening.port;
  queue_ = std::move(listening.queue);
  server_ = std::move(listening.server);
  if (!options_.only_job.empty()) {
    jobs_.emplace(options_.only_job,
                  std::make_shared<Job>(options_.only_job, options_.token, options_.world_size,
                                        /*hosted=*/true));
  }
  Accept();
  thread_ = std::thread([this] { Run(); });
  return absl::OkStatus();
}

void RendezvousServer::Impl::Accept() {
  auto* call = new Call(*this);  // deletes itself with its last event
  call->Accept();
}

void RendezvousServer::Impl::Run() {
  Time last = steady_clock::now();
  while (true) {
    void* tag = nullptr;
    bool ok = false;
    const auto wait = calls_.empty() ? kIdleTick : kTick;
    const auto status = queue_->AsyncNext(&tag, &ok, std::chrono::system_clock::now() + wait);
    if (status == grpc::CompletionQueue::SHUTDOWN) return;
    if (status == grpc::CompletionQueue::GOT_EVENT && tag != nullptr) {
      auto* event = static_cast<Event*>(tag);
      event->call->Handle(event->kind, ok);
    }
    const Time now = steady_clock::now();
    // Many events between two ticks; the last call's end is looked at at once.
    const bool busy = status == grpc::CompletionQueue::GOT_EVENT && tag != nullptr;
    if (busy && !calls_.empty() && now - last < kTick) continue;
    // A process that was stopped finds its ranks' heartbeats still unread.
    if (now - last > wait + std::chrono::seconds(1)) {
      for (auto& [id, job] : jobs_) job->Forgive(now - last);
    }
    last = now;
    Tick(now);
  }
}

void RendezvousServer::Impl::Tick(Time now) {
  for (Call* call : calls_) call->Tick(now);
  for (auto& [id, job] : jobs_) job->Tick(now);
  if (options_.only_job.empty()) {
    for (auto at = jobs_.begin(); at != jobs_.end();) {
      at = at->second->over() ? jobs_.erase(at) : std::next(at);
    }
  }

  std::lock_guard lock(mutex_);
  if (!stopping_) return;
  if (!closed_ && now >= stop_deadline_) {
    closed_ = true;
    stop_deadline_ = now + std::chrono::seconds(1);  // for the last messages
    for (auto& [id, job] : jobs_) job->Close();
    for (Call* call : calls_) call->End(Unavailable("the rendezvous goes down"));
  } else if (closed_ && now >= stop_deadline_) {
    for (Call* call : calls_) call->Cancel();
  }
  if (calls_.empty() && !drained_) {
    drained_ = true;
    drained_signal_.notify_all();
  }
}

absl::StatusOr<std::shared_ptr<Job>> RendezvousServer::Impl::JobFor(const v1::Join& join) {
  const v1::Peer& self = join.self();
  if (join.protocol() != internal::kProtocol) {
    return FailedPrecondition(
        "rank {} speaks version {} of the control plane, the rendezvous version {}; run the same "
        "release everywhere",
        self.rank(), join.protocol(), internal::kProtocol);
  }
  if (join.job_id().empty() || join.job_id().size() > internal::kMaxJobIdBytes ||
      join.token().size() > internal::kMaxTokenBytes ||
      self.host().size() > internal::kMaxNameBytes ||
      self.host_id().size() > internal::kMaxNameBytes ||
      self.cpus().size() > internal::kMaxCpuMaskBytes || self.rank() < 0) {
    return ProtocolError("a joining message is out of bounds");
  }
  const std::string id = internal::OneLine(join.job_id());
  if (const auto found = jobs_.find(id); found != jobs_.end()) return found->second;
  if (!options_.only_job.empty()) {
    return FailedPrecondition(
        "rank {} belongs to job '{}', but this rendezvous serves job '{}' alone; give every rank "
        "the "
        "same --job-id (GRADWIRE_JOB_ID), or this job another port",
        self.rank(), id, options_.only_job);
  }
  if (join.world_size() < 1 || join.world_size() > internal::kMaxWorldSize) {
    return InvalidArgument("rank {} says world size {}; it must be in 1..{}", self.rank(),
                           join.world_size(), internal::kMaxWorldSize);
  }
  if (jobs_.size() >= internal::kMaxJobs) {
    return MakeError(absl::StatusCode::kResourceExhausted, "the rendezvous holds {} jobs already",
                     jobs_.size());
  }
  auto job = std::make_shared<Job>(id, options_.token.empty() ? join.token() : options_.token,
                                   join.world_size(),
                                   /*hosted=*/false);
  jobs_.emplace(id, job);
  return job;
}

void RendezvousServer::Impl::Stop(milliseconds grace) {
  if (!thread_.joinable()) return;
  {
    std::unique_lock lock(mutex_);
    stopping_ = true;
    stop_deadline_ = steady_clock::now() + grace;
    wake_.Set(queue_.get(), std::chrono::system_clock::now(), nullptr);
    drained_signal_.wait_for(lock, grace + std::chrono::seconds(3), [this] { return drained_; });
  }
  server_->Shutdown(std::chrono::system_clock::now());
  queue_->Shutdown();
  thread_.join();
}

RendezvousServer::Options RendezvousServer::OptionsFrom(const Settings& settings) {
  Options options;
  options.token = settings.token;
  options.tls_ca = settings.tls_ca;
  options.tls_cert = settings.tls_cert;
  options.tls_key = settings.tls_key;
  return options;
}

absl::StatusOr<std::unique_ptr<RendezvousServer>> RendezvousServer::Start(const Options& options) {
  auto impl = std::make_unique<Impl>(options);
  GW_RETURN_IF_ERROR(impl->Start());
  return std::unique_ptr<RendezvousServer>(new RendezvousServer(std::move(impl)));
}

RendezvousServer::RendezvousServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
RendezvousServer::~RendezvousServer() = default;
int RendezvousServer::port() const { return impl_->port(); }
void RendezvousServer::Stop(milliseconds grace) { impl_->Stop(grace); }

std::shared_ptr<grpc::Channel> internal::ServerAccess::InProcessChannel(RendezvousServer& server) {
  return server.impl_->InProcessChannel();
}

}  // namespace gradwire
