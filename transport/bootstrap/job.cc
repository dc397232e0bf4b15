#include <algorithm>
#include <utility>

#include "transport/bootstrap/job_internal.h"
#include "transport/bootstrap/limits_internal.h"
#include "transport/bootstrap/service_internal.h"

namespace gradwire::internal {
namespace {

using std::chrono::milliseconds;

constexpr size_t kNamesInText = 8;

milliseconds BoundedWait(int64_t ms) {
  return milliseconds(std::clamp<int64_t>(ms, 0, milliseconds(kMaxWait).count()));
}

std::string Describe(const v1::Peer& peer) {
  return fmt::format("rank {} ({}, pid {})", peer.rank(), OneLine(peer.host()), peer.pid());
}

double Seconds(std::chrono::nanoseconds time) {
  return std::chrono::duration<double>(time).count();
}

}  // namespace

std::string DescribeRanks(const std::vector<int>& ranks) {
  std::vector<std::string> runs;
  for (size_t i = 0; i < ranks.size();) {
    size_t end = i + 1;
    while (end < ranks.size() && ranks[end] == ranks[end - 1] + 1) ++end;
    if (runs.size() == kNamesInText) {
      runs.push_back(fmt::format("{} more", ranks.size() - i));
      break;
    }
    runs.push_back(end - i == 1 ? fmt::format("{}", ranks[i])
                                : fmt::format("{}-{}", ranks[i], ranks[end - 1]));
    i = end;
  }
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (size_t i = 0; i < runs.size(); ++i) {
    if (i > 0) text += i + 1 == runs.size() ? " and " : ", ";
    text += runs[i];
  }
  return text;
}

Job::Job(std::string id, std::string token, int world_size, bool hosted)
    : id_(std::move(id)),
      token_(std::move(token)),
      hosted_(hosted),
      seats_(static_cast<size_t>(world_size)) {
  for (int rank = 0; rank < world_size; ++rank) seat(rank).peer.set_rank(rank);
}

absl::Status Job::Admit(const v1::Join& join, Channel* channel, Time now) {
  const int size = static_cast<int>(seats_.size());
  const int rank = join.self().rank();
  const std::string who = Describe(join.self());
  if (!SameSecret(join.token(), token_)) {
    return MakeError(absl::StatusCode::kPermissionDenied,
                     "{} is turned away from job '{}': {}; give every rank the same --token "
                     "(GRADWIRE_TOKEN)",
                     who, id_, WrongToken(join.token(), token_));
  }
  if (!failure_.empty()) {
    return MakeError(absl::StatusCode::kAborted,
                     "job '{}' has failed ({}) and {} of its ranks have not left yet; start again "
                     "later or take another --job-id",
                     id_, failure_, present_);
  }
  if (formed_) {
    return FailedPrecondition(
        "{}, of a world of {}, is turned away: job '{}' is complete with its {} ranks, the first "
        "being {}; a second job needs a rendezvous port or a --job-id of its own",
        who, join.world_size(), id_, size, Describe(seats_[0].peer));
  }
  if (join.world_size() != size) {
    std::string by;
    for (const Seat& other : seats_) {
      if (other.state == State::kPresent && by.empty())
        by = ", as " + Describe(other.peer) + " said";
    }
    return InvalidArgument(
        "{} says world size {}, but job '{}' has world size {}{}; start every rank with the same "
        "WORLD_SIZE",
        who, join.world_size(), id_, size, by);
  }
  if (rank < 0 || rank >= size) {
    return InvalidArgument("{} does not fit job '{}' of world size {}; ranks are 0..{}", who, id_,
                           size, size - 1);
  }
  if (seat(rank).state == State::kPresent) {
    return MakeError(absl::StatusCode::kAlreadyExists,
                     "{} is turned away from job '{}': {} has joined before it; two processes were "
                     "started with the same rank, or two jobs share an id",
                     who, id_, Describe(seat(rank).peer));
  }
  Seat& mine = seat(rank);
  mine = Seat{};
  mine.state = State::kPresent;
  mine.channel = channel;
  mine.peer = join.self();
  mine.last_heard = now;
  mine.join_deadline = now + BoundedWait(join.wait_ms());
  mine.heartbeat_timeout = BoundedWait(join.heartbeat_timeout_ms());
  ++present_;
  if (present_ < size) return absl::OkStatus();

  formed_ = true;
  v1::ToRank message;
  v1::Joined* joined = message.mutable_joined();
  joined->set_hosted(hosted_);
  for (Seat& each : seats_) {
    each.last_heard = now;
    *joined->add_peers() = each.peer;
  }
  Broadcast(std::move(message));
  return absl::OkStatus();
}

absl::Status Job::Receive(int rank, const v1::FromRank& message, Time now) {
  seat(rank).last_heard = now;
  switch (message.kind_case()) {
    case v1::FromRank::kHeartbeat: {
      v1::ToRank answer;
      answer.mutable_heartbeat()->set_time_ns(
          std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count());
      seat(rank).channel->Send(std::make_shared<const v1::ToRank>(std::move(answer)));
      return absl::OkStatus();
    }
    case v1::FromRank::kLeave:
      Leave(rank, OneLine(message.leave().reason()));
      return absl::OkStatus();
    case v1::FromRank::kOffer:
      if (!formed_) break;
      return ReceiveOffer(rank, message.offer(), now);
    case v1::FromRank::kReport:
      if (!formed_) break;
      Report(rank, message.report(), now);
      return absl::OkStatus();
    default:
      break;
  }
  return ProtocolError("{} sent message {} where it does not belong", Name(rank),
                       static_cast<int>(message.kind_case()));
}

absl::Status Job::ReceiveOffer(int rank, const v1::Offer& offer, Time now) {
  Channel* channel = seat(rank).channel;
  const std::string& name = offer.name();
  const std::string shown = OneLine(name);
  if (name.empty() || name.size() > kMaxNameBytes || offer.value().size() > kMaxValueBytes ||
      offer.request() == 0 || offer.members_size() > static_cast<int>(seats_.size())) {
    return ProtocolError("{} made an offer out of bounds", Name(rank));
  }
  std::vector<int> members(offer.members().begin(), offer.members().end());
  if (members.empty()) {
    for (size_t i = 0; i < seats_.size(); ++i) members.push_back(static_cast<int>(i));
  }
  std::vector<bool> named(seats_.size());
  for (int member : members) {
    if (member < 0 || member >= static_cast<int>(seats_.size()) ||
        named[static_cast<size_t>(member)]) {
      return ProtocolError("{} named member {} in all-gather '{}' twice or out of range",
                           Name(rank), member, shown);
    }
    named[static_cast<size_t>(member)] = true;
  }
  if (!named[static_cast<size_t>(rank)]) {
    return ProtocolError("{} offered to all-gather '{}' without being a member", Name(rank), shown);
  }
  const auto refuse = [&](const absl::Status& status) {
    Refuse(channel, offer.request(), status);
    return absl::OkStatus();
  };
  if (!failure_.empty()) return refuse(Unavailable("{}", failure_));
  if (seat(rank).open_offers >= kMaxOpenOffers ||
      held_bytes_ + offer.value().size() > kMaxHeldBytes) {
    return refuse(MakeError(absl::StatusCode::kResourceExhausted,
                            "all-gather '{}': {} open on {}, {} bytes held for job '{}'; the most "
                            "are {} and {}",
                            shown, seat(rank).open_offers, Name(rank), held_bytes_, id_,
                            kMaxOpenOffers, kMaxHeldBytes));
  }

  auto [at, fresh] = gathers_.try_emplace(name);
  Gather& gather = at->second;
  if (fresh) {
    gather.members = members;
    gather.offers.resize(members.size());
    gather.missing = members.size();
  } else if (gather.members != members) {
    std::vector<int> theirs = gather.members;
    const absl::Status status = FailedPrecondition(
        "all-gather '{}': {} named {} members ({}), those before it named {} members ({}); every "
        "member must name the same ones in the same order",
        shown, Name(rank), members.size(), DescribeRanks(members), theirs.size(),
        DescribeRanks(theirs));
    Abandon(at, status);
    return refuse(status);
  }
  const size_t index =
      static_cast<size_t>(std::find(members.begin(), members.end(), rank) - members.begin());
  if (gather.offers[index].request != 0) {
    return refuse(FailedPrecondition("all-gather '{}': {} offers to it twice; names are used once",
                                     shown, Name(rank)));
  }
  gather.offers[index] = {offer.request(), now + BoundedWait(offer.wait_ms()), offer.value()};
  gather.bytes += offer.value().size();
  held_bytes_ += offer.value().size();
  ++seat(rank).open_offers;
  if (--gather.missing == 0) {
    Complete(at);
    return absl::OkStatus();
  }
  for (size_t i = 0; i < members.size(); ++i) {
    if (gather.offers[i].request == 0 && seat(members[i]).state != State::kPresent) {
      Abandon(at, FailedPrecondition("all-gather '{}' cannot complete: {} has left the job", shown,
                                     Name(members[i])));
      break;
    }
  }
  return absl::OkStatus();
}

// Sends the values in as many messages as their size needs; each is built once for every member but
// for its request number, so members are served one after the other.
void Job::Complete(Gathers::iterator at) {
  Gather gather = std::move(at->second);
  held_bytes_ -= gather.bytes;
  gathers_.erase(at);
  for (size_t m = 0; m < gather.members.size(); ++m) {
    Seat& member = seat(gather.members[m]);
    --member.open_offers;
    if (member.channel == nullptr) continue;
    for (size_t first = 0; first < gather.members.size();) {
      v1::ToRank message;
      v1::Gathered* gathered = message.mutable_gathered();
      gathered->set_request(gather.offers[m].request);
      gathered->set_first(static_cast<uint32_t>(first));
      size_t bytes = 0;
      do {
        bytes += gather.offers[first].value.size() + 8;  // 8: framing of a value
        gathered->add_values(gather.offers[first].value);
        ++first;
      } while (first < gather.members.size() &&
               bytes + gather.offers[first].value.size() + 8 <= kMaxValueBytes);
      member.channel->Send(std::make_shared<const v1::ToRank>(std::move(message)));
    }
  }
}

void Job::Abandon(Gathers::iterator at, const absl::Status& status) {
  const Gather gather = std::move(at->second);
  held_bytes_ -= gather.bytes;
  gathers_.erase(at);
  for (size_t m = 0; m < gather.members.size(); ++m) {
    Seat& member = seat(gather.members[m]);
    if (gather.offers[m].request == 0) continue;
    --member.open_offers;
    if (member.channel != nullptr) Refuse(member.channel, gather.offers[m].request, status);
  }
}

std::string Job::Absent(const Gather& gather) const {
  std::vector<int> ranks;
  for (size_t i = 0; i < gather.members.size(); ++i) {
    if (gather.offers[i].request == 0) ranks.push_back(gather.members[i]);
  }
  if (ranks.size() == 1) return Name(ranks[0]);
  std::sort(ranks.begin(), ranks.end());
  return DescribeRanks(ranks);
}

void Job::Report(int rank, const v1::Report& report, Time now) {
  Seat& reporter = seat(rank);
  if (diagnosis_ != nullptr) {
    if (!std::exchange(reporter.got_diagnosis, true)) reporter.channel->Send(diagnosis_);
    return;
  }
  v1::Report kept;
  kept.set_number(report.number());
  kept.set_description(OneLine(report.description()));
  kept.set_waiting_for(OneLine(report.waiting_for()));
  reporter.report = std::move(kept);
  if (!diagnosing_) {
    diagnosing_ = true;
    diagnosis_deadline_ = now + kDiagnosisPatience;
    v1::ToRank message;
    message.mutable_diagnosis_wanted()->set_rank(rank);
    message.mutable_diagnosis_wanted()->set_reason(OneLine(report.reason()));
    Broadcast(std::move(message));
  }
  AnswerDiagnosis(now);
}

// Answers once all who are present have reported or the time is up.
void Job::AnswerDiagnosis(Time now) {
  const bool all = std::all_of(seats_.begin(), seats_.end(), [](const Seat& each) {
    return each.state != State::kPresent || each.report.has_value();
  });
  if (!all && now < diagnosis_deadline_) return;
  v1::ToRank message;
  for (const Seat& each : seats_) {
    auto* row = message.mutable_diagnosis()->add_rows();
    row->set_answered(each.report.has_value());
    if (each.report) *row->mutable_report() = *each.report;
    row->set_silent_ms(std::chrono::duration_cast<milliseconds>(now - each.last_heard).count());
  }
  diagnosis_ = std::make_shared<const v1::ToRank>(std::move(message));
  for (Seat& each : seats_) {
    if (each.channel == nullptr || !each.report) continue;
    each.got_diagnosis = true;
    each.channel->Send(diagnosis_);
  }
}

void Job::Leave(int rank, const std::string& reason) {
  Channel* channel = Vacate(rank, reason.empty() ? State::kLeft : State::kDead);
  if (formed_ && !reason.empty()) Fail(rank, fmt::format("{} gave up: {}", Name(rank), reason));
  channel->End(absl::OkStatus());
}

void Job::Lost(int rank, std::string_view how) {
  if (seat(rank).state != State::kPresent) return;
  Vacate(rank, State::kDead);
  if (formed_) Fail(rank, fmt::format("{} died: {}", Name(rank), how));
}

Channel* Job::Vacate(int rank, State state) {
  Seat& leaver = seat(rank);
  Channel* channel = std::exchange(leaver.channel, nullptr);
  --present_;
  if (!formed_) {
    // Its seat is free again: a launcher may start it anew while the others wait.
    const std::string lost = Describe(leaver.peer);
    leaver = Seat{};
    leaver.peer.set_rank(rank);
    leaver.lost = lost;
    return channel;
  }
  leaver.state = state;
  for (auto at = gathers_.begin(); at != gathers_.end();) {
    const auto next = std::next(at);
    const Gather& gather = at->second;
    for (size_t i = 0; i < gather.members.size(); ++i) {
      if (gather.members[i] != rank || gather.offers[i].request != 0) continue;
      if (state == State::kLeft) {
        Abandon(at, FailedPrecondition("all-gather '{}' cannot complete: {} has left the job",
                                       OneLine(at->first), Name(rank)));
      }
      break;
    }
    at = next;
  }
  return channel;
}

void Job::Fail(int rank, const std::string& message) {
  if (!failure_.empty()) return;  // the first one is the cause of the others
  failure_ = message;
  gathers_.clear();  // every member fails them on its own when it hears of the failure
  held_bytes_ = 0;
  v1::ToRank notice;
  notice.mutable_failed()->set_rank(rank);
  notice.mutable_failed()->set_message(message);
  Broadcast(std::move(notice));
}

void Job::Tick(Time now) {
  if (!formed_) {
    for (const Seat& each : seats_) {
      if (each.state != State::kPresent || now < each.join_deadline) continue;
      const absl::Status status = DeadlineExceeded("{}", Census());
      for (int rank = 0; rank < static_cast<int>(seats_.size()); ++rank) {
        if (seat(rank).state == State::kPresent) Vacate(rank, State::kLeft)->End(status);
      }
      return;
    }
  }
  for (int rank = 0; rank < static_cast<int>(seats_.size()); ++rank) {
    const Seat& each = seat(rank);
    if (each.state != State::kPresent || now - each.last_heard <= each.heartbeat_timeout) continue;
    const std::string silence =
        fmt::format("no heartbeat for {:.1f} s", Seconds(now - each.last_heard));
    Channel* channel = each.channel;
    Lost(rank, silence);
    channel->End(Unavailable("{} was given up by the others: {}", Name(rank), silence));
  }
  for (auto at = gathers_.begin(); at != gathers_.end();) {
    const auto next = std::next(at);
    const Gather& gather = at->second;
    const bool late =
        std::any_of(gather.offers.begin(), gather.offers.end(),
                    [&](const auto& offer) { return offer.request != 0 && now >= offer.deadline; });
    if (late) {
      Abandon(at, DeadlineExceeded("all-gather '{}' timed out: still missing {}",
                                   OneLine(at->first), Absent(gather)));
    }
    at = next;
  }
  if (diagnosing_ && diagnosis_ == nullptr) AnswerDiagnosis(now);
}

void Job::Forgive(std::chrono::nanoseconds gap) {
  for (Seat& each : seats_) each.last_heard += gap;
}

void Job::Close() {
  v1::ToRank message;
  message.mutable_closing();
  Broadcast(std::move(message));
  for (int rank = 0; rank < static_cast<int>(seats_.size()); ++rank) {
    if (seat(rank).state != State::kPresent) continue;
    Vacate(rank, State::kLeft)->End(absl::OkStatus());
  }
}

std::string Job::Name(int rank) const {
  const v1::Peer& peer = seats_[static_cast<size_t>(rank)].peer;
  return peer.host().empty() ? fmt::format("rank {}", rank) : Describe(peer);
}

// Who is missing and who is there, for the error at the joining deadline.
std::string Job::Census() const {
  std::vector<int> missing;
  std::string lost;
  std::string present;
  size_t named = 0;
  for (int rank = 0; rank < static_cast<int>(seats_.size()); ++rank) {
    const Seat& each = seats_[static_cast<size_t>(rank)];
    if (each.state != State::kPresent) {
      missing.push_back(rank);
      if (!each.lost.empty()) lost += fmt::format("; {} had joined but went away", each.lost);
      continue;
    }
    if (++named > kNamesInText) continue;
    if (!present.empty()) present += ", ";
    present += Describe(each.peer);
  }
  if (named > kNamesInText) present += fmt::format(" and {} more", named - kNamesInText);
  return fmt::format(
      "job '{}' of world size {} did not come together in time: missing {}; present: {}{}", id_,
      seats_.size(), DescribeRanks(missing), present, OneLine(lost));
}

void Job::Broadcast(v1::ToRank message) {
  const auto shared = std::make_shared<const v1::ToRank>(std::move(message));
  for (const Seat& each : seats_) {
    if (each.channel != nullptr) each.channel->Send(shared);
  }
}

void Job::Refuse(Channel* channel, uint64_t request, const absl::Status& status) {
  v1::ToRank message;
  message.mutable_refused()->set_request(request);
  message.mutable_refused()->set_code(static_cast<int>(status.code()));
  message.mutable_refused()->set_message(Message(status));
  channel->Send(std::make_shared<const v1::ToRank>(std::move(message)));
}

}  // namespace gradwire::internal
