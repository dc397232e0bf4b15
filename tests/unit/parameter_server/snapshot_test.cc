// What a shard sets aside, and how it goes on from that.
#include <gtest/gtest.h>

#include "tests/unit/parameter_server/shard_job.h"

namespace gradwire::ps {
namespace {

// What a checkpoint of the job would give back.
LoadedPieces Saved(Job& job) {
  job.shard->BeginSnapshot();
  const std::unique_ptr<ShardSnapshot> snapshot = job.shard->ContinueSnapshot(100);
  LoadedPieces loaded;
  loaded.info.step = snapshot->step;
  loaded.info.updates = snapshot->updates;
  loaded.info.files = {{.clocks = snapshot->clocks}};
  loaded.parameters = snapshot->parameters;
  loaded.states = snapshot->states;
  return loaded;
}

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

// Under asp and ssp the optimizer counts updates, of which a step has as many as there are workers.
TEST(SnapshotTest, KeepsTheOptimizersCount) {
  for (const ShardOptions& options : {Bsp(3), Ssp(1), Asp()}) {
    Job job(options, "adam", 0.1), other(options, "adam", 0.1);
    job.Assign(1);
    for (int w = 0; w < 3; ++w) ASSERT_TRUE(job.shard->Admit(w).ok());
    for (int64_t step = 1; step <= 2; ++step) {
      for (int w = 0; w < 3; ++w) {
        ASSERT_EQ(job.PushAll(w, step, 0.5f * static_cast<float>(w + step)), Shard::Taken::kTaken);
      }
    }
    const bool bsp = options.consistency == Consistency::kBsp;
    const LoadedPieces loaded = Saved(job);
    EXPECT_EQ(loaded.info.step, 2);
    EXPECT_EQ(loaded.info.updates, bsp ? 0 : 6);
    ASSERT_TRUE(other.shard->Restore(loaded).ok());
    for (Job* each : {&job, &other}) {
      for (int w = 0; w < 3; ++w) ASSERT_EQ(*each->shard->Admit(w), 2);
      for (int w = 0; w < 3; ++w) ASSERT_EQ(each->PushAll(w, 3, 1), Shard::Taken::kTaken);
    }
    EXPECT_EQ(job.parameters, other.parameters);
  }
}

// Slices that lag by an update go on with the count of those that do not.
TEST(SnapshotTest, CountsTheMostUpdatesOfItsSlices) {
  Job job(Asp(), "adam", 0.1);
  job.Assign(1);
  for (int w = 0; w < 2; ++w) ASSERT_TRUE(job.shard->Admit(w).ok());
  ASSERT_EQ(job.PushAll(0, 1, 1), Shard::Taken::kTaken);
  ASSERT_EQ(job.PushSlice(1, 1, 2, 1), Shard::Taken::kTaken);
  EXPECT_EQ(Saved(job).info.updates, 2);
}

TEST(SnapshotTest, OfAJobThatHasEndedIsOfItsLastStep) {
  for (const ShardOptions& options : {Bsp(1), Ssp(1), Asp()}) {
    Job job(options), other(options);
    job.Assign(1);
    ASSERT_TRUE(job.shard->Admit(0).ok());
    for (int64_t step = 1; step <= 5; ++step) {
      ASSERT_EQ(job.PushAll(0, step, 1), Shard::Taken::kTaken);
    }
    job.shard->Remove(0, "");
    const LoadedPieces loaded = Saved(job);
    EXPECT_EQ(loaded.info.step, 5);
    ASSERT_TRUE(other.shard->Restore(loaded).ok());
    EXPECT_EQ(other.shard->step(), 5);
    EXPECT_EQ(*other.shard->Admit(0), 5);
  }
}

// A checkpoint that does not say how many updates there were is taken to have had one a step.
TEST(SnapshotTest, CountsStepsWhereUpdatesAreNotKnown) {
  Job bsp(Bsp(1), "adam", 0.1), asp(Asp(), "adam", 0.1);
  bsp.Assign(1);
  ASSERT_TRUE(bsp.shard->Admit(0).ok());
  for (int64_t step = 1; step <= 3; ++step) {
    ASSERT_EQ(bsp.PushAll(0, step, 1), Shard::Taken::kTaken);
  }
  ASSERT_TRUE(asp.shard->Restore(Saved(bsp)).ok());
  ASSERT_EQ(*asp.shard->Admit(0), 3);
  for (Job* each : {&bsp, &asp}) ASSERT_EQ(each->PushAll(0, 4, 2), Shard::Taken::kTaken);
  EXPECT_EQ(bsp.parameters, asp.parameters);
}

}  // namespace
}  // namespace gradwire::ps
