#include "analysis/findings.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <map>

#include "analysis/units.h"

namespace gradwire::analysis {
namespace {

// A class takes less than this: it is not worth a sentence.
constexpr double kLeastShare = 0.02;
// One rank has so much of a class: it is named.
constexpr double kDominates = 0.6;
// A slice and what it is added to lie in the caches of a core.
constexpr int64_t kCachedSlice = 256 << 10;  // bytes

// What one class takes of the critical paths.
struct Sum {
  int64_t total_ns = 0;
  std::map<int, int64_t> by_rank;
  std::map<int, int64_t> by_peer;
  int64_t with_loss_ns = 0;  // of operations in which packets were sent again
  int64_t unseen_ns = 0;     // of waits for ranks without a recording
};

// The one with more than kDominates of the total; -1: none.
int Dominant(const std::map<int, int64_t>& parts, int64_t total) {
  for (const auto& [rank, part] : parts) {
    if (static_cast<double>(part) > kDominates * static_cast<double>(total)) return rank;
  }
  return -1;
}

const RankInfo* InfoOf(const Run& run, int rank) {
  for (const RankInfo& info : run.ranks) {
    if (info.rank == rank) return &info;
  }
  return run.ranks.empty() ? nullptr : &run.ranks.front();
}

std::string Setting(const Run& run, int rank, const std::string& name) {
  const RankInfo* const info = InfoOf(run, rank);
  if (info == nullptr) return "?";
  const auto found = info->settings.find(name);
  return found == info->settings.end() ? "?" : found->second;
}

// Of all ranks. A port of the kernel's or a NIC counts for all ranks that use it, urxe and TCP for
// their own.
uint64_t Counter(const Run& run, const std::string& name) {
  uint64_t sum = 0;
  std::map<std::pair<std::string, std::string>, uint64_t> of_port;
  for (const RankInfo& info : run.ranks) {
    const auto found = info.counters.find(name);
    if (found == info.counters.end()) continue;
    if (info.transport != "rdma" || info.device.find(" urxe") != std::string::npos) {
      sum += found->second;
    } else {
      uint64_t& most = of_port[{info.host, info.device}];
      most = std::max(most, found->second);
    }
  }
  for (const auto& [port, most] : of_port) sum += most;
  return sum;
}

bool Recorded(const Run& run, int rank) {
  return std::ranges::any_of(run.ranks, [rank](const RankInfo& info) { return info.rank == rank; });
}

// Whether any rank gave up its processor in a wait.
bool Slept(const Run& run) {
  return std::ranges::any_of(run.ranks, [](const RankInfo& info) {
    const auto blocks = info.counters.find("blocks");
    return blocks == info.counters.end() || blocks->second > 0;
  });
}

// Bytes of a slice; 0: not known.
int64_t SliceBytes(const Run& run) {
  const std::string text = Setting(run, -1, "slice-bytes");
  int64_t bytes = 0;
  std::from_chars(text.data(), text.data() + text.size(), bytes);
  return bytes;
}

// What makes fewer writes of the same bytes.
std::string_view FewerWrites(const Run& run) {
  const auto slice = static_cast<uint64_t>(SliceBytes(run));
  const bool sliced = std::ranges::any_of(
      run.operations, [slice](const Operation& operation) { return operation.bytes > slice; });
  return sliced ? "larger slices (--slice-bytes)" : "fewer, larger tensors (gradient buckets)";
}

std::string Who(int rank) { return rank < 0 ? "the ranks" : fmt::format("rank {}", rank); }

// Why the class takes time, and what to change.
struct Words {
  std::string because;
  std::string advice;
};

// Whether --reduce-rate holds `rank` back; -1: any.
bool Throttled(const Run& run, int rank) {
  const std::string rate = Setting(run, rank, "reduce-rate");
  const size_t colon = rate.find(':');
  return rate != "0" && rate != "?" &&
         (colon == std::string::npos || rank < 0 || rate.substr(0, colon) == std::to_string(rank));
}

// `lossy`: most of it is of operations in which packets were sent again; `unseen`: of waits for
// ranks without a recording.
Words WordsOf(const Run& run, Class in, int rank, int peer, bool lossy, bool unseen) {
  const bool tcp = run.ranks.front().transport == "tcp";
  const uint64_t again = lossy ? Counter(run, "device_retransmits") : 0;
  if (lossy && tcp && (in == Class::kSendBlocked || in == Class::kReceiveWait)) {
    return {fmt::format("was the wait for packets that got lost: {} {} sent again", again,
                        again == 1 ? "was" : "were"),
            "Look for the loss; --tcp-loss makes it on purpose."};
  }
  if (unseen) {
    return {fmt::format("was the wait for {}, without a recording: on the wire or late, nobody can "
                        "tell",
                        peer < 0 ? "ranks" : Who(peer)),
            "Bring all recordings (rank-N.gwr) into the folder."};
  }
  switch (in) {
    case Class::kPosting:
      return {fmt::format("went into handing writes to the device at {}", Who(rank)),
              fmt::format("{}ake {} or longer chains (--chain-length).",
                          Counter(run, "device_local_operations") > 0
                              ? "Within a host posting copies the bytes; otherwise t"
                              : "T",
                          FewerWrites(run))};
    case Class::kSendQueueFull:
      return {fmt::format("was a full send queue: --queue-depth {} with --signal-interval {}",
                          Setting(run, rank, "queue-depth"), Setting(run, rank, "signal-interval")),
              "Raise --queue-depth, or lower --signal-interval, so that places come back sooner."};
    case Class::kNoCredit:
      return {fmt::format("was a write without a credit: {} --slots were all on their way",
                          Setting(run, rank, "slots")),
              "Raise --slots, or see why the receiver is slow to consume."};
    case Class::kReceiverNotReady:
      return {fmt::format("was {} not ready to receive: {} NAKs with --receive-depth {}", Who(peer),
                          Counter(run, "device_receiver_not_ready"),
                          Setting(run, peer, "receive-depth")),
              "Post a receive for every credit (--receive-depth 0)."};
    case Class::kWire:
      if (lossy) {
        return {fmt::format("was on the wire, where packets got lost: {} {} sent again", again,
                            again == 1 ? "was" : "were"),
                "Look for the loss (`gradwire devices --counters`); go-back-N sends all that "
                "follows a lost packet again."};
      }
      return {"was on the wire", "The link bounds it: fewer bytes, or a faster link."};
    case Class::kLatePeer:
      return {rank < 0 && peer < 0 ? "was the wait for whichever rank came late"
                                   : fmt::format("was the wait for {}, which came late",
                                                 Who(rank >= 0 ? rank : peer)),
              "Look at what it does before the collective."};
    case Class::kReducing:
      return {fmt::format("went into reducing at {}", Who(rank)),
              Throttled(run, rank) ? fmt::format("--reduce-rate {} slows it down on purpose.",
                                                 Setting(run, rank, "reduce-rate"))
              : SliceBytes(run) > kCachedSlice
                  ? "Smaller slices stay in the cache (--slice-bytes); a narrower type adds less."
                  : "A narrower type adds less."};
    case Class::kCopying:
      return {fmt::format("went into copies at {}", Who(rank)),
              "Tensors from Communicator::Allocate need none."};
    case Class::kWakeUp:
      if (!Slept(run)) {
        return {"was spent without a processor although the data were there: no rank slept",
                "Give each rank a core (gradwire launch --bind core)."};
      }
      if (tcp) {
        return {
            fmt::format(
                "was spent asleep or without a processor although bytes had come (--spin-us {})",
                Setting(run, rank, "spin-us")),
            "Poll longer before sleeping (--spin-us), or give each rank a core."};
      }
      if (Setting(run, rank, "completion") == "polling") {
        return {"was spent without a processor although the data were there (--completion polling)",
                "Give each rank a core, or let it sleep (--completion adaptive)."};
      }
      return {fmt::format("was spent asleep or without a processor although the data were there "
                          "(--completion {})",
                          Setting(run, rank, "completion")),
              "Poll longer before sleeping (--spin-us, --completion polling), or give each rank a "
              "core."};
    case Class::kSendBlocked:
      return {fmt::format("was a socket that took no more from {}", Who(peer)),
              "See why the receiver reads slowly; --socket-buffer-bytes lets more be on its way."};
    case Class::kReceiveWait:
      return {"went by while bytes were on their way through sockets",
              "RDMA would not pass through them."};
    case Class::kSystemCalls:
      return {fmt::format("went into system calls that move bytes at {}", Who(rank)),
              fmt::format("Take {}; RDMA makes none.", FewerWrites(run))};
    case Class::kOther:
      return {fmt::format("was bookkeeping of our own at {}", Who(rank)),
              fmt::format("Take {}.", FewerWrites(run))};
  }
  return {};
}

}  // namespace

std::vector<Finding> FindingsOf(const Run& run) {
  std::array<Sum, kClassCount> sums;
  int64_t total = 0;
  for (const Operation& operation : run.operations) {
    const auto add = [&](int rank, const Interval& each) {
      const int64_t length = each.end_ns - each.begin_ns;
      Sum& sum = sums[static_cast<size_t>(each.in)];
      sum.total_ns += length;
      sum.by_rank[rank] += length;
      sum.by_peer[each.peer] += length;
      if (operation.retransmits > 0) sum.with_loss_ns += length;
      if ((each.in == Class::kWire || each.in == Class::kReceiveWait) && each.peer >= 0 &&
          !Recorded(run, each.peer)) {
        sum.unseen_ns += length;
      }
      total += length;
    };
    for (const PathStep& step : operation.critical) add(step.rank, step.interval);
    if (operation.critical.empty()) {
      for (const RankTimes& times : operation.ranks) {
        for (const Interval& each : times.intervals) add(times.rank, each);
      }
    }
  }
  std::vector<Finding> findings;
  if (total == 0) return findings;
  const bool path = !run.operations.front().critical.empty();
  // Without a path every rank's time counts.
  const auto parts = static_cast<int64_t>(run.operations.size() * (path ? 1 : run.ranks.size()));
  for (int i = 0; i < kClassCount; ++i) {
    Sum& sum = sums[static_cast<size_t>(i)];
    const double share = static_cast<double>(sum.total_ns) / static_cast<double>(total);
    if (share < kLeastShare) continue;
    Finding finding;
    finding.in = static_cast<Class>(i);
    finding.rank = Dominant(sum.by_rank, sum.total_ns);
    finding.peer = Dominant(sum.by_peer, sum.total_ns);
    // Who waits is many; who is waited for is one.
    if (finding.in == Class::kLatePeer && finding.peer >= 0) finding.rank = finding.peer;
    finding.share = share;
    finding.ns_per_operation = sum.total_ns / parts;
    const Words words =
        WordsOf(run, finding.in, finding.rank, finding.peer, 2 * sum.with_loss_ns > sum.total_ns,
                2 * sum.unseen_ns > sum.total_ns);
    finding.sentence =
        fmt::format("{:.0f} % of {} ({} per operation) {}.", 100 * share,
                    path ? "the critical path" : "all ranks' time",
                    TimeText(static_cast<double>(finding.ns_per_operation)), words.because);
    finding.advice = words.advice;
    findings.push_back(std::move(finding));
  }
  std::sort(findings.begin(), findings.end(),
            [](const Finding& a, const Finding& b) { return a.share > b.share; });
  return findings;
}

}  // namespace gradwire::analysis
