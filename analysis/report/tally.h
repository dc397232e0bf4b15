// Sums over the operations of a run, which every output shows.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "analysis/result.h"

namespace gradwire::analysis {

using ClassTimes = std::array<int64_t, kClassCount>;  // ns, by Class

struct Tally {
  int operations = 0;
  int64_t total_ns = 0;
  ClassTimes class_ns = {};

  void Add(int64_t duration_ns, const ClassTimes& times);
  double Share(Class value) const;  // of total_ns, 0..1
};

struct RankTally {
  int rank = -1;
  Tally tally;
};

// Operations that do the same: one entry for each different `what`.
struct KindTally {
  std::string what;
  uint64_t bytes = 0;
  int64_t median_ns = 0;  // from the first rank's begin to the last rank's end
  Tally tally;            // over all ranks
};

struct RunTally {
  std::vector<RankTally> ranks;  // by rank
  std::vector<KindTally> kinds;  // in order of first appearance
  Tally critical;                // of the operations that have a critical path
  int64_t median_ns = 0;         // of an operation
};

RunTally TallyOf(const Run& run);

// The time by class on the critical path of one operation.
ClassTimes CriticalTimes(const Operation& operation);

// From the first rank's begin to the last rank's end; 0 to 0 without ranks.
int64_t BeginOf(const Operation& operation);
int64_t EndOf(const Operation& operation);
inline int64_t DurationOf(const Operation& operation) {
  return EndOf(operation) - BeginOf(operation);
}

}  // namespace gradwire::analysis
