#include "collectives/exchange.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "collectives/kernels.h"

namespace gradwire {
namespace {

// How long the control plane may take to say who died first; a kill is known there within
// milliseconds.
constexpr std::chrono::milliseconds kVerdictGrace{2500};

constexpr int kSignatureBits = 11;

uint32_t TagOf(const OperationKey& key, uint64_t number) {
  constexpr uint32_t kSignatures = (1u << kSignatureBits) - 1;
  constexpr uint32_t kStride = 67;  // keeps all types and operations apart
  static_assert(kDataTypeCount * kReduceOpCount * kStride < kSignatures);
  const auto type_and_op =
      static_cast<uint32_t>(key.type) * kReduceOpCount + static_cast<uint32_t>(key.op);
  // Fibonacci hashing: the upper bits of a product with 2^64 / golden ratio.
  const uint64_t rest =
      (key.count * 131 + static_cast<uint64_t>(key.root)) * 7 + static_cast<uint64_t>(key.kind);
  const auto hash = static_cast<uint32_t>(rest * 0x9e3779b97f4a7c15u >> 40);
  const uint32_t signature = (hash + type_and_op * kStride) % kSignatures;
  return static_cast<uint32_t>(number & 0x7f) << kSignatureBits | signature;
}

bool SameNumber(uint32_t a, uint32_t b) { return a >> kSignatureBits == b >> kSignatureBits; }

}  // namespace

std::string_view NameOf(CollectiveKind kind) {
  constexpr std::array<std::string_view, 5> kNames = {"all_reduce", "reduce_scatter", "all_gather",
                                                      "broadcast", "barrier"};
  return kNames[static_cast<size_t>(kind)];
}

std::string OperationKey::Describe() const {
  switch (kind) {
    case CollectiveKind::kBarrier:
      return "barrier";
    case CollectiveKind::kBroadcast:
      return fmt::format("broadcast of {} {} from rank {}", count, NameOf(type), root);
    case CollectiveKind::kAllGather:
      return fmt::format("all_gather of {} {}", count, NameOf(type));
    default:
      return fmt::format("{} of {} {}, {}", NameOf(kind), count, NameOf(type), NameOf(op));
  }
}

Exchange::Exchange(World& world, Transport& transport, const Settings& settings)
    : world_(world),
      transport_(transport),
      settings_(settings),
      inboxes_(static_cast<size_t>(world.size())) {
  for (Inbox& inbox : inboxes_) inbox.ring.resize(static_cast<size_t>(settings.slots));
}

absl::Status Exchange::Begin(const OperationKey& key, uint64_t number) {
  key_ = key;
  number_ = number;
  tag_ = TagOf(key, number);
  deadline_ = Clock::now() + settings_.op_timeout;
  waiting_for_ = -1;
  if (world_.diagnosis_wanted()) return absl::AbortedError("another rank asks what went wrong");
  // Writes of this collective that came early were not checked when they arrived.
  for (const Inbox& inbox : inboxes_) {
    if (inbox.head == inbox.tail) continue;
    const Completion& first = inbox.ring[inbox.head % inbox.ring.size()];
    if (SameNumber(first.tag, tag_) && first.tag != tag_) return Mismatch(*first.link);
  }
  return absl::OkStatus();
}

absl::StatusOr<Link*> Exchange::Open(int peer) {
  waiting_for_ = peer;
  return transport_.OpenLink(peer, deadline_);
}

absl::Status Exchange::Mismatch(const Link& link) {
  return FailedPrecondition("what arrives from {} belongs to another operation", Who(link.peer()));
}

absl::Status Exchange::Dispatch(const Completion& completion) {
  Inbox& inbox = this->inbox(*completion.link);
  switch (completion.kind) {
    case Completion::Kind::kClosed:
      inbox.ended = true;
      return absl::OkStatus();
    case Completion::Kind::kArrived:
      inbox.ring[inbox.tail++ % inbox.ring.size()] = completion;
      if (SameNumber(completion.tag, tag_) && completion.tag != tag_) {
        return Mismatch(*completion.link);
      }
      return absl::OkStatus();
    default:
      return absl::OkStatus();
  }
}

absl::Status Exchange::Progress(Link& needed, telemetry::Need need, uint64_t sequence,
                                bool also_credit) {
  waiting_for_ = needed.peer();
  if (inbox(needed).ended) return needed.status();
  if (need == telemetry::Need::kArrival) sequence = inbox(needed).tail;
  const telemetry::Span span(telemetry::Kind::kWait, needed.peer(), sequence, 0,
                             static_cast<uint8_t>(static_cast<uint8_t>(need) |
                                                  (also_credit ? telemetry::kAlsoCredit : 0)));
  const auto count = transport_.Wait(completions_, deadline_);
  if (!count.ok()) return count.status();
  for (int i = 0; i < *count; ++i) {
    GW_RETURN_IF_ERROR(Dispatch(completions_[static_cast<size_t>(i)]));
  }
  return absl::OkStatus();
}

absl::Status Exchange::Write(Link& link, const RegionSpan& from, const RemoteSpan& to) {
  while (link.credits() == 0) {
    GW_RETURN_IF_ERROR(Progress(link, telemetry::Need::kCredit, link.next_sequence()));
  }
  return link.Write(from, to, tag_);
}

absl::Status Exchange::WriteToSlot(Link& link, const RegionSpan& from) {
  while (link.credits() == 0) {
    GW_RETURN_IF_ERROR(Progress(link, telemetry::Need::kCredit, link.next_sequence()));
  }
  return link.Write(from, link.NextSlot(from.length), tag_);
}

absl::Status Exchange::WriteAlone(Link& link, const RegionSpan& from) {
  GW_RETURN_IF_ERROR(WriteToSlot(link, from));
  return EndBurst(link);
}

bool Exchange::HasArrival(const Link& link) const {
  const Inbox& inbox = inboxes_[static_cast<size_t>(link.peer())];
  return inbox.head != inbox.tail;
}

size_t Exchange::ArrivalLength(const Link& link) const {
  const Inbox& inbox = inboxes_[static_cast<size_t>(link.peer())];
  return inbox.ring[inbox.head % inbox.ring.size()].length;
}

absl::StatusOr<Completion> Exchange::Receive(Link& link, size_t length) {
  while (!HasArrival(link)) GW_RETURN_IF_ERROR(Progress(link));
  Inbox& inbox = this->inbox(link);
  const Completion& next = inbox.ring[inbox.head % inbox.ring.size()];
  if (next.tag != tag_ || next.length != length) return Mismatch(link);
  ++inbox.head;
  return next;
}

absl::Status Exchange::AwaitWritten(Link& link) {
  return link.next_sequence() == 0 ? absl::OkStatus()
                                   : AwaitWritten(link, link.next_sequence() - 1);
}

absl::Status Exchange::AwaitWritten(Link& link, uint64_t sequence) {
  if (link.written() > sequence) return absl::OkStatus();
  GW_RETURN_IF_ERROR(link.Settle());
  while (link.written() <= sequence) {
    GW_RETURN_IF_ERROR(Progress(link, telemetry::Need::kWritten, sequence));
  }
  return absl::OkStatus();
}

absl::Status Exchange::EndBurst(Link& link) {
  GW_RETURN_IF_ERROR(link.Settle());
  return transport_.Flush();
}

void Exchange::Reduce(DataType type, ReduceOp op, std::byte* out, const std::byte* a,
                      const std::byte* b, size_t bytes) const {
  if (bytes == 0) return;
  const telemetry::Span span(telemetry::Kind::kReduce, -1, 0, bytes);
  const int64_t rate = settings_.reduce_rate.For(rank());
  if (rate == 0) return KernelFor(type, op)(out, a, b, bytes / SizeOf(type));
  // 1 MB/s is 1 byte per microsecond.
  const Deadline end =
      Clock::now() + std::chrono::nanoseconds(static_cast<int64_t>(bytes) * 1000 / rate);
  KernelFor(type, op)(out, a, b, bytes / SizeOf(type));
  while (Clock::now() < end) {
  }
}

void Exchange::Copy(std::byte* to, const std::byte* from, size_t bytes) {
  if (bytes == 0) return;
  const telemetry::Span span(telemetry::Kind::kCopy, -1, 0, bytes);
  bytes_copied_ += bytes;
  std::memcpy(to, from, bytes);
}

absl::StatusOr<const Region*> Exchange::Scratch(size_t bytes) {
  if (scratch_.size() < bytes) {
    GW_ASSIGN_OR_RETURN(scratch_, transport_.Allocate(bytes, Access::kLocal));
  }
  return &scratch_;
}

absl::Status Exchange::Explain(absl::Status error) {
  const std::string what = fmt::format("{} (#{})", key_.Describe(), number_);
  if (absl::Status failed = world_.failure(); !failed.ok()) return Annotate(failed, what);
  // A refused write counts too: a rank that fails ends its regions, and may be heard of before the
  // one whose loss made it fail.
  const bool lost =
      absl::IsUnavailable(error) || absl::IsDataLoss(error) || absl::IsPermissionDenied(error);
  if (lost) {
    error = world_.ExplainLinkFailure(std::move(error), kVerdictGrace);
    if (!absl::IsAborted(error)) return Annotate(error, what);
  }

  // Everything else that depends on what the others do: compare notes with them.
  const bool timeout = absl::IsDeadlineExceeded(error);
  if (!timeout && !absl::IsFailedPrecondition(error) && !absl::IsAborted(error)) {
    return Annotate(error, what);
  }
  OperationReport report{number_, key_.Describe(),
                         waiting_for_ < 0 ? "" : fmt::format("rank {}", waiting_for_)};
  const auto diagnosis = world_.Diagnose(report, Message(error));
  const std::string late =
      fmt::format("{}: timed out after {:.1f} s (--op-timeout) waiting for {}", what,
                  static_cast<double>(settings_.op_timeout.count()) / 1e3,
                  waiting_for_ < 0 ? "its peers" : Who(waiting_for_));
  if (!diagnosis.ok()) {
    if (absl::Status failed = world_.failure(); !failed.ok()) return Annotate(failed, what);
    // The rendezvous itself is silent: with its rank frozen, nobody else can tell.
    return timeout ? DeadlineExceeded("{}; {}", late, Message(diagnosis.status()))
                   : Annotate(error, what);
  }

  // Ranks by what they do; those that did not answer by how long they have been silent.
  std::map<std::string, std::string> doing;
  std::string absent;
  for (const Diagnosis::Row& row : diagnosis->rows) {
    if (row.answered) {
      std::string& ranks =
          doing[fmt::format("{} (#{})", row.report.description, row.report.number)];
      ranks += fmt::format("{}{}", ranks.empty() ? "rank " : ", ", row.rank);
    } else if (row.silent_for > 3 * settings_.heartbeat_interval + std::chrono::seconds(1)) {
      absent += fmt::format("; {} has been silent for {:.1f} s: frozen or unreachable",
                            Who(row.rank), static_cast<double>(row.silent_for.count()) / 1e3);
    } else {
      absent += fmt::format("; {} is alive but in no collective", Who(row.rank));
    }
  }
  if (doing.size() > 1) {
    std::string all;
    for (const auto& [description, ranks] : doing) {
      all += fmt::format("{}{}: {}", all.empty() ? "" : "; ", ranks, description);
    }
    return FailedPrecondition("{}: the ranks do not agree: {}{}", what, all, absent);
  }
  if (absl::IsAborted(error) && !absent.empty()) {
    return DeadlineExceeded("{}: given up{}", what, absent);
  }
  if (timeout) return DeadlineExceeded("{}{}", late, absent);
  return Annotate(error, what);
}

}  // namespace gradwire
