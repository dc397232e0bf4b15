#include "examples/training/gradient_buckets.h"

#include <gmock/gmock.h>

#include <cmath>
#include <numeric>

#include "tests/support/local_world.h"

namespace gradwire::training {
namespace {

using std::chrono::nanoseconds;

TEST(GradientBucketsTest, OverlapIsTheHiddenShare) {
  EXPECT_EQ(CommunicationTime{}.OverlapRatio(), 0);
  EXPECT_DOUBLE_EQ((CommunicationTime{nanoseconds(100), nanoseconds(25)}.OverlapRatio()), 0.75);
  EXPECT_EQ((CommunicationTime{nanoseconds(100), nanoseconds(150)}.OverlapRatio()), 0);
  EXPECT_EQ((CommunicationTime{nanoseconds(100), nanoseconds(0)}.OverlapRatio()), 1);
}

// dense2: 10 x 8 + 10, dense1: 8 x 4 + 8 parameters; last layer first.
TEST(GradientBucketsTest, ClosesBucketsAtParameters) {
  test::LocalJob::Run(1, [](World& world) {
    const auto communicator = Communicator::Create(world, Settings());
    ASSERT_TRUE(communicator.ok()) << communicator.status();
    const auto offsets = [&](int64_t bucket_bytes) {
      const auto model = *MakeModel<float>({.kind = "mlp", .hidden = {8}}, 2, 2, 10);
      const auto buckets = GradientBuckets::Create(**communicator, *model, bucket_bytes);
      EXPECT_TRUE(buckets.ok()) << buckets.status();
      std::vector<int64_t> result;
      for (int i = 0; i < (*buckets)->count(); ++i) result.push_back((*buckets)->offset(i));
      return result;
    };
    EXPECT_THAT(offsets(1), ::testing::ElementsAre(0, 80, 90, 122));
    EXPECT_THAT(offsets(4 * 90), ::testing::ElementsAre(0, 90));
    EXPECT_THAT(offsets(4 * 122 - 1), ::testing::ElementsAre(0, 90));
    EXPECT_THAT(offsets(4 * 122), ::testing::ElementsAre(0, 122));
    EXPECT_THAT(offsets(1 << 20), ::testing::ElementsAre(0));
    const auto model = *MakeModel<float>({.kind = "mlp"}, 2, 2, 10);
    EXPECT_FALSE(GradientBuckets::Create(**communicator, *model, 0).ok());
  });
}

TEST(GradientBucketsTest, SumsOverRanksAndCountsAnEmptyPartAsZero) {
  constexpr int kRanks = 3;
  test::LocalJob::Run(kRanks, [](World& world) {
    const auto communicator = Communicator::Create(world, Settings());
    ASSERT_TRUE(communicator.ok()) << communicator.status();
    const auto model = *MakeModel<float>({.kind = "mlp", .hidden = {8}}, 2, 2, 10);
    const auto buckets = *GradientBuckets::Create(**communicator, *model, 200);
    for (int step = 1; step <= 3; ++step) {
      std::vector<Parameter<float>*> parameters = model->parameters();
      std::ranges::sort(parameters, {}, [](const auto* p) { return p->offset; });
      if (world.rank() == 1) {
        buckets->ReadyWithZeros();
      } else {
        for (Parameter<float>* parameter : parameters) {
          std::iota(parameter->gradient, parameter->gradient + parameter->size,
                    static_cast<float>(step * parameter->offset));
          buckets->Ready(*parameter);
        }
      }
      CommunicationTime time;
      std::vector<float> sums;
      for (int i = 0; i < buckets->count(); ++i) {
        const absl::Status status = buckets->Wait(i, time);
        ASSERT_TRUE(status.ok()) << status;
        EXPECT_EQ(buckets->offset(i), static_cast<int64_t>(sums.size()));
        const std::span<const float> part = buckets->gradients(i);
        sums.insert(sums.end(), part.begin(), part.end());
      }
      ASSERT_EQ(sums.size(), model->values().size());
      for (const Parameter<float>* parameter : parameters) {
        for (int64_t i = 0; i < parameter->size; ++i) {
          ASSERT_EQ(sums[static_cast<size_t>(parameter->offset + i)],
                    static_cast<float>(2 * (step * parameter->offset + i)));
        }
      }
      EXPECT_GT(time.busy.count(), 0);
    }
  });
}

}  // namespace
}  // namespace gradwire::training
