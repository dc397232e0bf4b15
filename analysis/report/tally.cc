#include "analysis/report/tally.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "analysis/median.h"

namespace gradwire::analysis {

void Tally::Add(int64_t duration_ns, const ClassTimes& times) {
  ++operations;
  total_ns += duration_ns;
  for (int i = 0; i < kClassCount; ++i) class_ns[i] += times[i];
}

double Tally::Share(Class value) const {
  if (total_ns <= 0) return 0;
  return static_cast<double>(class_ns[static_cast<size_t>(value)]) / static_cast<double>(total_ns);
}

int64_t BeginOf(const Operation& operation) {
  int64_t begin = operation.ranks.empty() ? 0 : operation.ranks.front().begin_ns;
  for (const RankTimes& times : operation.ranks) begin = std::min(begin, times.begin_ns);
  return begin;
}

int64_t EndOf(const Operation& operation) {
  int64_t end = operation.ranks.empty() ? 0 : operation.ranks.front().end_ns;
  for (const RankTimes& times : operation.ranks) end = std::max(end, times.end_ns);
  return end;
}

ClassTimes CriticalTimes(const Operation& operation) {
  ClassTimes times = {};
  for (const PathStep& step : operation.critical) {
    times[static_cast<size_t>(step.interval.in)] += step.interval.end_ns - step.interval.begin_ns;
  }
  return times;
}

RunTally TallyOf(const Run& run) {
  RunTally sums;
  std::map<int, Tally> ranks;
  std::map<std::string, size_t> kind_of;
  std::vector<std::vector<int64_t>> kind_durations;
  std::vector<int64_t> durations;
  for (const Operation& operation : run.operations) {
    const auto [found, is_new] = kind_of.try_emplace(operation.what, sums.kinds.size());
    if (is_new) {
      sums.kinds.push_back({operation.what, operation.bytes, 0, {}});
      kind_durations.emplace_back();
    }
    durations.push_back(DurationOf(operation));
    kind_durations[found->second].push_back(durations.back());
    for (const RankTimes& times : operation.ranks) {
      const int64_t duration = times.end_ns - times.begin_ns;
      ranks[times.rank].Add(duration, times.total_ns);
      sums.kinds[found->second].tally.Add(duration, times.total_ns);
    }
    if (!operation.critical.empty()) {
      // A path may begin after the operation did: where the one before ended.
      const ClassTimes times = CriticalTimes(operation);
      sums.critical.Add(std::accumulate(times.begin(), times.end(), int64_t{0}), times);
    }
  }
  for (const auto& [rank, tally] : ranks) sums.ranks.push_back({rank, tally});
  for (size_t i = 0; i < sums.kinds.size(); ++i) {
    sums.kinds[i].median_ns = Median(std::move(kind_durations[i]));
  }
  sums.median_ns = Median(std::move(durations));
  return sums;
}

}  // namespace gradwire::analysis
