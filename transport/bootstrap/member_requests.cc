// What callers ask of their world, on their own threads.
#include <utility>

#include "transport/bootstrap/facts.h"
#include "transport/bootstrap/limits_internal.h"
#include "transport/bootstrap/member_internal.h"

namespace gradwire::internal {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

// How long rank 0 keeps its server up for ranks that have not left yet.
constexpr milliseconds kHostGrace{5000};

}  // namespace

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

}  // namespace gradwire::internal
