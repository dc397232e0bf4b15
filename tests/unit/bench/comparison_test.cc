#include "bench/comparison.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

namespace gradwire::bench {
namespace {

using testing::HasSubstr;

SampledRow Sampled(const std::string& peer, int64_t round, double median_us,
                   int64_t bytes = 1'000'000, int ranks = 4) {
  SampledRow row{.peer = peer, .transport = "tcp", .ranks = ranks, .bytes = bytes};
  row.median_us = median_us;
  row.round = round;
  row.algorithm_bandwidth = static_cast<double>(bytes) / (median_us * 1e3);
  row.bus_bandwidth = row.algorithm_bandwidth * 1.5;
  return row;
}

TEST(Compare, PairsRoundsAndShowsTheirSpread) {
  // The machine is twice as slow in round 2: medians drift, ratios do not.
  const std::vector<SampledRow> rows = {Sampled("b", 1, 300), Sampled("a", 1, 100),
                                        Sampled("a", 2, 200), Sampled("b", 2, 600),
                                        Sampled("a", 3, 110), Sampled("b", 3, 220)};
  const std::vector<Compared> compared = Compare(rows, "a");
  ASSERT_EQ(compared.size(), 2u);
  EXPECT_EQ(compared[0].peer, "a");
  EXPECT_EQ(compared[0].rounds, 3);
  EXPECT_EQ(compared[0].median_us, 110);
  EXPECT_EQ(compared[0].spread, 2);
  EXPECT_EQ(compared[0].ratio, 1);
  EXPECT_NEAR(compared[0].bus_bandwidth, 1e6 / 110e3 * 1.5, 1e-9);
  EXPECT_EQ(compared[1].peer, "b");
  EXPECT_EQ(compared[1].median_us, 300);
  EXPECT_NEAR(compared[1].spread, 600.0 / 220, 1e-9);
  EXPECT_EQ(compared[1].ratio, 3);
  EXPECT_EQ(compared[1].ratio_min, 2);
  EXPECT_EQ(compared[1].ratio_max, 3);
}

TEST(Compare, OrdersByRanksAndSizes) {
  const std::vector<SampledRow> rows = {Sampled("x", 1, 1, 64, 4), Sampled("me", 1, 1, 64, 4),
                                        Sampled("x", 1, 1, 8, 4),  Sampled("x", 1, 1, 64, 2),
                                        Sampled("y", 1, 1, 64, 2), Sampled("me", 1, 1, 64, 2)};
  std::vector<std::string> order;
  for (const Compared& row : Compare(rows, "me")) {
    order.push_back(fmt::format("{}/{}/{}", row.ranks, row.bytes, row.peer));
  }
  EXPECT_THAT(order,
              testing::ElementsAre("2/64/me", "2/64/x", "2/64/y", "4/8/x", "4/64/me", "4/64/x"));
}

TEST(Compare, LeavesWrongRowsAndMissingRoundsOut) {
  std::vector<SampledRow> rows = {Sampled("a", 1, 100), Sampled("a", 2, 100), Sampled("b", 1, 50),
                                  Sampled("b", 2, 400), Sampled("c", 3, 70)};
  rows[2].wrong = 7;
  const std::vector<Compared> compared = Compare(rows, "a");
  ASSERT_EQ(compared.size(), 3u);
  EXPECT_EQ(compared[1].rounds, 1);
  EXPECT_EQ(compared[1].ratio, 4);
  EXPECT_EQ(compared[2].ratio, 0);  // no round in common
  EXPECT_THAT(ComparedRow(compared[2]), HasSubstr("      -      -      -\n"));
  EXPECT_EQ(CountWrong(rows), 7);
  const std::string footer = ComparedFooter(rows);
  EXPECT_THAT(footer, HasSubstr("# b, 4 ranks, 1000000 bytes, round 1: 7 wrong"));
  EXPECT_THAT(footer, HasSubstr("# Out of bounds values : 7 FAILED\n"));
  EXPECT_THAT(ComparedFooter({}), HasSubstr("# Out of bounds values : 0 OK\n"));
}

TEST(Compare, TheTableFits80Columns) {
  std::istringstream header(ComparedHeader("gradwire_local"));
  size_t names = 0;
  for (std::string line; std::getline(header, line);) {
    EXPECT_EQ(line[0], '#');
    EXPECT_LE(line.size(), 80u) << line;
    names = line.size();
  }
  Compared row{"gradwire_local", "rdma", 16, 1 << 30, 5, 1234567.8, 1.5, 2.25, 1.0, 0.5, 123.45};
  const std::string text = ComparedRow(row);
  EXPECT_EQ(text.size(), names + 1);
  EXPECT_EQ(text,
            "1073741824     16  gradwire_local   1234568    1.50    2.25   1.00   0.50  123.5\n");
}

}  // namespace
}  // namespace gradwire::bench
