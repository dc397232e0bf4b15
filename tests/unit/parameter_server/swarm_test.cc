#include "parameter_server/swarm.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

namespace gradwire::ps {
namespace {

// `count` times, 1, 2, 3, ... seconds, in another order.
Distribution OfFirst(int count) {
  std::vector<float> seconds(static_cast<size_t>(count));
  std::iota(seconds.begin(), seconds.end(), 1.0f);
  std::ranges::reverse(seconds);
  return Distribution::Of(seconds);
}

TEST(DistributionTest, TakesTheNearestRank) {
  const Distribution ten = OfFirst(10);
  EXPECT_EQ(ten.count, 10u);
  EXPECT_EQ(ten.mean, 5.5);
  EXPECT_EQ(ten.p50, 5);
  EXPECT_EQ(ten.p95, 10);
  EXPECT_EQ(ten.p99, 10);
  EXPECT_EQ(ten.max, 10);
  EXPECT_EQ(OfFirst(20).p95, 19);
  EXPECT_EQ(OfFirst(100).p99, 99);
  EXPECT_EQ(OfFirst(101).p99, 100);
}

TEST(DistributionTest, OfOneAndOfNone) {
  const Distribution one = OfFirst(1);
  EXPECT_EQ(one.p50, 1);
  EXPECT_EQ(one.p99, 1);
  const Distribution none = OfFirst(0);
  EXPECT_EQ(none.count, 0u);
  EXPECT_EQ(none.max, 0);
}

}  // namespace
}  // namespace gradwire::ps
