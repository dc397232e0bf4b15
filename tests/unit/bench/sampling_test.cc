#include "bench/sampling.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

namespace gradwire::bench {
namespace {

using testing::HasSubstr;

// A world of one that may spoil its result or break.
class LonelyGroup : public Group {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  absl::Status AllReduce(float* data, size_t count) override {
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

std::vector<std::string> Cells(const std::string& row) {
  std::istringstream stream(row);
  std::vector<std::string> cells;
  for (std::string cell; std::getline(stream, cell, ',');) cells.push_back(cell);
  return cells;
}

TEST(Sample, PrintsARowPerSize) {
  LonelyGroup group;
  SamplingOptions options;
  options.label = "me";
  options.transport = "tcp";
  options.round = 3;
  options.sizes = {8, 4099};
  options.budget = 1e-4;
  std::vector<std::vector<std::string>> rows;
  const auto wrong =
      Sample(group, options, [&](const std::string& row) { rows.push_back(Cells(row)); });
  ASSERT_TRUE(wrong.ok());
  EXPECT_EQ(*wrong, 0);
  ASSERT_EQ(rows.size(), 2u);
  const auto header = Cells(SamplingHeader());
  ASSERT_EQ(rows[1].size(), header.size());
  EXPECT_EQ(rows[1][0], "me");
  EXPECT_EQ(rows[1][1], "tcp");
  EXPECT_EQ(rows[1][2], "1");
  EXPECT_EQ(rows[1][3], "4096");  // whole elements
  EXPECT_EQ(rows[1][11], "0");
  EXPECT_EQ(rows[1][12], "3");
  // Two checks and at least two warm-ups per size beside the timed calls, a barrier before each of
  // the latter two.
  const int timed = std::stoi(rows[0][10]) + std::stoi(rows[1][10]);
  EXPECT_GE(timed, 2 * options.min_iterations);
  EXPECT_GE(group.calls, timed + 8);
  EXPECT_EQ(group.barriers, group.calls - 4);
  EXPECT_EQ(group.allocations, 1);
  EXPECT_EQ(group.outside, 0);
}

TEST(Sample, WithoutMemoryNothingIsMeasured) {
  LonelyGroup group;
  SamplingOptions options;
  options.sizes = {8, int64_t{1} << 60};
  const auto wrong = Sample(group, options, [](const std::string&) { FAIL(); });
  EXPECT_THAT(Message(wrong.status()), HasSubstr("measure smaller sizes"));
  EXPECT_EQ(group.calls, 0);
}

TEST(Sample, CountsWrongElements) {
  LonelyGroup group;
  group.spoil = true;
  SamplingOptions options;
  options.sizes = {64};
  options.budget = 1e-4;
  std::string printed;
  const auto wrong = Sample(group, options, [&](const std::string& row) { printed = row; });
  ASSERT_TRUE(wrong.ok());
  EXPECT_EQ(*wrong, 2);  // one element, before and after
  EXPECT_EQ(Cells(printed)[11], "2");
}

TEST(Sample, EndsAtTheFirstFailure) {
  LonelyGroup group;
  group.break_at = 4;
  SamplingOptions options;
  options.sizes = {64};
  const auto wrong = Sample(group, options, [](const std::string&) { FAIL(); });
  EXPECT_THAT(Message(wrong.status()), HasSubstr("rank 0 is gone"));
  EXPECT_EQ(group.calls, 4);
}

}  // namespace
}  // namespace gradwire::bench
