#include <grpcpp/grpcpp.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "gradwire/v1/rendezvous.grpc.pb.h"
#include "transport/bootstrap/facts.h"
#include "transport/bootstrap/limits_internal.h"
#include "transport/bootstrap/member_internal.h"

namespace gradwire::internal {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using Time = steady_clock::time_point;

// How long rank 0 keeps its server up for ranks that have not left yet.
constexpr milliseconds kHostGrace{5000};

class Member final : public World {
 public:
  explicit Member(Membership membership)
      : membership_(std::move(membership)),
        failure_fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)),
        last_heard_(steady_clock::now()) {}
  ~Member() override;

  absl::Status Join();

  absl::StatusOr<std::vector<std::string>> AllGather(std::string_view name, std::string value,
                                                     const std::vector<int>& members,
                                                     milliseconds timeout) override;
  absl::StatusOr<std::vector<ConnectionFacts>> ExchangeFacts(std::string_view name,
                                                             const ConnectionFacts& facts,
                                                             const std::vector<int>& members,
                                                             milliseconds timeout) override;
  absl::Status Barrier(std::string_view name, milliseconds timeout) override;
  absl::Status failure() const override;
  int failure_fd() const override { return failure_fd_; }
  absl::Status ExplainLinkFailure(absl::Status suspicion, milliseconds grace) override;
  absl::StatusOr<Diagnosis> Diagnose(const OperationReport& mine, std::string_view reason) override;
  bool diagnosis_wanted() const override { return diagnosis_wanted_.load(); }
  ClockOffset clock_offset() const override;
  absl::Status Leave(std::string_view reason) override;

 private:
  enum class Event : intptr_t { kStart = 1, kRead, kWrite, kFinish };
  static void* Tag(Event event) { return reinterpret_cast<void*>(event); }

  struct Gathering {
    std::vector<std::string> values;
    size_t wanted = 0;
    bool done = false;
    absl::Status status;
  };

  // On the thread of the call:
  void Run();
  void Handle(Event event, bool ok);
  void Beat();
  // Until the next one: the first ones, which align the clocks, follow each other quickly.
  milliseconds BeatInterval() const;
  // The answer to the last heartbeat came, made at `server_ns` by the server's clock.
  void NoteClock(int64_t server_ns);
  absl::Status Received(const v1::ToRank& message);
  absl::Status ReceivedPeers(const v1::Joined& joined);
  absl::Status ReceivedValues(const v1::Gathered& gathered);
  absl::Status ReceivedDiagnosis(const v1::Diagnosis& diagnosis);
  void Ended();

  // With mutex_ held:
  void Send(v1::FromRank message);
  void Pump();
  void Fail(absl::Status status);
  void Wake();
  // Why no request can be answered any more; OK while one can.
  absl::Status Closed() const;
  std::string ServerName() const;

  Membership membership_;
  const int failure_fd_;
  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<v1::Rendezvous::Stub> stub_;
  std::unique_ptr<grpc::ClientAsyncReaderWriter<v1::FromRank, v1::ToRank>> stream_;
  std::thread thread_;
  std::atomic<bool> diagnosis_wanted_ = false;

  // The thread of the call alone:
  v1::ToRank incoming_;
  grpc::Status end_status_;

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::deque<v1::FromRank> outbox_;  // front: being written while writing_
  bool started_ = false;
  bool writing_ = false;
  bool over_ = false;  // nothing more can be read
  bool finishing_ = false;
  bool ended_ = false;    // the call is over
  bool joined_ = false;   // all ranks are there
  bool hosted_ = false;   // rank 0 hosts the server
  bool closing_ = false;  // the server went down on purpose
  bool leaving_ = false;  // Leave was called
  bool beat_unanswered_ = false;
  int beats_ = 0;  // sent so far
  Time beat_sent_;
  ClockOffset clock_;
  Time last_heard_;
  absl::Status failure_;
  std::map<uint64_t, Gathering> gatherings_;
  uint64_t next_request_ = 1;
  std::unique_ptr<Diagnosis> diagnosis_;
};

Member::~Member() {
  if (thread_.joinable()) {
    const absl::Status failed = failure();
    // Unwinding by an exception is no success; a plain end of scope is.
    (void)Leave(std::uncaught_exceptions() > 0 ? "ended by an exception" : Message(failed));
  }
  if (failure_fd_ >= 0) close(failure_fd_);
}

absl::Status Member::Join() {
  if (failure_fd_ < 0) return InternalError("no file descriptor left for failure notices");
  stub_ = v1::Rendezvous::NewStub(membership_.channel);
  stream_ = stub_->PrepareAsyncAttend(&context_, &queue_);
  {
    std::lock_guard lock(mutex_);
    v1::FromRank message;
    *message.mutable_join() = membership_.join;
    outbox_.push_back(std::move(message));
    stream_->StartCall(Tag(Event::kStart));
  }
  thread_ = std::thread([this] { Run(); });

  const auto patience = milliseconds(membership_.join.wait_ms()) + kAnswerGrace;
  std::unique_lock lock(mutex_);
  const bool answered =
      changed_.wait_for(lock, patience, [this] { return joined_ || ended_ || !failure_.ok(); });
  if (joined_) return absl::OkStatus();
  absl::Status status = failure_;
  if (!answered) {
    status = DeadlineExceeded("the rendezvous at {} does not answer", membership_.rendezvous);
  } else if (closing_) {
    status = Unavailable("the rendezvous at {} went down", membership_.rendezvous);
  }
  leaving_ = true;  // the destructor only ends the call
  lock.unlock();
  context_.TryCancel();
  thread_.join();
  return status;
}

void Member::Run() {
  const auto interval = membership_.heartbeat_interval;
  Time next_beat = steady_clock::now() + BeatInterval();
  Time last_turn = steady_clock::now();
  while (true) {
    void* tag = nullptr;
    bool ok = false;
    const auto wait = std::max(next_beat - steady_clock::now(), steady_clock::duration(0));
    const auto status =
        queue_.AsyncNext(&tag, &ok,
                         std::chrono::system_clock::now() +
                             std::chrono::duration_cast<std::chrono::system_clock::duration>(wait));
    if (status == grpc::CompletionQueue::SHUTDOWN) return;
    if (status == grpc::CompletionQueue::GOT_EVENT) {
      Handle(static_cast<Event>(reinterpret_cast<intptr_t>(tag)), ok);
    }
    const Time now = steady_clock::now();
    // A process that was stopped for a while must not take its own sleep for the server's silence.
    if (now - last_turn > interval + std::chrono::seconds(1)) {
      std::lock_guard lock(mutex_);
      last_heard_ = now;
    }
    last_turn = now;
    if (now < next_beat) continue;
    Beat();
    next_beat = now + BeatInterval();
  }
}

void Member::Handle(Event event, bool ok) {
  absl::Status status;
  if (event == Event::kRead && ok) status = Received(incoming_);

  std::lock_guard lock(mutex_);
  switch (event) {
    case Event::kStart:
      started_ = ok;
      over_ = !ok;
      if (ok) {
        stream_->Read(&incoming_, Tag(Event::kRead));
        Pump();
      }
      break;
    case Event::kRead:
      over_ = !ok;
      if (over_) break;
      last_heard_ = steady_clock::now();
      if (!status.ok()) {
        Fail(status);
        context_.TryCancel();
      }
      stream_->Read(&incoming_, Tag(Event::kRead));
      break;
    case Event::kWrite:
      writing_ = false;
      outbox_.pop_front();
      if (ok) Pump();  // otherwise the next read ends the call
      break;
    case Event::kFinish:
      Ended();
      queue_.Shutdown();
      return;
  }
  // Once nothing more can be read and no write is on its way: fetch the call's status.
  if (over_ && !writing_ && !finishing_) {
    finishing_ = true;
    stream_->Finish(&end_status_, Tag(Event::kFinish));
  }
}

milliseconds Member::BeatInterval() const {
  constexpr int kQuickBeats = 8;
  constexpr milliseconds kQuickInterval{20};
  const std::lock_guard lock(mutex_);
  return beats_ < kQuickBeats ? std::min(kQuickInterval, membership_.heartbeat_interval)
                              : membership_.heartbeat_interval;
}

void Member::Beat() {
  std::lock_guard lock(mutex_);
  if (!started_ || finishing_ || leaving_) return;
  const auto silence = steady_clock::now() - last_heard_;
  if (silence > milliseconds(membership_.join.heartbeat_timeout_ms())) {
    Fail(Unavailable("{} has been silent for {:.1f} s", ServerName(),
                     std::chrono::duration<double>(silence).count()));
    context_.TryCancel();
    return;
  }
  if (beat_unanswered_) return;
  beat_unanswered_ = true;
  ++beats_;
  beat_sent_ = steady_clock::now();
  v1::FromRank message;
  message.mutable_heartbeat();
  Send(std::move(message));
}

void Member::NoteClock(int64_t server_ns) {
  const Time now = steady_clock::now();
  const std::chrono::nanoseconds half = (now - beat_sent_) / 2;
  if (clock_.error.count() >= 0 && clock_.error <= half) return;
  clock_.offset = std::chrono::nanoseconds(server_ns) - (beat_sent_ + half).time_since_epoch();
  clock_.error = half;
}

ClockOffset Member::clock_offset() const {
  const std::lock_guard lock(mutex_);
  return clock_;
}

absl::Status Member::Received(const v1::ToRank& message) {
  switch (message.kind_case()) {
    case v1::ToRank::kJoined:
      return ReceivedPeers(message.joined());
    case v1::ToRank::kGathered:
      return ReceivedValues(message.gathered());
    case v1::ToRank::kDiagnosis:
      return ReceivedDiagnosis(message.diagnosis());
    default:
      break;
  }
  std::lock_guard lock(mutex_);
  switch (message.kind_case()) {
    case v1::ToRank::kHeartbeat:
      beat_unanswered_ = false;
      NoteClock(message.heartbeat().time_ns());
      break;
    case v1::ToRank::kRefused: {
      const int code = message.refused().code();
      const absl::Status status = MakeError(
          code > 0 && code <= 16 ? static_cast<absl::StatusCode>(code) : absl::StatusCode::kUnknown,
          "{}", OneLine(message.refused().message(), 2 * kMaxTextBytes));
      if (message.refused().request() == 0) {
        Fail(status);
      } else if (const auto found = gatherings_.find(message.refused().request());
                 found != gatherings_.end()) {
        found->second.done = true;
        found->second.status = status;
        changed_.notify_all();
      }
      break;
    }
    case v1::ToRank::kFailed:
      Fail(Unavailable("{}", OneLine(message.failed().message(), 2 * kMaxTextBytes)));
      break;
    case v1::ToRank::kDiagnosisWanted:
      diagnosis_wanted_ = true;
      Wake();
      changed_.notify_all();
      break;
    case v1::ToRank::kClosing:
      closing_ = true;
      changed_.notify_all();
      break;
    default:  // of a later release: not for us
      break;
  }
  return absl::OkStatus();
}

absl::Status Member::ReceivedPeers(const v1::Joined& joined) {
  std::lock_guard lock(mutex_);
  if (joined_ || joined.peers_size() != membership_.join.world_size()) {
    return ProtocolError("the rendezvous names {} ranks in a world of {}", joined.peers_size(),
                         membership_.join.world_size());
  }
  std::vector<PeerInfo> peers;
  for (const v1::Peer& peer : joined.peers()) {
    if (peer.rank() != static_cast<int>(peers.size())) {
      return ProtocolError("the rendezvous names rank {} in place of rank {}", peer.rank(),
                           peers.size());
    }
    peers.push_back({peer.rank(), OneLine(peer.host(), kMaxNameBytes), peer.host_id(), peer.pid(),
                     peer.cores(), peer.cpus()});
  }
  hosted_ = joined.hosted();
  SetPeers(membership_.join.self().rank(), std::move(peers));
  SetLocalAddress(membership_.local_address);
  joined_ = true;
  changed_.notify_all();
  return absl::OkStatus();
}

absl::Status Member::ReceivedValues(const v1::Gathered& gathered) {
  std::lock_guard lock(mutex_);
  const auto found = gatherings_.find(gathered.request());
  if (found == gatherings_.end()) return absl::OkStatus();  // its caller has given up
  Gathering& gathering = found->second;
  if (gathered.first() != gathering.values.size() || gathering.done ||
      gathering.values.size() + static_cast<size_t>(gathered.values_size()) > gathering.wanted) {
    return ProtocolError("the rendezvous sent values {}.. of an all-gather that has {} of {}",
                         gathered.first(), gathering.values.size(), gathering.wanted);
  }
  for (const std::string& value : gathered.values()) gathering.values.push_back(value);
  if (gathering.values.size() == gathering.wanted) {
    gathering.done = true;
    changed_.notify_all();
  }
  return absl::OkStatus();
}

absl::Status Member::ReceivedDiagnosis(const v1::Diagnosis& diagnosis) {
  auto result = std::make_unique<Diagnosis>();
  std::lock_guard lock(mutex_);
  if (!joined_ || diagnosis.rows_size() != size()) {
    return ProtocolError("the rendezvous sent a diagnosis of {} ranks", diagnosis.rows_size());
  }
  for (const auto& row : diagnosis.rows()) {
    result->rows.push_back({static_cast<int>(result->rows.size()),
                            row.answered(),
                            {row.report().number(), OneLine(row.report().description()),
                             OneLine(row.report().waiting_for())},
                            milliseconds(row.silent_ms())});
  }
  diagnosis_ = std::move(result);
  changed_.notify_all();
  return absl::OkStatus();
}

// The call has ended, for whatever reason: says why, unless that is known already.
void Member::Ended() {
  ended_ = true;
  if (!leaving_ && !closing_ && failure_.ok()) {
    if (!joined_) {
      failure_ = Unavailable("the rendezvous at {} cannot be reached: {}", membership_.rendezvous,
                             OneLine(end_status_.error_message()));
    } else if (hosted_) {
      Fail(Unavailable("{} died: it hosted the rendezvous", peer(0).Describe()));
    } else {
      Fail(Unavailable("the rendezvous at {} is gone", membership_.rendezvous));
    }
  }
  changed_.notify_all();
}

void Member::Send(v1::FromRank message) {
  outbox_.push_back(std::move(message));
  Pump();
}

void Member::Pump() {
  if (!started_ || writing_ || over_ || outbox_.empty()) return;
  writing_ = true;
  stream_->Write(outbox_.front(), Tag(Event::kWrite));
}

void Member::Fail(absl::Status status) {
  if (!failure_.ok()) return;  // the first one latches
  failure_ = std::move(status);
  Wake();
  changed_.notify_all();
}

void Member::Wake() {
  const uint64_t one = 1;
  // Cannot fail: the counter is far from its limit.
  [[maybe_unused]] const ssize_t written = write(failure_fd_, &one, sizeof(one));
}

std::string Member::ServerName() const {
  return hosted_ ? fmt::format("{}, which hosts the rendezvous,", peer(0).Describe())
                 : fmt::format("the rendezvous at {}", membership_.rendezvous);
}

absl::Status Member::Closed() const {
  if (!failure_.ok()) return failure_;
  if (leaving_) return FailedPrecondition("this rank has left its job");
  if (closing_ || ended_) return Unavailable("{} has left", ServerName());
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> Member::AllGather(std::string_view name, std::string value,
                                                           const std::vector<int>& members,
                                                           milliseconds timeout) {
  if (name.empty() || name.size() > kMaxNameBytes || OneLine(name, kMaxNameBytes) != name) {
    return InvalidArgument("all-gather '{}': a name is 1..{} printable ASCII characters",
                           OneLine(name, kMaxNameBytes), kMaxNameBytes);
  }
  if (value.size() > kMaxValueBytes) {
    return InvalidArgument("all-gather '{}': a value of {} bytes exceeds {}", name, value.size(),
                           kMaxValueBytes);
  }
  std::vector<bool> named(static_cast<size_t>(size()));
  for (const int member : members) {
    if (member < 0 || member >= size() || named[static_cast<size_t>(member)]) {
      return InvalidArgument("all-gather '{}': member {} is named twice or not in 0..{}", name,
                             member, size() - 1);
    }
    named[static_cast<size_t>(member)] = true;
  }
  if (!members.empty() && !named[static_cast<size_t>(rank())]) {
    return InvalidArgument("all-gather '{}': rank {} is not among its members", name, rank());
  }
  v1::FromRank message;
  v1::Offer* offer = message.mutable_offer();
  offer->set_name(std::string(name));
  offer->mutable_members()->Add(members.begin(), members.end());
  offer->set_value(std::move(value));
  offer->set_wait_ms(timeout.count());

  std::unique_lock lock(mutex_);
  GW_RETURN_IF_ERROR(Closed());
  const uint64_t request = next_request_++;
  offer->set_request(request);
  Gathering& gathering = gatherings_[request];
  gathering.wanted = members.empty() ? static_cast<size_t>(size()) : members.size();
  Send(std::move(message));
  // A part of the world gathers inside a collective, which a diagnosis ends.
  const bool inside = !members.empty();
  const bool answered = changed_.wait_for(lock, timeout + kAnswerGrace, [&] {
    return gathering.done || !Closed().ok() || (inside && diagnosis_wanted_);
  });
  const Gathering result = std::move(gathering);
  gatherings_.erase(request);
  if (!failure_.ok()) return failure_;
  if (result.done && !result.status.ok()) return result.status;
  if (result.done) return result.values;
  if (inside && diagnosis_wanted_) return absl::AbortedError("another rank asks what went wrong");
  if (!answered) {
    return DeadlineExceeded("all-gather '{}': {} did not answer within {} ms", name, ServerName(),
                            (timeout + kAnswerGrace).count());
  }
  return Annotate(Closed(), fmt::format("all-gather '{}'", name));
}

absl::StatusOr<std::vector<ConnectionFacts>> Member::ExchangeFacts(std::string_view name,
                                                                   const ConnectionFacts& facts,
                                                                   const std::vector<int>& members,
                                                                   milliseconds timeout) {
  GW_ASSIGN_OR_RETURN(const std::vector<std::string> values,
                      AllGather(name, SerializeFacts(facts), members, timeout));
  std::vector<ConnectionFacts> result;
  for (size_t i = 0; i < values.size(); ++i) {
    const int from = members.empty() ? static_cast<int>(i) : members[i];
    absl::StatusOr<ConnectionFacts> parsed = ParseFacts(values[i]);
    if (!parsed.ok()) {
      return Annotate(parsed.status(), fmt::format("facts of {}", peer(from).Describe()));
    }
    result.push_back(*std::move(parsed));
  }
  return result;
}

absl::Status Member::Barrier(std::string_view name, milliseconds timeout) {
  return AllGather(fmt::format("barrier {}", name), "", {}, timeout).status();
}

absl::Status Member::failure() const {
  std::lock_guard lock(mutex_);
  return failure_;
}

absl::Status Member::ExplainLinkFailure(absl::Status suspicion, milliseconds grace) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, grace, [this] { return !Closed().ok() || diagnosis_wanted_; });
  if (!failure_.ok()) return failure_;
  return diagnosis_wanted_ ? absl::AbortedError("another rank asks what went wrong") : suspicion;
}

absl::StatusOr<Diagnosis> Member::Diagnose(const OperationReport& mine, std::string_view reason) {
  v1::FromRank message;
  v1::Report* report = message.mutable_report();
  report->set_number(mine.number);
  report->set_description(OneLine(mine.description));
  report->set_waiting_for(OneLine(mine.waiting_for));
  report->set_reason(OneLine(reason));

  std::unique_lock lock(mutex_);
  GW_RETURN_IF_ERROR(Closed());
  if (diagnosis_ == nullptr) {
    Send(std::move(message));
    const auto patience = kDiagnosisPatience + kAnswerGrace / 2;
    changed_.wait_for(lock, patience, [this] { return diagnosis_ != nullptr || !Closed().ok(); });
  }
  if (diagnosis_ != nullptr) return *diagnosis_;
  GW_RETURN_IF_ERROR(Closed());
  return DeadlineExceeded(
      "{} has been silent for {} ms", ServerName(),
      std::chrono::duration_cast<milliseconds>(steady_clock::now() - last_heard_).count());
}

absl::Status Member::Leave(std::string_view reason) {
  {
    std::unique_lock lock(mutex_);
    if (leaving_) return failure_;
    leaving_ = true;
    changed_.notify_all();  // callers of other threads give up
    v1::FromRank message;
    message.mutable_leave()->set_reason(OneLine(reason));
    if (!ended_) Send(std::move(message));
    if (!changed_.wait_for(lock, kAnswerGrace, [this] { return ended_; })) context_.TryCancel();
  }
  thread_.join();
  if (membership_.server != nullptr) membership_.server->Stop(kHostGrace);
  std::lock_guard lock(mutex_);
  return failure_;
}

}  // namespace

absl::StatusOr<std::unique_ptr<World>> Attend(Membership membership) {
  auto member = std::make_unique<Member>(std::move(membership));
  GW_RETURN_IF_ERROR(member->Join());
  return std::unique_ptr<World>(std::move(member));
}

}  // namespace gradwire::internal
