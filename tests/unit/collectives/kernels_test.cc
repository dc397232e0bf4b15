// Reduction kernels against a float64 reference, every type and operation, every remainder length.
#include "collectives/kernels.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "collectives/algorithms.h"

namespace gradwire {
namespace {

template <typename T>
class KernelTest : public ::testing::Test {};
using Types = ::testing::Types<float, double, int32_t, int64_t, Eigen::half, Eigen::bfloat16>;
TYPED_TEST_SUITE(KernelTest, Types);

double Reference(ReduceOp op, double a, double b) {
  switch (op) {
    case ReduceOp::kMin:
      return std::min(a, b);
    case ReduceOp::kMax:
      return std::max(a, b);
    case ReduceOp::kProd:
      return a * b;
    default:
      return a + b;
  }
}

// Half an ulp of T at `value`, relative.
template <typename T>
double Tolerance(double value) {
  if (std::is_integral_v<T>) return 0;
  const int mantissa =
      sizeof(T) == 2 ? (std::is_same_v<T, Eigen::half> ? 11 : 8) : std::numeric_limits<T>::digits;
  return std::abs(value) * std::ldexp(1.0, -mantissa) + 1e-7 * (sizeof(T) == 2);
}

TYPED_TEST(KernelTest, MatchesTheReferenceAtEveryLength) {
  using T = TypeParam;
  std::mt19937 generator(7);
  std::uniform_int_distribution<int> values(-1000, 1000);
  for (int op = 0; op < kReduceOpCount; ++op) {
    const auto reduce = static_cast<ReduceOp>(op);
    const ReduceKernel kernel = KernelFor(DataTypeOf<T>::value, reduce);
    for (size_t count = 0; count < 70; ++count) {
      std::vector<T> a(count + 1), b(count + 1), out(count + 1, static_cast<T>(-7.0f));
      for (size_t i = 0; i <= count; ++i) {
        const float scale = std::is_integral_v<T> ? 1.0f : 0.125f;
        a[i] = static_cast<T>(static_cast<float>(values(generator)) * scale);
        b[i] = static_cast<T>(static_cast<float>(values(generator)) * scale);
      }
      kernel(out.data(), a.data(), b.data(), count);
      for (size_t i = 0; i < count; ++i) {
        const double expected =
            Reference(reduce, static_cast<double>(a[i]), static_cast<double>(b[i]));
        ASSERT_NEAR(static_cast<double>(out[i]), expected, Tolerance<T>(expected))
            << NameOf(reduce) << " " << i << " of " << count;
      }
      ASSERT_EQ(static_cast<double>(out[count]), -7.0) << "wrote past the end";
      // In place on either operand gives the same bits.
      std::vector<T> left = a, right = b;
      kernel(left.data(), left.data(), b.data(), count);
      kernel(right.data(), a.data(), right.data(), count);
      ASSERT_EQ(std::memcmp(left.data(), out.data(), count * sizeof(T)), 0);
      ASSERT_EQ(std::memcmp(right.data(), out.data(), count * sizeof(T)), 0);
    }
  }
}

TYPED_TEST(KernelTest, DividesAsTheTypeDoes) {
  using T = TypeParam;
  std::vector<T> values = {static_cast<T>(7.0f), static_cast<T>(-7.0f), static_cast<T>(0.0f)};
  Divide(DataTypeOf<T>::value, values.data(), values.size(), 2);
  const double half = std::is_integral_v<T> ? 3 : 3.5;
  EXPECT_EQ(static_cast<double>(values[0]), half);
  EXPECT_EQ(static_cast<double>(values[1]), -half);
  EXPECT_EQ(static_cast<double>(values[2]), 0);
}

TEST(HalfTypes, RoundToNearestEvenAndKeepNanAndInfinity) {
  const float infinity = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const DataType type : {DataType::kFloat16, DataType::kBfloat16}) {
    const auto add = [&](float x, float y) -> float {
      // Long enough for the vector part, which must agree with the remainder.
      constexpr size_t kCount = 9;
      if (type == DataType::kFloat16) {
        std::vector<Eigen::half> a(kCount, Eigen::half(x)), b(kCount, Eigen::half(y));
        KernelFor(type, ReduceOp::kSum)(a.data(), a.data(), b.data(), kCount);
        EXPECT_EQ(std::memcmp(&a[0], &a[8], 2), 0);
        return static_cast<float>(a[0]);
      }
      std::vector<Eigen::bfloat16> a(kCount, Eigen::bfloat16(x)), b(kCount, Eigen::bfloat16(y));
      KernelFor(type, ReduceOp::kSum)(a.data(), a.data(), b.data(), kCount);
      EXPECT_EQ(std::memcmp(&a[0], &a[8], 2), 0);
      return static_cast<float>(a[0]);
    };
    // One more than the last exact whole number: halfway, so to the even neighbour.
    const float last = type == DataType::kFloat16 ? 2048 : 256;
    EXPECT_EQ(add(last, 1), last);
    EXPECT_EQ(add(last + 2, 1), last + 4);
    EXPECT_EQ(add(infinity, 1), infinity);
    EXPECT_TRUE(std::isnan(add(nan, 1)));
    EXPECT_TRUE(std::isnan(add(infinity, -infinity)));
  }
}

TEST(Integers, OverflowWraps) {
  int32_t a = std::numeric_limits<int32_t>::max();
  const int32_t one = 1;
  KernelFor(DataType::kInt32, ReduceOp::kSum)(&a, &a, &one, 1);
  EXPECT_EQ(a, std::numeric_limits<int32_t>::min());
}

TEST(Names, RoundTripAndRefuse) {
  for (int i = 0; i < kDataTypeCount; ++i) {
    EXPECT_EQ(*ParseDataType(NameOf(static_cast<DataType>(i))), static_cast<DataType>(i));
  }
  for (int i = 0; i < kReduceOpCount; ++i) {
    EXPECT_EQ(*ParseReduceOp(NameOf(static_cast<ReduceOp>(i))), static_cast<ReduceOp>(i));
  }
  EXPECT_EQ(*ParseDataType("float16"), DataType::kFloat16);
  EXPECT_FALSE(ParseDataType("fp8").ok());
  EXPECT_FALSE(ParseReduceOp("mulsum").ok());
}

TEST(Choice, FollowsSettingsThenSize) {
  Settings settings;
  EXPECT_EQ(ChooseAllReduce(settings, 4, false, 8), AllReduceAlgorithm::kRecursiveDoubling);
  EXPECT_EQ(ChooseAllReduce(settings, 4, true, 8), AllReduceAlgorithm::kTree);
  EXPECT_EQ(ChooseAllReduce(settings, 4, true, 64 << 20), AllReduceAlgorithm::kRing);
  settings.latency_bytes = 100;
  EXPECT_EQ(ChooseAllReduce(settings, 4, false, 101), AllReduceAlgorithm::kRing);
  settings.latency_bytes = 0;
  EXPECT_EQ(ChooseAllReduce(settings, 4, false, 1), AllReduceAlgorithm::kRing);
  settings.all_reduce = "tree";
  EXPECT_EQ(ChooseAllReduce(settings, 2, false, 64 << 20), AllReduceAlgorithm::kTree);
}

}  // namespace
}  // namespace gradwire
