#include "bench/sampling.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

namespace gradwire::bench {
namespace {

using testing::HasSubstr;

// A world of one that may spoil its result or break.
class LonelyGroup : public Group {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  absl::Status Run(float* data, size_t count) override {
    ++calls;
    const auto* first = reinterpret_cast<const std::byte*>(data);
    outside += first < begin || end < first + count * sizeof(float) ? 1 : 0;
    if (calls == break_at) return Unavailable("rank 0 is gone");
    if (spoil && count > 2) data[2] += 1;
    return absl::OkStatus();
  }
  absl::Status Barrier() override {
    ++barriers;
    return absl::OkStatus();
  }
  absl::Status Max(std::vector<double>&) override { return absl::OkStatus(); }
  absl::StatusOr<std::byte*> Allocate(size_t bytes) override {
    ++allocations;
    GW_ASSIGN_OR_RETURN(begin, Group::Allocate(bytes));
    end = begin + bytes;
    return begin;
  }

  bool spoil = false;
  int break_at = -1;
  int calls = 0;
  int barriers = 0;
  int allocations = 0;
  int outside = 0;  // calls with a tensor that is not where Allocate() said
  std::byte* begin = nullptr;
  std::byte* end = nullptr;
};

TEST(Sample, MakesARowPerSize) {
  LonelyGroup group;
  SamplingOptions options;
  options.label = "me";
  options.transport = "tcp";
  options.round = 3;
  options.sizes = {8, 4099};
  options.budget = 1e-4;
  std::vector<SampledRow> rows;
  const auto wrong = Sample(group, options, [&](const SampledRow& row) { rows.push_back(row); });
  ASSERT_TRUE(wrong.ok());
  EXPECT_EQ(*wrong, 0);
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[1].peer, "me");
  EXPECT_EQ(rows[1].transport, "tcp");
  EXPECT_EQ(rows[1].ranks, 1);
  EXPECT_EQ(rows[1].bytes, 4096);  // whole elements
  EXPECT_EQ(rows[1].wrong, 0);
  EXPECT_EQ(rows[1].round, 3);
  EXPECT_LE(rows[1].min_us, rows[1].median_us);
  EXPECT_LE(rows[1].median_us, rows[1].p99_us);
  // Two checks and at least two warm-ups per size beside the timed calls, a barrier before each of
  // the latter two.
  const int64_t timed = rows[0].iterations + rows[1].iterations;
  EXPECT_GE(timed, 2 * options.min_iterations);
  EXPECT_GE(group.calls, timed + 8);
  EXPECT_EQ(group.barriers, group.calls - 4);
  EXPECT_EQ(group.allocations, 1);
  EXPECT_EQ(group.outside, 0);
}

TEST(SampledRow, SurvivesItsCsv) {
  const SampledRow row{.peer = "me",
                       .transport = "tcp",
                       .ranks = 4,
                       .bytes = 4096,
                       .median_us = 10.25,
                       .min_us = 9.5,
                       .p99_us = 40.75,
                       .algorithm_bandwidth = 0.3996,
                       .bus_bandwidth = 0.5994,
                       .iterations = 17,
                       .wrong = 2,
                       .round = 3,
                       .median_last_us = 8.5};
  const std::string csv = FormatCsv(row);
  EXPECT_EQ(std::ranges::count(csv, ','), std::ranges::count(SamplingHeader(), ','));
  const auto parsed = ParseCsv(csv);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(FormatCsv(*parsed), csv);
  EXPECT_EQ(parsed->peer, "me");
  EXPECT_EQ(parsed->bytes, 4096);
  EXPECT_EQ(parsed->median_us, 10.25);
  EXPECT_EQ(parsed->wrong, 2);
}

TEST(SampledRow, RefusesOtherLines) {
  const std::string row = "me,tcp,4,4096,10.25,9.50,40.75,0.3996,0.5994,in,17,0,3,8.50";
  EXPECT_TRUE(ParseCsv(row).ok());
  for (const std::string& line :
       {std::string(), SamplingHeader(), row + ",", row + "x", row.substr(3),
        "x" + row.substr(0, 40),
        std::string("me,tcp,4,4096,-1,9.50,40.75,0.3996,0.5994,in,17,0,3,8.50"),
        std::string("me,tcp,4,4096,nan,9.50,40.75,0.3996,0.5994,in,17,0,3,8.50"),
        std::string("me,tcp,4,4096,1,9.50,40.75,0.3996,0.5994,out,17,0,3,8.50")}) {
    EXPECT_FALSE(ParseCsv(line).ok()) << line;
  }
}

TEST(Sample, WithoutMemoryNothingIsMeasured) {
  LonelyGroup group;
  SamplingOptions options;
  options.sizes = {8, int64_t{1} << 60};
  const auto wrong = Sample(group, options, [](const SampledRow&) { FAIL(); });
  EXPECT_THAT(Message(wrong.status()), HasSubstr("measure smaller sizes"));
  EXPECT_EQ(group.calls, 0);
}

TEST(Sample, CountsWrongElements) {
  LonelyGroup group;
  group.spoil = true;
  SamplingOptions options;
  options.sizes = {64};
  options.budget = 1e-4;
  SampledRow printed;
  const auto wrong = Sample(group, options, [&](const SampledRow& row) { printed = row; });
  ASSERT_TRUE(wrong.ok());
  EXPECT_EQ(*wrong, 2);  // one element, before and after
  EXPECT_EQ(printed.wrong, 2);
}

TEST(Sample, EndsAtTheFirstFailure) {
  LonelyGroup group;
  group.break_at = 4;
  SamplingOptions options;
  options.sizes = {64};
  const auto wrong = Sample(group, options, [](const SampledRow&) { FAIL(); });
  EXPECT_THAT(Message(wrong.status()), HasSubstr("rank 0 is gone"));
  EXPECT_EQ(group.calls, 4);
}

}  // namespace
}  // namespace gradwire::bench
