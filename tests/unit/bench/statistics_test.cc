#include "bench/statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

namespace gradwire::bench {
namespace {

TEST(Percentile, IsTheNearestRank) {
  std::vector<double> sorted(100);
  std::iota(sorted.begin(), sorted.end(), 1);
  EXPECT_EQ(Percentile(sorted, 0.0), 1);
  EXPECT_EQ(Percentile(sorted, 0.50), 50);
  EXPECT_EQ(Percentile(sorted, 0.95), 95);
  EXPECT_EQ(Percentile(sorted, 0.99), 99);
  EXPECT_EQ(Percentile(sorted, 1.0), 100);
}

TEST(Percentile, OfFewSamplesIsOneOfThem) {
  const std::vector<double> twenty = {1,  2,  3,  4,  5,  6,  7,  8,  9,  10,
                                      11, 12, 13, 14, 15, 16, 17, 18, 19, 20};
  EXPECT_EQ(Percentile(twenty, 0.50), 10);
  EXPECT_EQ(Percentile(twenty, 0.95), 19);
  EXPECT_EQ(Percentile(twenty, 0.99), 20);
  const std::vector<double> one = {7};
  EXPECT_EQ(Percentile(one, 0.01), 7);
  EXPECT_EQ(Percentile(one, 0.99), 7);
  EXPECT_EQ(Percentile({}, 0.5), 0);
}

TEST(Summarize, SortsFirst) {
  const Summary summary = Summarize({4, 2, 8, 2});
  EXPECT_EQ(summary.min, 2);
  EXPECT_EQ(summary.max, 8);
  EXPECT_EQ(summary.avg, 4);
  EXPECT_EQ(summary.p50, 2);
  EXPECT_EQ(summary.p99, 8);
  EXPECT_DOUBLE_EQ(summary.stdev, std::sqrt(6.0));
  EXPECT_DOUBLE_EQ(summary.cv_pct, 100 * std::sqrt(6.0) / 4);
}

TEST(Summarize, HasNoVariationOfZeros) {
  EXPECT_EQ(Summarize({0, 0}).cv_pct, 0);
  EXPECT_EQ(Summarize({}).max, 0);
}

}  // namespace
}  // namespace gradwire::bench
