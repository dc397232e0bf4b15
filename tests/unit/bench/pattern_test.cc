#include "bench/pattern.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace gradwire::bench {
namespace {

// Reduces all ranks' tensors element by element in the type itself, in the order of `order`.
template <typename T>
std::vector<T> Reduce(const Pattern& pattern, ReduceOp op, const std::vector<int>& order,
                      size_t count, size_t first) {
  std::vector<T> result(count);
  std::vector<T> tensor(count);
  for (size_t k = 0; k < order.size(); ++k) {
    pattern.Fill(tensor, order[k], first);
    for (size_t i = 0; i < count; ++i) {
      if (k == 0) {
        result[i] = tensor[i];
      } else if (op == ReduceOp::kMin) {
        result[i] = std::min(result[i], tensor[i]);
      } else if (op == ReduceOp::kMax) {
        result[i] = std::max(result[i], tensor[i]);
      } else if (op == ReduceOp::kProd) {
        result[i] = static_cast<T>(result[i] * tensor[i]);
      } else {
        result[i] = static_cast<T>(result[i] + tensor[i]);
      }
    }
  }
  if (op == ReduceOp::kAvg) {
    for (T& value : result) value = static_cast<T>(value / static_cast<T>(order.size()));
  }
  return result;
}

template <typename T>
class PatternOf : public testing::Test {};
using Elements = testing::Types<float, double, int32_t, int64_t, Eigen::half, Eigen::bfloat16>;
TYPED_TEST_SUITE(PatternOf, Elements);

TYPED_TEST(PatternOf, ReducesToTheSameInAnyOrder) {
  constexpr size_t kCount = 2500;
  for (const int ranks : {1, 2, 3, 8, 17, 256}) {
    std::vector<int> upwards(static_cast<size_t>(ranks));
    for (int rank = 0; rank < ranks; ++rank) upwards[static_cast<size_t>(rank)] = rank;
    std::vector<int> downwards(upwards.rbegin(), upwards.rend());
    for (int op = 0; op < kReduceOpCount; ++op) {
      const auto reduce_op = static_cast<ReduceOp>(op);
      const auto pattern = Pattern::Make(DataTypeOf<TypeParam>::value, reduce_op, ranks);
      ASSERT_TRUE(pattern.ok());
      for (const auto& order : {upwards, downwards}) {
        std::vector<TypeParam> result = Reduce<TypeParam>(*pattern, reduce_op, order, kCount, 777);
        EXPECT_EQ(pattern->CountUnreduced(result, 777), 0u) << ranks << " ranks, op " << op;
        result[42] = static_cast<TypeParam>(result[42] + TypeParam(1));
        result.back() = static_cast<TypeParam>(result.back() + TypeParam(2));
        EXPECT_EQ(pattern->CountUnreduced(result, 777), 2u) << ranks << " ranks, op " << op;
      }
    }
  }
}

TEST(Pattern, SeesAShiftByAnySegment) {
  const Pattern pattern = *Pattern::Make(DataType::kFloat32, ReduceOp::kSum, 1);
  std::vector<float> tensor(1 << 14);
  for (size_t shift = 1; shift <= 1 << 20; shift *= 2) {
    pattern.Fill(tensor, 0, shift);
    EXPECT_GT(pattern.CountUnreduced(tensor, 0), tensor.size() / 2) << shift;
  }
}

TEST(Pattern, SeesAMissingRank) {
  constexpr int kRanks = 12;
  for (int op = 0; op < kReduceOpCount; ++op) {
    const auto reduce_op = static_cast<ReduceOp>(op);
    const Pattern pattern = *Pattern::Make(DataType::kFloat32, reduce_op, kRanks);
    for (int missing = 0; missing < kRanks; ++missing) {
      std::vector<int> order;
      for (int rank = 0; rank < kRanks; ++rank) {
        if (rank != missing) order.push_back(rank);
      }
      const auto result = Reduce<float>(pattern, reduce_op, order, Pattern::kPeriod, 0);
      EXPECT_GT(pattern.CountUnreduced(result, 0), 0u) << "rank " << missing << ", op " << op;
    }
  }
}

TEST(Pattern, TellsRanksApart) {
  const Pattern pattern = *Pattern::Make(DataType::kBfloat16, ReduceOp::kSum, 64);
  std::vector<Eigen::bfloat16> tensor(5000);
  pattern.Fill(tensor, 3, 10);
  EXPECT_EQ(pattern.CountForeign(tensor, 3, 10), 0u);
  EXPECT_GT(pattern.CountForeign(tensor, 4, 10), tensor.size() / 2);
}

TEST(Pattern, CountsNotANumber) {
  const Pattern pattern = *Pattern::Make(DataType::kFloat32, ReduceOp::kSum, 2);
  const std::vector<float> tensor(10, std::nanf(""));
  EXPECT_EQ(pattern.CountUnreduced(tensor, 0), 10u);
}

TEST(Pattern, RefusesWorldsThatItCannotCheck) {
  EXPECT_TRUE(absl::IsInvalidArgument(
      Pattern::Make(DataType::kFloat32, ReduceOp::kSum, Pattern::kMaxRanks + 1).status()));
  EXPECT_FALSE(Pattern::Make(DataType::kFloat32, ReduceOp::kSum, 0).ok());
}

}  // namespace
}  // namespace gradwire::bench
