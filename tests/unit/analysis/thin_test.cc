#include "analysis/report/thin.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "analysis/report/tally.h"
#include "tests/support/synthetic_report.h"

namespace gradwire::analysis {
namespace {

using testing::HasSubstr;

std::vector<PathStep> Steps(std::initializer_list<std::pair<Class, int64_t>> lengths) {
  std::vector<PathStep> steps;
  int64_t now = 0;
  for (const auto& [in, length] : lengths) {
    steps.push_back({0, {now, now + length, in, -1}});
    now += length;
  }
  return steps;
}

size_t Intervals(const Run& run) {
  size_t count = 0;
  for (const Operation& operation : run.operations) {
    count += operation.critical.size();
    for (const RankTimes& times : operation.ranks) count += times.intervals.size();
  }
  return count;
}

TEST(Coarsen, LeavesWhatFits) {
  std::vector<PathStep> steps = Steps({{Class::kWire, 10}, {Class::kCopying, 1}});
  EXPECT_EQ(Coarsen(steps, 2), 0);
  EXPECT_EQ(steps.size(), 2u);
  std::vector<PathStep> none;
  EXPECT_EQ(Coarsen(none, 0), 0);
}

TEST(Coarsen, ShortNeighboursTakeTheClassThatFillsMost) {
  std::vector<PathStep> steps = Steps({{Class::kWire, 1000},
                                       {Class::kCopying, 3},
                                       {Class::kPosting, 2},
                                       {Class::kCopying, 4},
                                       {Class::kReducing, 900}});
  EXPECT_GT(Coarsen(steps, 3), 0);
  ASSERT_EQ(steps.size(), 3u);
  EXPECT_EQ(steps[0].interval.in, Class::kWire);
  EXPECT_EQ(steps[1].interval.in, Class::kCopying);
  EXPECT_EQ(steps[1].interval.begin_ns, 1000);
  EXPECT_EQ(steps[1].interval.end_ns, 1009);
  EXPECT_EQ(steps[2].interval.in, Class::kReducing);
}

TEST(Coarsen, KeepsTheSpanWithoutGaps) {
  analysis::Run run = SyntheticRun({.ranks = 2, .operations = 1, .steps = 500});
  std::vector<PathStep>& steps = run.operations[0].critical;
  const int64_t begin = steps.front().interval.begin_ns, end = steps.back().interval.end_ns;
  ASSERT_GT(steps.size(), 1000u);
  Coarsen(steps, 100);
  EXPECT_LE(steps.size(), 100u);
  EXPECT_GT(steps.size(), 10u);
  EXPECT_EQ(steps.front().interval.begin_ns, begin);
  EXPECT_EQ(steps.back().interval.end_ns, end);
  for (size_t i = 1; i < steps.size(); ++i) {
    EXPECT_EQ(steps[i].interval.begin_ns, steps[i - 1].interval.end_ns);
  }
}

TEST(Thin, LeavesASmallRunAsItIs) {
  const analysis::Run run = SyntheticRun({.operations = 4});
  const Thinned thinned = Thin(run, {});
  EXPECT_THAT(thinned.left_out, testing::IsEmpty());
  EXPECT_EQ(Intervals(thinned.run), Intervals(run));
  EXPECT_EQ(thinned.run.flows.size(), run.flows.size());
  EXPECT_EQ(thinned.run.findings.size(), run.findings.size());
  EXPECT_EQ(thinned.run.ranks.size(), run.ranks.size());
}

TEST(Thin, KeepsTheMedianAndTheSlowestOperations) {
  const analysis::Run run = SyntheticRun({.ranks = 2, .operations = 40, .steps = 8});
  const size_t of_one = Intervals(run) / 40;
  const Limits limits{20, of_one * 6, 100'000};
  const Thinned thinned = Thin(run, limits);
  ASSERT_EQ(thinned.run.operations.size(), 20u);
  EXPECT_LE(Intervals(thinned.run), limits.intervals);
  std::vector<int64_t> all, detailed;
  for (const Operation& operation : run.operations) all.push_back(DurationOf(operation));
  std::sort(all.begin(), all.end());
  uint64_t last = 0;
  for (const Operation& operation : thinned.run.operations) {
    EXPECT_GT(operation.number, last) << "in order of time";
    last = operation.number;
    if (!operation.ranks[0].intervals.empty()) detailed.push_back(DurationOf(operation));
    EXPECT_GT(operation.ranks[0].total_ns[static_cast<size_t>(Class::kWire)], 0);
  }
  std::sort(detailed.begin(), detailed.end());
  ASSERT_GE(detailed.size(), 3u);
  EXPECT_EQ(detailed.back(), all.back());
  EXPECT_EQ(detailed.front(), all[all.size() / 2 - 1]);  // 20th from above: the median
  ASSERT_EQ(thinned.left_out.size(), 2u);
  EXPECT_THAT(thinned.left_out[0], HasSubstr("Of 40 operations"));
  EXPECT_THAT(thinned.left_out[1], HasSubstr("Timelines"));
  // Writes of operations without a timeline have no arrows.
  EXPECT_LT(thinned.run.flows.size(), run.flows.size());
}

TEST(Thin, OneLongOperationIsMadeCoarse) {
  const analysis::Run run = SyntheticRun({.ranks = 2, .operations = 1, .steps = 2'000});
  ASSERT_GT(Intervals(run), 20'000u);
  const Thinned thinned = Thin(run, {10, 8'000, 50});
  EXPECT_LE(Intervals(thinned.run), 2'000u);
  EXPECT_GT(Intervals(thinned.run), 200u);
  EXPECT_LE(thinned.run.flows.size(), 50u);
  EXPECT_GT(thinned.run.flows.size(), 20u);
  const RankTimes& times = thinned.run.operations[0].ranks[0];
  EXPECT_EQ(times.intervals.front().begin_ns, times.begin_ns);
  EXPECT_EQ(times.intervals.back().end_ns, times.end_ns);
  ASSERT_EQ(thinned.left_out.size(), 2u);
  EXPECT_THAT(thinned.left_out[0], HasSubstr("fills most"));
  EXPECT_THAT(thinned.left_out[1], HasSubstr("arrow"));
}

}  // namespace
}  // namespace gradwire::analysis
