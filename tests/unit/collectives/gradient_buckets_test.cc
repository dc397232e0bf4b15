#include "collectives/gradient_buckets.h"

#include <gmock/gmock.h>

#include <numeric>
#include <vector>

#include "tests/support/local_world.h"

namespace gradwire {
namespace {

using std::chrono::nanoseconds;

Settings BucketSettings() {
  Settings settings;
  settings.transport = TEST_TRANSPORT;
  return settings;
}

// Two layers, the last one first: weights, bias, weights, bias.
const std::vector<int64_t> kSizes = {80, 10, 32, 8};

TEST(GradientBucketsTest, OverlapIsTheHiddenShare) {
  EXPECT_EQ(CommunicationTime{}.OverlapRatio(), 0);
  EXPECT_DOUBLE_EQ((CommunicationTime{nanoseconds(100), nanoseconds(25)}.OverlapRatio()), 0.75);
  EXPECT_EQ((CommunicationTime{nanoseconds(100), nanoseconds(150)}.OverlapRatio()), 0);
  EXPECT_EQ((CommunicationTime{nanoseconds(100), nanoseconds(0)}.OverlapRatio()), 1);
}

TEST(GradientBucketsTest, ClosesBucketsAtGradients) {
  test::LocalJob::Run(1, [](World& world) {
    const auto communicator = Communicator::Create(world, BucketSettings());
    ASSERT_TRUE(communicator.ok()) << communicator.status();
    const auto offsets = [&](int64_t bucket_bytes) {
      const auto buckets = GradientBuckets::Create(**communicator, kSizes, bucket_bytes);
      EXPECT_TRUE(buckets.ok()) << buckets.status();
      std::vector<int64_t> result;
      for (int i = 0; i < (*buckets)->count(); ++i) {
        result.push_back((*buckets)->offset(i));
        EXPECT_EQ((*buckets)->At(result.back()), (*buckets)->gradients(i).data());
        EXPECT_EQ((*buckets)->At(result.back() + 3), (*buckets)->gradients(i).data() + 3);
      }
      return result;
    };
    EXPECT_THAT(offsets(1), ::testing::ElementsAre(0, 80, 90, 122));
    EXPECT_THAT(offsets(4 * 90), ::testing::ElementsAre(0, 90));
    EXPECT_THAT(offsets(4 * 122 - 1), ::testing::ElementsAre(0, 90));
    EXPECT_THAT(offsets(4 * 122), ::testing::ElementsAre(0, 122));
    EXPECT_THAT(offsets(1 << 20), ::testing::ElementsAre(0));
    EXPECT_FALSE(GradientBuckets::Create(**communicator, kSizes, 0).ok());
    EXPECT_FALSE(GradientBuckets::Create(**communicator, {}, 1).ok());
    EXPECT_FALSE(GradientBuckets::Create(**communicator, std::vector<int64_t>{4, 0}, 1).ok());
  });
}

TEST(GradientBucketsTest, SumsOverRanksAndCountsAnEmptyPartAsZero) {
  constexpr int kRanks = 3;
  test::LocalJob::Run(kRanks, [](World& world) {
    const auto communicator = Communicator::Create(world, BucketSettings());
    ASSERT_TRUE(communicator.ok()) << communicator.status();
    const auto buckets = *GradientBuckets::Create(**communicator, kSizes, 200);
    for (int step = 1; step <= 3; ++step) {
      if (world.rank() == 1) {
        buckets->ReadyWithZeros();
      } else {
        int64_t offset = 0;
        for (const int64_t size : kSizes) {
          float* gradient = buckets->At(offset);
          std::iota(gradient, gradient + size, static_cast<float>(step * offset));
          offset += size;
          buckets->Ready(offset);
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
      ASSERT_EQ(sums.size(), 130u);
      int64_t offset = 0;
      for (const int64_t size : kSizes) {
        for (int64_t i = 0; i < size; ++i) {
          ASSERT_EQ(sums[static_cast<size_t>(offset + i)],
                    static_cast<float>(2 * (step * offset + i)));
        }
        offset += size;
      }
      EXPECT_GT(time.busy.count(), 0);
    }
  });
}

}  // namespace
}  // namespace gradwire
