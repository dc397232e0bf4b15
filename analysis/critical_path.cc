#include "analysis/critical_path.h"

#include <algorithm>

namespace gradwire::analysis {
namespace {

// The stretch of `doing` that ends at `time` or has it inside; null at its begin.
const Stretch* Before(const Doing& doing, int64_t time) {
  auto next =
      std::lower_bound(doing.stretches.begin(), doing.stretches.end(), time,
                       [](const Stretch& each, int64_t moment) { return each.end_ns < moment; });
  if (next == doing.stretches.end() || next->begin_ns >= time) return nullptr;
  return &*next;
}

}  // namespace

std::vector<PathStep> CriticalPath(const Trace& trace, const Attribution& attribution,
                                   const Operation& operation, int64_t after_ns) {
  std::vector<PathStep> path;  // backwards
  if (operation.ranks.size() != static_cast<size_t>(trace.world_size())) return path;
  const auto by_end = [](const RankTimes& a, const RankTimes& b) { return a.end_ns < b.end_ns; };
  const auto by_begin = [](const RankTimes& a, const RankTimes& b) {
    return a.begin_ns < b.begin_ns;
  };
  const auto last = std::max_element(operation.ranks.begin(), operation.ranks.end(), by_end);
  const int64_t first = std::max(
      after_ns,
      std::min_element(operation.ranks.begin(), operation.ranks.end(), by_begin)->begin_ns);

  // The classes of [begin, end) on `rank`, latest first.
  const auto take = [&](int rank, int64_t begin, int64_t end) {
    const auto& intervals = operation.ranks[static_cast<size_t>(rank)].intervals;
    auto next = std::lower_bound(
        intervals.begin(), intervals.end(), end,
        [](const Interval& each, int64_t moment) { return each.begin_ns < moment; });
    while (next != intervals.begin()) {
      Interval piece = *--next;
      if (piece.end_ns <= begin) break;
      piece.begin_ns = std::max(piece.begin_ns, begin);
      piece.end_ns = std::min(piece.end_ns, end);
      if (piece.end_ns > piece.begin_ns) path.push_back({rank, piece});
    }
  };

  int rank = last->rank;
  int64_t time = last->end_ns;
  while (time > first) {
    const Doing& doing = *trace.Find(rank, operation.number);
    const Stretch* const stretch = Before(doing, time);
    if (stretch == nullptr) {
      // Everybody waits for this rank to begin.
      path.push_back({rank, {first, time, Class::kLatePeer, rank}});
      break;
    }
    int64_t until = stretch->begin_ns;
    int next = rank;
    if (stretch->wait != nullptr) {
      const Write* const write = attribution.AwaitedBy(rank, *stretch->wait);
      // The whole wait, work within it included, has one cause.
      if (write != nullptr && write->written_ns < time && write->written_ns > until) {
        until = write->written_ns;
        next = stretch->wait->peer;
      }
    }
    take(rank, std::max(until, first), time);
    time = until;
    rank = next;
  }
  std::reverse(path.begin(), path.end());
  return path;
}

}  // namespace gradwire::analysis
