#include "analysis/clocks.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <tuple>
#include <unordered_map>

namespace gradwire::analysis {
namespace {

using telemetry::Event;
using telemetry::Kind;
using telemetry::Recording;

constexpr int64_t kUnbounded = int64_t{1} << 60;

// Ranks by the clock they share.
std::vector<int> ClocksOf(const std::vector<Recording>& ranks, int& count) {
  std::map<std::string, int> known;
  std::vector<int> clock;
  for (const Recording& each : ranks) {
    const std::string& boot = each.facts.machine.boot_id;
    // Without an identity a rank stands for itself.
    const std::string name = boot.empty() ? fmt::format("rank {}", each.facts.rank) : boot;
    clock.push_back(known.emplace(name, static_cast<int>(known.size())).first->second);
  }
  count = static_cast<int>(known.size());
  return clock;
}

// When each write of a rank was handed over, by peer and number; one look at its events.
using Writes = std::unordered_map<int, std::unordered_map<uint64_t, int64_t>>;

Writes WritesOf(const Recording& from) {
  Writes writes;
  for (const Event& event : from.events) {
    if (event.kind == Kind::kWrite) writes[event.peer][event.value] = event.begin_ns;
  }
  return writes;
}

}  // namespace

std::vector<Alignment> AlignClocks(const std::vector<Recording>& ranks,
                                   std::vector<std::string>& problems) {
  std::vector<Alignment> result(ranks.size());
  int count = 0;
  const std::vector<int> clock = ClocksOf(ranks, count);
  if (count == 1) return result;

  // bound[a][b]: offset of a less offset of b is at most this.
  const auto n = static_cast<size_t>(count);
  std::vector<std::vector<int64_t>> bound(n, std::vector<int64_t>(n, kUnbounded));
  for (size_t i = 0; i < n; ++i) bound[i][i] = 0;
  const auto limit = [&](int a, int b, int64_t most) {
    auto& entry = bound[static_cast<size_t>(a)][static_cast<size_t>(b)];
    entry = std::min(entry, most);
  };
  std::map<int, size_t> place;  // by rank
  for (size_t i = 0; i < ranks.size(); ++i) place[ranks[i].facts.rank] = i;
  std::vector<Writes> written;
  for (const Recording& each : ranks) written.push_back(WritesOf(each));
  for (size_t k = 0; k < ranks.size(); ++k) {
    // A write of i's that arrived at k: its time by i's clock is not after that by k's.
    for (const Event& event : ranks[k].events) {
      if (event.kind != Kind::kArrived) continue;
      const auto from = place.find(event.peer);
      if (from == place.end() || clock[from->second] == clock[k]) continue;
      const auto writes = written[from->second].find(ranks[k].facts.rank);
      if (writes == written[from->second].end()) continue;
      const auto write = writes->second.find(event.value);
      if (write == writes->second.end()) continue;
      limit(clock[from->second], clock[k], event.begin_ns - write->second);
    }
  }
  for (size_t i = 0; i < ranks.size(); ++i) {
    for (size_t k = 0; k < ranks.size(); ++k) {
      if (clock[i] == clock[k]) continue;
      const auto &mine = ranks[i].facts, &theirs = ranks[k].facts;
      if (mine.clock_error_ns >= 0 && theirs.clock_error_ns >= 0) {
        const int64_t error = mine.clock_error_ns + theirs.clock_error_ns;
        limit(clock[i], clock[k], mine.clock_offset_ns - theirs.clock_offset_ns + error);
      }
    }
  }
  // The worst contradiction, and between which clocks.
  int64_t drift = 0;
  size_t one = 0, other = 0;
  const auto contradicts = [&](size_t a, size_t b, int64_t by) {
    if (by > drift) drift = by, one = std::min(a, b), other = std::max(a, b);
  };
  // What contradicts itself leaves a span of that length, the other way round.
  for (size_t a = 0; a < n; ++a) {
    for (size_t b = a + 1; b < n; ++b) {
      int64_t &most = bound[a][b], &least = bound[b][a];
      if (most >= kUnbounded || least >= kUnbounded || most + least >= 0) continue;
      contradicts(a, b, -(most + least));
      std::tie(most, least) = std::pair(-least, -most);
    }
  }
  for (size_t via = 0; via < n; ++via) {
    for (size_t a = 0; a < n; ++a) {
      for (size_t b = 0; b < n; ++b) {
        if (bound[a][via] >= kUnbounded || bound[via][b] >= kUnbounded) continue;
        // One that shows only round three clocks must not go round and grow.
        const int64_t most = bound[a][via] + bound[via][b], least = -bound[b][a];
        if (bound[b][a] < kUnbounded) contradicts(a, b, least - most);
        bound[a][b] = std::min(bound[a][b], std::max(most, least));
      }
    }
  }
  for (size_t i = 0; i < ranks.size(); ++i) {
    if (clock[i] == clock[0]) continue;
    const auto mine = static_cast<size_t>(clock[i]), first = static_cast<size_t>(clock[0]);
    const int64_t most = bound[mine][first], least = -bound[first][mine];
    if (most >= kUnbounded || least <= -kUnbounded) {
      const bool half = most < kUnbounded || least > -kUnbounded;
      result[i] = {half ? (most < kUnbounded ? most : least) : 0, -1};
      problems.push_back(fmt::format(
          "The clock of rank {} cannot be aligned with that of rank {}: too little passed between "
          "them. Times between them mean nothing.",
          ranks[i].facts.rank, ranks[0].facts.rank));
      continue;
    }
    result[i] = {least + (most - least) / 2, (most - least) / 2};
  }
  if (drift > 0) {
    const auto rank = [&](size_t of) {
      const auto first = std::find(clock.begin(), clock.end(), static_cast<int>(of));
      return ranks[static_cast<size_t>(first - clock.begin())].facts.rank;
    };
    problems.push_back(fmt::format(
        "The clocks of ranks {} and {} drifted by {:.1f} us during the run: times between them are "
        "no better than that.",
        rank(one), rank(other), static_cast<double>(drift) / 1e3));
  }
  return result;
}

}  // namespace gradwire::analysis
