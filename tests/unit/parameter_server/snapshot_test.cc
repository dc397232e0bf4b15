// What a shard sets aside, and how it goes on from that.
#include <gtest/gtest.h>

#include "tests/unit/parameter_server/shard_job.h"

namespace gradwire::ps {
namespace {

TEST(SnapshotTest, ASnapshotIsTheStateOfOneMoment) {
  for (const ShardOptions& base : {Bsp(1), Asp()}) {
    ShardOptions options = base;
    options.checkpoint_interval = 2;
    Job job(options, "momentum", 0.1);
    job.Assign(1);
    ASSERT_TRUE(job.shard->Admit(0).ok());
    ASSERT_EQ(job.PushAll(0, 1, 1), Shard::Taken::kTaken);
    EXPECT_FALSE(job.shard->SnapshotDue());
    ASSERT_EQ(job.PushAll(0, 2, 1), Shard::Taken::kTaken);
    ASSERT_TRUE(job.shard->SnapshotDue());
    const std::vector<float> then = job.parameters;
    job.shard->BeginSnapshot();
    EXPECT_FALSE(job.shard->SnapshotDue());
    EXPECT_EQ(job.shard->ContinueSnapshot(1), nullptr);
    ASSERT_EQ(job.PushAll(0, 3, 5), Shard::Taken::kTaken);  // goes on meanwhile
    std::unique_ptr<ShardSnapshot> snapshot = job.shard->ContinueSnapshot(100);
    ASSERT_NE(snapshot, nullptr);
    EXPECT_EQ(snapshot->step, 2);
    EXPECT_EQ(snapshot->parameters, then);
    EXPECT_NE(job.parameters, then);
    ASSERT_EQ(snapshot->states.size(), 1u);
    EXPECT_FLOAT_EQ(snapshot->states[0].values[0], 1.9f);
    ASSERT_EQ(snapshot->clocks.size(), 1u);
    EXPECT_EQ(snapshot->clocks[0], (WorkerClock{0, 2, 0}));

    Job other(options, "momentum", 0.1);
    LoadedPieces loaded;
    loaded.info.step = 2;
    loaded.parameters = snapshot->parameters;
    loaded.states = snapshot->states;
    ASSERT_TRUE(other.shard->Restore(loaded).ok());
    EXPECT_EQ(*other.shard->Admit(0), 2);
    ASSERT_EQ(other.PushAll(0, 3, 5), Shard::Taken::kTaken);
    EXPECT_EQ(other.parameters, job.parameters);
    Job wrong(options, "adam");
    EXPECT_TRUE(absl::IsInvalidArgument(wrong.shard->Restore(loaded)));
  }
}

}  // namespace
}  // namespace gradwire::ps
