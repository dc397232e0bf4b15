// Every collective against a reference, ranks as threads over real TCP connections.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <span>

#include "collectives/communicator.h"
#include "tests/support/local_world.h"

namespace gradwire {
namespace {

using test::LocalJob;
using ::testing::HasSubstr;

Settings TestSettings() {
  Settings settings;
  settings.transport = TEST_TRANSPORT;
  settings.op_timeout = std::chrono::seconds(30);
  settings.slice_bytes = 16 << 10;
  return settings;
}

// Small whole numbers: exact in every type under sum, and under product for few ranks. They repeat
// every five elements, so that instrumented code need not compute each one anew.
constexpr size_t kPeriod = 5;

int PatternAt(size_t i, int rank) {
  return static_cast<int>((i * 7 + static_cast<size_t>(rank) * 3) % kPeriod) + 1;
}

template <typename T>
std::vector<T> Pattern(size_t count, int rank) {
  std::array<T, kPeriod> period;
  for (size_t i = 0; i < kPeriod; ++i) {
    period[i] = static_cast<T>(static_cast<float>(PatternAt(i, rank)));
  }
  std::vector<T> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = period[i % kPeriod];
  return values;
}

double Reference(ReduceOp op, size_t i, int size) {
  double result = PatternAt(i, 0);
  for (int rank = 1; rank < size; ++rank) {
    const double value = PatternAt(i, rank);
    if (op == ReduceOp::kMin) {
      result = std::min(result, value);
    } else if (op == ReduceOp::kMax) {
      result = std::max(result, value);
    } else if (op == ReduceOp::kProd) {
      result *= value;
    } else {
      result += value;
    }
  }
  return op == ReduceOp::kAvg ? result / size : result;
}

template <typename T>
void ExpectReduced(const std::vector<T>& values, ReduceOp op, int size, size_t first = 0) {
  std::array<double, kPeriod> expected;
  for (size_t i = 0; i < kPeriod; ++i) {
    expected[i] = Reference(op, first + i, size);
    if (std::is_integral_v<T>) expected[i] = std::trunc(expected[i]);
  }
  const double tolerance = op == ReduceOp::kAvg && !std::is_integral_v<T> ? 0.01 : 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const double value = static_cast<double>(values[i]), want = expected[i % kPeriod];
    if (std::abs(value - want) <= want * tolerance) continue;  // not so for NaN
    FAIL() << NameOf(DataTypeOf<T>::value) << " " << NameOf(op) << " element " << i << " of "
           << values.size() << ", " << size << " ranks: " << value << ", not " << want;
  }
}

template <typename T>
bool SameBits(const std::vector<T>& a, const std::vector<T>& b) {
  const auto left = std::as_bytes(std::span(a)), right = std::as_bytes(std::span(b));
  return std::equal(left.begin(), left.end(), right.begin(), right.end());
}

template <typename T>
void AllReduceEverything(Communicator& comm) {
  for (const size_t count :
       {size_t{0}, size_t{1}, size_t{3}, size_t{7}, size_t{1000}, size_t{65537}}) {
    for (int op = 0; op < kReduceOpCount; ++op) {
      // 5^4 is exact in half's 11 bits only as a product of few factors.
      const auto reduce = static_cast<ReduceOp>(op);
      if (reduce == ReduceOp::kProd && sizeof(T) == 2 && comm.size() > 3) continue;
      const std::vector<T> in = Pattern<T>(count, comm.rank());
      std::vector<T> out(count);
      ASSERT_EQ(comm.AllReduce(in, out, reduce), absl::OkStatus());
      ExpectReduced(out, reduce, comm.size());
      std::vector<T> both = in;
      ASSERT_EQ(comm.AllReduce(both, reduce), absl::OkStatus());
      ASSERT_TRUE(SameBits(both, out));
    }
  }
}

struct Shape {
  int ranks;
  std::string algorithm;
};
class AllReduceTest : public ::testing::TestWithParam<Shape> {};

TEST_P(AllReduceTest, EveryTypeOperationAndCount) {
  Settings settings = TestSettings();
  settings.all_reduce = GetParam().algorithm;
  LocalJob::Run(GetParam().ranks, [&](World& world) {
    auto comm = Communicator::Create(world, settings);
    ASSERT_TRUE(comm.ok()) << comm.status();
    AllReduceEverything<float>(**comm);
    AllReduceEverything<double>(**comm);
    AllReduceEverything<int32_t>(**comm);
    AllReduceEverything<int64_t>(**comm);
    AllReduceEverything<Eigen::half>(**comm);
    AllReduceEverything<Eigen::bfloat16>(**comm);
  });
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, AllReduceTest,
    ::testing::Values(Shape{1, "auto"}, Shape{2, "ring"}, Shape{3, "ring"}, Shape{4, "ring"},
                      Shape{5, "ring"}, Shape{8, "ring"}, Shape{2, "recursive_doubling"},
                      Shape{3, "recursive_doubling"}, Shape{6, "recursive_doubling"},
                      Shape{7, "recursive_doubling"}, Shape{8, "recursive_doubling"},
                      Shape{2, "tree"}, Shape{5, "tree"}, Shape{11, "tree"}, Shape{4, "auto"}),
    [](const auto& info) { return fmt::format("{}x{}", info.param.algorithm, info.param.ranks); });

class CollectivesTest : public ::testing::TestWithParam<int> {};

TEST_P(CollectivesTest, ReduceScatter) {
  LocalJob::Run(GetParam(), [&](World& world) {
    auto comm = Communicator::Create(world, TestSettings());
    ASSERT_TRUE(comm.ok()) << comm.status();
    const auto size = static_cast<size_t>(world.size());
    for (const size_t block : {size_t{0}, size_t{1}, size_t{7}, size_t{1000}, size_t{30011}}) {
      for (const ReduceOp op : {ReduceOp::kSum, ReduceOp::kAvg, ReduceOp::kMax}) {
        std::vector<float> in = Pattern<float>(block * size, world.rank());
        const std::vector<float> before = in;
        std::vector<float> out(block);
        ASSERT_EQ((*comm)->ReduceScatter(in, out, op), absl::OkStatus());
        ASSERT_EQ(in, before);
        const size_t first = block * static_cast<size_t>(world.rank());
        ExpectReduced(out, op, world.size(), first);
        ASSERT_EQ((*comm)->ReduceScatter(in, std::span(in).subspan(first, block), op),
                  absl::OkStatus());
        ASSERT_EQ(std::vector<float>(in.begin() + static_cast<std::ptrdiff_t>(first),
                                     in.begin() + static_cast<std::ptrdiff_t>(first + block)),
                  out);
      }
    }
  });
}

TEST_P(CollectivesTest, AllGather) {
  LocalJob::Run(GetParam(), [&](World& world) {
    auto comm = Communicator::Create(world, TestSettings());
    ASSERT_TRUE(comm.ok()) << comm.status();
    const auto size = static_cast<size_t>(world.size());
    for (const size_t block : {size_t{0}, size_t{1}, size_t{7}, size_t{1000}, size_t{30011}}) {
      std::vector<int32_t> expected;
      for (int rank = 0; rank < world.size(); ++rank) {
        const auto part = Pattern<int32_t>(block, rank);
        expected.insert(expected.end(), part.begin(), part.end());
      }
      const auto in = Pattern<int32_t>(block, world.rank());
      std::vector<int32_t> out(block * size);
      ASSERT_EQ((*comm)->AllGather(in, out), absl::OkStatus());
      ASSERT_EQ(out, expected);
      std::fill(out.begin(), out.end(), -1);
      const auto mine = std::span(out).subspan(block * static_cast<size_t>(world.rank()), block);
      std::copy(in.begin(), in.end(), mine.begin());
      ASSERT_EQ((*comm)->AllGather(mine, out), absl::OkStatus());
      ASSERT_EQ(out, expected);
    }
  });
}

TEST_P(CollectivesTest, BroadcastFromEveryRoot) {
  LocalJob::Run(GetParam(), [&](World& world) {
    auto comm = Communicator::Create(world, TestSettings());
    ASSERT_TRUE(comm.ok()) << comm.status();
    for (int root = 0; root < world.size(); ++root) {
      for (const size_t count : {size_t{0}, size_t{1}, size_t{1000}, size_t{100003}}) {
        auto values = Pattern<double>(count, world.rank());
        ASSERT_EQ((*comm)->Broadcast(values, root), absl::OkStatus());
        ASSERT_EQ(values, Pattern<double>(count, root));
      }
    }
  });
}

TEST_P(CollectivesTest, AsyncAndBlockingKeepTheirOrder) {
  LocalJob::Run(GetParam(), [&](World& world) {
    auto comm = Communicator::Create(world, TestSettings());
    ASSERT_TRUE(comm.ok()) << comm.status();
    std::vector<std::vector<float>> tensors;
    for (size_t i = 0; i < 12; ++i) tensors.push_back(Pattern<float>(1 + i * 3001, world.rank()));
    std::vector<Work> works;
    for (auto& tensor : tensors) works.push_back((*comm)->AllReduceAsync(tensor));
    std::vector<float> blocking = Pattern<float>(500, world.rank());
    ASSERT_EQ((*comm)->AllReduce(blocking), absl::OkStatus());
    ExpectReduced(blocking, ReduceOp::kSum, world.size());
    for (size_t i = 0; i < works.size(); ++i) {
      ASSERT_TRUE(works[i].Done());  // a blocking call runs after all that came before
      ASSERT_EQ(works[i].Wait(), absl::OkStatus());
      ExpectReduced(tensors[i], ReduceOp::kSum, world.size());
    }
    ASSERT_EQ((*comm)->Barrier(), absl::OkStatus());
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, CollectivesTest, ::testing::Values(1, 2, 3, 4, 6));

// Random floats, whose sum depends on the order of additions.
std::vector<float> RandomFloats(size_t count, int rank) {
  std::mt19937 generator(static_cast<unsigned>(rank) + 1);
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(generator()) / 1e6f;
  return values;
}

TEST(Determinism, EqualBitsOnEveryRankForEverySliceSizeAndLaneCount) {
  constexpr size_t kCount = 200'003;
  std::vector<float> first;
  for (const int64_t slice : {4 << 10, 16 << 10, 256 << 10}) {
    for (const int lanes : {1, 3}) {
      Settings settings = TestSettings();
      settings.all_reduce = "ring";
      settings.slice_bytes = slice;
      settings.lanes = lanes;
      settings.slots = slice == (4 << 10) ? 3 : 8;
      std::vector<std::vector<float>> results(3);
      LocalJob::Run(3, [&](World& world) {
        auto comm = Communicator::Create(world, settings);
        ASSERT_TRUE(comm.ok()) << comm.status();
        auto values = RandomFloats(kCount, world.rank());
        ASSERT_EQ((*comm)->AllReduce(values), absl::OkStatus());
        results[static_cast<size_t>(world.rank())] = values;
      });
      if (first.empty()) first = results[0];
      for (const auto& result : results) {
        ASSERT_TRUE(SameBits(result, first));
      }
    }
  }
}

TEST(Misuse, TensorsAreChecked) {
  LocalJob::Run(1, [&](World& world) {
    auto comm = Communicator::Create(world, TestSettings());
    ASSERT_TRUE(comm.ok()) << comm.status();
    std::vector<float> a(10), b(9);
    EXPECT_TRUE(absl::IsInvalidArgument((*comm)->AllReduce(a, b)));
    std::vector<double> d(10);
    EXPECT_TRUE(absl::IsInvalidArgument((*comm)->AllReduce(a, d)));
    EXPECT_TRUE(absl::IsInvalidArgument(
        (*comm)->AllReduce(std::span(a).first(6), std::span(a).subspan(2, 6))));
    Eigen::MatrixXf m = Eigen::MatrixXf::Zero(4, 4);
    EXPECT_TRUE(absl::IsInvalidArgument((*comm)->AllReduce(m.row(1))));
    EXPECT_EQ((*comm)->AllReduce(m.col(1)), absl::OkStatus());
    EXPECT_TRUE(absl::IsInvalidArgument((*comm)->Broadcast(a, 1)));
    EXPECT_TRUE(absl::IsInvalidArgument((*comm)->AllReduceAsync(a, b).Wait()));
  });
}

// Rank 1 calls `other` where the rest call an all-reduce of 1000 floats.
void ExpectDisagreement(int ranks, const std::function<absl::Status(Communicator&)>& other,
                        const std::string& theirs) {
  std::vector<absl::Status> results(static_cast<size_t>(ranks));
  Settings settings = TestSettings();
  // Ranks that wait for links which nobody else opens find out by the deadline.
  settings.op_timeout = std::chrono::seconds(5);
  LocalJob::Run(ranks, [&](World& world) {
    auto comm = Communicator::Create(world, settings);
    ASSERT_TRUE(comm.ok()) << comm.status();
    std::vector<float> values(1000);
    results[static_cast<size_t>(world.rank())] =
        world.rank() == 1 ? other(**comm) : (*comm)->AllReduce(values);
  });
  for (const absl::Status& result : results) {
    EXPECT_THAT(Message(result), HasSubstr("all_reduce of 1000 float, sum"));
    EXPECT_THAT(Message(result), HasSubstr(theirs));
    EXPECT_THAT(Message(result), HasSubstr("rank 1"));
  }
}

TEST(Disagreement, IsNamedOnEveryRank) {
  for (const int ranks : {2, 3, 4}) {
    ExpectDisagreement(
        ranks,
        [](Communicator& comm) {
          std::vector<float> values(1001);
          return comm.AllReduce(values);
        },
        "all_reduce of 1001 float, sum");
    ExpectDisagreement(
        ranks,
        [](Communicator& comm) {
          std::vector<float> values(1'000'000);
          return comm.AllReduce(values);
        },
        "all_reduce of 1000000 float, sum");
    ExpectDisagreement(
        ranks,
        [](Communicator& comm) {
          std::vector<int32_t> values(1000);
          return comm.AllReduce(values);
        },
        "all_reduce of 1000 int32, sum");
    ExpectDisagreement(
        ranks,
        [](Communicator& comm) {
          std::vector<float> values(1000);
          return comm.AllReduce(values, ReduceOp::kMax);
        },
        "all_reduce of 1000 float, max");
    ExpectDisagreement(
        ranks, [](Communicator& comm) { return comm.Barrier(); }, "barrier");
    ExpectDisagreement(
        ranks,
        [](Communicator& comm) {
          std::vector<float> values;
          return comm.AllReduce(values);
        },
        "all_reduce of 0 float, sum");
  }
}

TEST(Timeout, NamesWhoIsMissing) {
  Settings settings = TestSettings();
  settings.op_timeout = std::chrono::seconds(2);  // the first one must be done in time
  std::vector<absl::Status> results(3);
  LocalJob::Run(3, [&](World& world) {
    auto comm = Communicator::Create(world, settings);
    ASSERT_TRUE(comm.ok()) << comm.status();
    std::vector<float> values(100'000);
    ASSERT_EQ((*comm)->AllReduce(values), absl::OkStatus());
    if (world.rank() != 2) results[static_cast<size_t>(world.rank())] = (*comm)->AllReduce(values);
    ASSERT_EQ(world.Barrier("end", std::chrono::seconds(10)), absl::OkStatus());
  });
  for (const int rank : {0, 1}) {
    const absl::Status& result = results[static_cast<size_t>(rank)];
    EXPECT_TRUE(absl::IsDeadlineExceeded(result)) << result;
    EXPECT_THAT(Message(result), HasSubstr("rank 2 (localhost"));
    EXPECT_THAT(Message(result), HasSubstr("alive but in no collective"));
    EXPECT_THAT(Message(result), HasSubstr("all_reduce of 100000 float, sum (#2)"));
  }
}

}  // namespace
}  // namespace gradwire
