#include <sys/eventfd.h>
#include <unistd.h>

#include <exception>
#include <utility>

#include "transport/bootstrap/limits_internal.h"
#include "transport/bootstrap/member_internal.h"

namespace gradwire::internal {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using Time = steady_clock::time_point;

}  // namespace

Member::Member(Membership membership)
    : membership_(std::move(membership)),
      failure_fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)),
      last_heard_(steady_clock::now()) {}

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

absl::StatusOr<std::unique_ptr<World>> Attend(Membership membership) {
  auto member = std::make_unique<Member>(std::move(membership));
  GW_RETURN_IF_ERROR(member->Join());
  return std::unique_ptr<World>(std::move(member));
}

}  // namespace gradwire::internal
