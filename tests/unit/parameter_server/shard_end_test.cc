// What a job leaves behind when its workers go.
#include <gtest/gtest.h>

#include "tests/unit/parameter_server/shard_job.h"

namespace gradwire::ps {
namespace {

// The next job finds what the last one had finished, and nothing else.
TEST(ShardEndTest, BspDropsWhatAJobLeavesUnfinished) {
  for (const std::string how : {"lost", ""}) {
    Job job(Bsp(2, OnLoss::kShrink));
    job.Assign(0);
    for (int w = 0; w < 2; ++w) ASSERT_TRUE(job.shard->Admit(w).ok());
    for (int w = 0; w < 2; ++w) ASSERT_EQ(job.PushAll(w, 1, 1), Shard::Taken::kTaken);
    // Slice 0 waits for worker 0 and slice 1 has both in it when they go.
    ASSERT_EQ(job.PushSlice(1, 2, 0, 8), Shard::Taken::kWait);
    for (int w = 0; w < 2; ++w) ASSERT_EQ(job.PushSlice(w, 2, 1, 8), Shard::Taken::kTaken);
    for (int w = 0; w < 2; ++w) job.shard->Remove(w, how);
    EXPECT_EQ(job.shard->values(0)[0], -2);
    EXPECT_EQ(job.shard->values(1)[0], -18);
    EXPECT_EQ(job.shard->clock().Min(), 1);

    for (int w = 0; w < 2; ++w) ASSERT_EQ(*job.shard->Admit(w), 1);
    EXPECT_TRUE(job.shard->Readable(0, 1));
    for (int w = 0; w < 2; ++w) ASSERT_EQ(job.PushAll(w, 2, 1), Shard::Taken::kTaken);
    EXPECT_TRUE(job.shard->Readable(0, 2));
    EXPECT_EQ(job.shard->values(0)[0], -4);
    EXPECT_EQ(job.shard->values(1)[0], -20);
    EXPECT_EQ(job.shard->counters().duplicates, 0u);
  }
}

TEST(ShardEndTest, BspDropsASumThatIsHeldWhenTheJobEnds) {
  Job job(Bsp(2, OnLoss::kShrink));
  job.Assign(0);
  const SliceRange all = {0, job.Slices()};
  for (int w = 0; w < 2; ++w) ASSERT_TRUE(job.shard->Admit(w).ok());
  for (int w = 0; w < 2; ++w) {
    ASSERT_EQ(job.PushAll(w, 1, 8, Request::kHold), Shard::Taken::kTaken);
  }
  for (int w = 0; w < 2; ++w) job.shard->Remove(w, "lost");
  for (int w = 0; w < 2; ++w) ASSERT_EQ(*job.shard->Admit(w), 0);
  EXPECT_LT(job.shard->HeldSquares(all, 1), 0);
  for (int w = 0; w < 2; ++w) {
    ASSERT_EQ(job.PushAll(w, 1, 1, Request::kHold), Shard::Taken::kTaken);
  }
  EXPECT_DOUBLE_EQ(job.shard->HeldSquares(all, 1), 4.0 * kElements);
  job.shard->ApplyHeld(all, 1, 1);
  EXPECT_EQ(job.shard->values(0)[0], -2);
}

TEST(ShardEndTest, BspDropsAPieceThatLacksSlicesWhenTheJobEnds) {
  Job job(Bsp(1), "lamb", 0.1), reference(Bsp(1), "lamb", 0.1);
  for (Job* each : {&job, &reference}) {
    each->Assign(2);
    ASSERT_TRUE(each->shard->Admit(0).ok());
  }
  ASSERT_EQ(job.PushSlice(0, 1, 0, 8), Shard::Taken::kTaken);
  job.shard->Remove(0, "");
  ASSERT_EQ(*job.shard->Admit(0), 0);
  for (Job* each : {&job, &reference}) {
    ASSERT_EQ(each->PushAll(0, 1, 0.75f), Shard::Taken::kTaken);
  }
  EXPECT_EQ(job.parameters, reference.parameters);
}

TEST(ShardEndTest, KeepsTheStepWhenAllHaveLeft) {
  for (const ShardOptions& options : {Bsp(2, OnLoss::kShrink), Ssp(9), Asp()}) {
    const bool bsp = options.consistency == Consistency::kBsp;
    Job job(options), replica(options);
    job.shard->set_observer([&](const Request& change, std::span<const float> values) {
      replica.Repeat(change, values);
    });
    job.Assign(0);
    EXPECT_EQ(job.shard->step(), 0);
    for (int w = 0; w < 2; ++w) ASSERT_TRUE(job.shard->Admit(w).ok());
    for (int64_t step = 1; step <= 3; ++step) {
      for (int w = 0; w < 2; ++w) {
        if (bsp || w == 0 || step == 1) {
          ASSERT_EQ(job.PushAll(w, step, 1), Shard::Taken::kTaken);
        }
      }
    }
    EXPECT_EQ(job.shard->step(), bsp ? 3 : 1);
    for (int w = 0; w < 2; ++w) job.shard->Remove(w, "");
    EXPECT_EQ(job.shard->step(), 3);
    EXPECT_EQ(replica.shard->step(), 3);
    // Whoever comes next goes on from there.
    EXPECT_EQ(*job.shard->Admit(1), 3);
    EXPECT_EQ(*job.shard->Admit(bsp ? 0 : 7), 3);
    EXPECT_EQ(job.shard->step(), 3);
  }
}

}  // namespace
}  // namespace gradwire::ps
