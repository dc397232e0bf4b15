#include "parameter_server/shard.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>

#include "tests/unit/parameter_server/shard_job.h"

namespace gradwire::ps {
namespace {

TEST(ShardTest, BspSumsInTheOrderOfNumbersWhoeverComesFirst) {
  // Sums of these differ by order in the last bit.
  const std::vector<float> gradients = {0.1f, 1e-8f, -0.3f, 7e-9f};
  std::vector<float> first;
  std::mt19937 random(1);
  for (int round = 0; round < 20; ++round) {
    Job job(Bsp(4));
    job.Assign(1);
    std::vector<int64_t> order = {0, 1, 2, 3};
    for (const int64_t worker : order) ASSERT_TRUE(job.shard->Admit(worker).ok());
    std::ranges::shuffle(order, random);
    std::vector<bool> done(4);
    while (!std::ranges::all_of(done, [](bool d) { return d; })) {
      for (const int64_t worker : order) {
        const auto w = static_cast<size_t>(worker);
        if (done[w]) continue;
        done[w] = job.PushSlice(worker, 1, 0, gradients[w]) == Shard::Taken::kTaken;
      }
    }
    const std::span<float> values = job.shard->values(0);
    if (round == 0) first.assign(values.begin(), values.end());
    EXPECT_TRUE(std::ranges::equal(first, values));
  }
  EXPECT_EQ(first[0], 1 - (((0.1f + 1e-8f) + -0.3f) + 7e-9f));
}

TEST(ShardTest, BspReadsNothingBeforeAllHavePushed) {
  Job job(Bsp(2));
  job.Assign(1);
  ASSERT_TRUE(job.shard->Admit(0).ok());
  ASSERT_TRUE(job.shard->Admit(1).ok());
  EXPECT_TRUE(job.shard->Readable(0, 0));
  EXPECT_EQ(job.PushAll(0, 1, 0.25f), Shard::Taken::kTaken);
  EXPECT_FALSE(job.shard->Readable(0, 1));
  EXPECT_EQ(job.shard->WaitsFor(0, 1), 1);
  EXPECT_EQ(job.shard->values(0)[0], 1);
  EXPECT_EQ(job.PushAll(1, 1, 0.5f), Shard::Taken::kTaken);
  EXPECT_TRUE(job.shard->Readable(3, 1));
  EXPECT_EQ(job.shard->values(3)[7], 0.25f);
  EXPECT_EQ(job.shard->clock().Min(), 1);
}

TEST(ShardTest, BspHoldsAWorkerThatIsAheadAtItsSlice) {
  Job job(Bsp(2));
  job.Assign(0);
  ASSERT_TRUE(job.shard->Admit(0).ok());
  ASSERT_TRUE(job.shard->Admit(1).ok());
  ASSERT_EQ(job.PushAll(0, 1, 1), Shard::Taken::kTaken);
  EXPECT_EQ(job.PushAll(0, 2, 1), Shard::Taken::kWait);
  ASSERT_EQ(job.PushAll(1, 1, 1), Shard::Taken::kTaken);
  EXPECT_EQ(job.PushAll(0, 2, 1), Shard::Taken::kTaken);
}

TEST(ShardTest, SspBoundsWhatIsReadByTheSlowest) {
  Job job(Ssp(2));
  job.Assign(0);
  ASSERT_TRUE(job.shard->Admit(5).ok());
  ASSERT_TRUE(job.shard->Admit(9).ok());
  for (int64_t step = 1; step <= 2; ++step) {
    ASSERT_EQ(job.PushAll(5, step, 1), Shard::Taken::kTaken);
    EXPECT_TRUE(job.shard->Readable(0, step)) << step;
  }
  ASSERT_EQ(job.PushAll(5, 3, 1), Shard::Taken::kTaken);
  EXPECT_FALSE(job.shard->Readable(0, 3));
  EXPECT_EQ(job.shard->WaitsFor(0, 3), 9);
  ASSERT_EQ(job.PushAll(9, 1, 1), Shard::Taken::kTaken);
  EXPECT_TRUE(job.shard->Readable(0, 3));
  EXPECT_EQ(job.shard->values(0)[0], -4);
}

TEST(ShardTest, SspForgetsTheSlowWhenTheyAreLost) {
  Job job(Ssp(0));
  job.Assign(0);
  ASSERT_TRUE(job.shard->Admit(0).ok());
  ASSERT_TRUE(job.shard->Admit(1).ok());
  ASSERT_EQ(job.PushAll(0, 1, 1), Shard::Taken::kTaken);
  EXPECT_FALSE(job.shard->Readable(0, 1));
  job.shard->Remove(1, "silent");
  EXPECT_TRUE(job.shard->Readable(0, 1));
  EXPECT_EQ(job.shard->counters().workers_lost, 1u);
  // It comes back where the others are, and may begin at any later step.
  ASSERT_EQ(job.PushAll(0, 2, 1), Shard::Taken::kTaken);
  EXPECT_EQ(*job.shard->Admit(1), 2);
  EXPECT_TRUE(job.shard->Check(1, job.Push(7)).ok());
  ASSERT_EQ(job.PushAll(1, 7, 1), Shard::Taken::kTaken);
  EXPECT_TRUE(absl::IsFailedPrecondition(job.shard->Check(1, job.Push(9))));
}

TEST(ShardTest, RefusesStepsThatAreOverOrOutOfOrder) {
  for (const ShardOptions& options : {Bsp(1), Ssp(1), Asp()}) {
    Job job(options);
    EXPECT_TRUE(absl::IsFailedPrecondition(job.shard->Check(0, job.Push(1))));  // no member
    ASSERT_TRUE(job.shard->Admit(0).ok());
    EXPECT_TRUE(absl::IsFailedPrecondition(job.shard->Check(0, job.Push(1))));  // no values
    job.Assign(0);
    ASSERT_EQ(job.PushAll(0, 1, 1), Shard::Taken::kTaken);
    EXPECT_TRUE(absl::IsAlreadyExists(job.shard->Check(0, job.Push(1))));
    EXPECT_TRUE(absl::IsFailedPrecondition(job.shard->Check(0, job.Push(3))));
    EXPECT_TRUE(absl::IsInvalidArgument(job.shard->Check(0, job.Push(-1))));
    EXPECT_TRUE(absl::IsInvalidArgument(job.shard->Check(0, job.Push(kMaxStep + 1))));
    Request wild = job.Push(2);
    wild.scale = std::numeric_limits<float>::quiet_NaN();
    EXPECT_TRUE(absl::IsInvalidArgument(job.shard->Check(0, wild)));
    // A pull may end a step or apply what is held, and is held to the same.
    for (const uint8_t flag : {Request::kEndOfStep, Request::kApplyHeld}) {
      Request pull = job.Push(9, flag);
      pull.op = Op::kPull;
      EXPECT_TRUE(absl::IsFailedPrecondition(job.shard->Check(0, pull)));
      pull.step = 2;
      EXPECT_TRUE(job.shard->Check(0, pull).ok());
      pull.scale = std::numeric_limits<float>::infinity();
      EXPECT_TRUE(absl::IsInvalidArgument(job.shard->Check(0, pull)));
    }
    EXPECT_TRUE(job.shard->Check(0, job.Push(2)).ok());
    EXPECT_EQ(job.shard->values(0)[0], -1);
  }
}

// One that asp and ssp let begin at any later step could else push the clocks over their end.
TEST(ShardTest, RefusesStepsWithoutASuccessor) {
  for (const ShardOptions& options : {Ssp(1), Asp()}) {
    Job job(options);
    job.Assign(0);
    ASSERT_TRUE(job.shard->Admit(0).ok());
    for (const Op op : {Op::kPush, Op::kPull, Op::kPushPull}) {
      Request request = job.Push(std::numeric_limits<int64_t>::max());
      request.op = op;
      EXPECT_TRUE(absl::IsInvalidArgument(job.shard->Check(0, request)));
      request.step = kMaxStep;
      EXPECT_TRUE(job.shard->Check(0, request).ok());
    }
    const Request change{.op = Op::kReplicate,
                         .flags = Request::kEndOfStep,
                         .step = std::numeric_limits<int64_t>::max(),
                         .worker = 0};
    EXPECT_TRUE(absl::IsInvalidArgument(job.shard->CheckReplay(change)));
  }
}

TEST(ShardTest, TakesASliceOfAStepOnce) {
  for (const ShardOptions& options : {Bsp(1), Ssp(1), Asp()}) {
    Job job(options);
    job.Assign(0);
    ASSERT_TRUE(job.shard->Admit(0).ok());
    EXPECT_EQ(job.PushSlice(0, 1, 0, 1), Shard::Taken::kTaken);
    // The link breaks and the worker comes back.
    ASSERT_TRUE(job.shard->Admit(0).ok());
    EXPECT_EQ(job.PushSlice(0, 1, 0, 1), Shard::Taken::kDuplicate);
    EXPECT_EQ(job.PushSlice(0, 1, 1, 1), Shard::Taken::kTaken);
    EXPECT_EQ(job.shard->values(0)[0], -1);
    EXPECT_EQ(job.shard->counters().duplicates, 1u);
  }
}

TEST(ShardTest, BspFailsOrGoesOnWithoutTheLost) {
  Job fails(Bsp(3));
  fails.Assign(0);
  for (int w = 0; w < 3; ++w) ASSERT_TRUE(fails.shard->Admit(w).ok());
  fails.shard->Remove(1, "worker 1 (node7, pid 12) was lost: connection closed");
  EXPECT_TRUE(absl::IsUnavailable(fails.shard->failure()));
  EXPECT_NE(fails.shard->failure().message().find("worker 1 (node7, pid 12)"), std::string::npos);
  EXPECT_TRUE(absl::IsUnavailable(fails.shard->Check(0, fails.Push(1))));

  Job shrinks(Bsp(3, OnLoss::kShrink));
  shrinks.Assign(0);
  for (int w = 0; w < 3; ++w) ASSERT_TRUE(shrinks.shard->Admit(w).ok());
  ASSERT_EQ(shrinks.PushAll(0, 1, 1), Shard::Taken::kTaken);
  EXPECT_EQ(shrinks.PushAll(2, 1, 4), Shard::Taken::kWait);
  shrinks.shard->Remove(1, "lost");
  EXPECT_EQ(shrinks.PushAll(2, 1, 4), Shard::Taken::kTaken);
  EXPECT_TRUE(shrinks.shard->Readable(0, 1));
  EXPECT_EQ(shrinks.shard->values(0)[0], -5);
  // A sum that waited for the lost one alone is complete with its end.
  ASSERT_EQ(shrinks.PushAll(0, 2, 1), Shard::Taken::kTaken);
  shrinks.shard->Remove(2, "lost");
  EXPECT_TRUE(shrinks.shard->Readable(0, 2));
  EXPECT_EQ(shrinks.shard->values(0)[0], -6);
  EXPECT_TRUE(absl::IsFailedPrecondition(shrinks.shard->Admit(2).status()));
}

TEST(ShardTest, ClipsByTheNormOfAllShards) {
  Job job(Bsp(2));
  job.Assign(0);
  ASSERT_TRUE(job.shard->Admit(0).ok());
  ASSERT_TRUE(job.shard->Admit(1).ok());
  const SliceRange all = {0, job.Slices()};
  ASSERT_EQ(job.PushAll(0, 1, 1, Request::kHold), Shard::Taken::kTaken);
  EXPECT_LT(job.shard->HeldSquares(all, 1), 0);
  ASSERT_EQ(job.PushAll(1, 1, 2, Request::kHold), Shard::Taken::kTaken);
  EXPECT_DOUBLE_EQ(job.shard->HeldSquares(all, 1), 9.0 * kElements);
  EXPECT_FALSE(job.shard->Readable(0, 1));
  job.shard->ApplyHeld(all, 1, 0.5f);
  EXPECT_EQ(job.shard->values(2)[3], -1.5f);
  EXPECT_TRUE(job.shard->Readable(0, 1));
  job.shard->ApplyHeld(all, 1, 0.5f);
  EXPECT_EQ(job.shard->values(2)[3], -1.5f);
  // Who asks late still gets the sum of squares.
  EXPECT_DOUBLE_EQ(job.shard->HeldSquares(all, 1), 9.0 * kElements);
}

TEST(ShardTest, CutsElements) {
  ShardOptions options = Asp();
  options.clip_value = 0.5;
  Job job(options);
  job.Assign(0);
  ASSERT_TRUE(job.shard->Admit(0).ok());
  ASSERT_EQ(job.PushAll(0, 1, 3), Shard::Taken::kTaken);
  EXPECT_EQ(job.shard->values(1)[0], -0.5f);
}

TEST(ShardTest, LambSeesWholePieces) {
  Job job(Bsp(1), "lamb", 0.1);
  const auto reference = *Optimizer::Make({.name = "lamb", .learning_rate = 0.1}, kElements);
  job.Assign(2);
  ASSERT_TRUE(job.shard->Admit(0).ok());
  std::vector<float> expected(kElements, 2), gradient(kElements, 0.75f);
  reference->Update(1, 0.1, 0, expected, gradient);
  ASSERT_EQ(job.PushAll(0, 1, 0.75f), Shard::Taken::kTaken);
  EXPECT_TRUE(std::ranges::equal(expected, job.parameters));
  EXPECT_TRUE(job.shard->Readable(0, 1));
  ShardOptions asynchronous = Asp();
  asynchronous.optimizer.name = "lamb";
  EXPECT_TRUE(absl::IsInvalidArgument(
      Shard::Make(job.layout, job.placement, 0, job.parameters, asynchronous).status()));
}

// A replica that repeats what it is told ends in the same state, also for what comes after.
TEST(ShardTest, AReplicaBecomesTheSame) {
  for (const ShardOptions& options : {Bsp(2, OnLoss::kShrink), Ssp(3), Asp()}) {
    for (const std::string optimizer : {"momentum", "adam"}) {
      Job primary(options, optimizer, 0.1), replica(options, optimizer, 0.1);
      primary.shard->set_observer([&](const Request& change, std::span<const float> values) {
        replica.Repeat(change, values);
      });
      primary.Assign(1);
      for (int w = 0; w < 2; ++w) ASSERT_TRUE(primary.shard->Admit(w).ok());
      for (int64_t step = 1; step <= 3; ++step) {
        for (int w = 0; w < 2; ++w) {
          ASSERT_EQ(primary.PushAll(w, step, 0.1f * static_cast<float>(w + step)),
                    Shard::Taken::kTaken);
        }
      }
      // Worker 0 has half a step through when the primary dies.
      ASSERT_EQ(primary.PushSlice(0, 4, 0, 1), Shard::Taken::kTaken);
      ASSERT_EQ(primary.PushSlice(0, 4, 1, 1), Shard::Taken::kTaken);
      EXPECT_EQ(primary.parameters, replica.parameters);
      replica.shard->Promote();
      for (int w = 0; w < 2; ++w) EXPECT_EQ(*replica.shard->Admit(w), 3);
      const uint64_t before = replica.shard->counters().duplicates;
      for (uint32_t slice = 0; slice < replica.Slices(); ++slice) {
        replica.PushSlice(0, 4, slice, 1);
      }
      for (uint32_t slice = 2; slice < primary.Slices(); ++slice) {
        primary.shard->set_observer({});
        primary.PushSlice(0, 4, slice, 1);
      }
      primary.PushAll(1, 4, 0.5f);
      replica.PushAll(1, 4, 0.5f);
      EXPECT_EQ(primary.parameters, replica.parameters);
      // Under BSP a sum is not an update before all are in it: the replica had none of step 4.
      EXPECT_EQ(replica.shard->counters().duplicates - before,
                options.consistency == Consistency::kBsp ? 0u : 2u);
    }
  }
}

TEST(ShardTest, AReplicaRemembersWhoLeftThoughItHasNoMembers) {
  Job replica(Bsp(3, OnLoss::kShrink));
  replica.Assign(0);
  replica.shard->Remove(1, "");
  replica.shard->Promote();
  EXPECT_TRUE(absl::IsFailedPrecondition(replica.shard->Admit(1).status()));
  ASSERT_TRUE(replica.shard->Admit(0).ok());
  ASSERT_TRUE(replica.shard->Admit(2).ok());
  ASSERT_EQ(replica.PushAll(0, 1, 1), Shard::Taken::kTaken);
  ASSERT_EQ(replica.PushAll(2, 1, 1), Shard::Taken::kTaken);
  EXPECT_TRUE(replica.shard->Readable(0, 1));
}

TEST(ShardTest, AReplicaRefusesWhatAPrimaryOfAnotherKindSends) {
  const Request sum{.op = Op::kReplicate, .count = 1, .step = 1, .worker = -1};
  const Request single{.op = Op::kReplicate, .count = 1, .step = 1, .worker = 0};
  Request assigned = sum;
  assigned.flags = Request::kAssigned;
  for (const ShardOptions& options : {Bsp(2), Ssp(1), Asp()}) {
    const Job job(options);
    const bool bsp = options.consistency == Consistency::kBsp;
    EXPECT_EQ(job.shard->CheckReplay(sum).ok(), bsp);
    EXPECT_EQ(job.shard->CheckReplay(single).ok(), !bsp);
    EXPECT_TRUE(job.shard->CheckReplay(assigned).ok());
  }
}

// Shards may admit a newcomer at different steps: it must not wait for itself at the one behind.
TEST(ShardTest, ANewcomerSaysWhereItStands) {
  Job job(Ssp(1));
  job.Assign(0);
  ASSERT_TRUE(job.shard->Admit(0).ok());
  EXPECT_EQ(*job.shard->Admit(1), 0);
  ASSERT_EQ(job.PushAll(0, 1, 1), Shard::Taken::kTaken);
  ASSERT_EQ(job.PushAll(0, 2, 1), Shard::Taken::kTaken);
  EXPECT_FALSE(job.shard->Readable(0, 2));
  job.shard->Announce(1, 2);
  EXPECT_TRUE(job.shard->Readable(0, 2));
  EXPECT_TRUE(job.shard->Check(1, job.Push(3)).ok());
  EXPECT_TRUE(absl::IsAlreadyExists(job.shard->Check(1, job.Push(2))));
  // Only a newcomer may.
  job.shard->Announce(0, 9);
  EXPECT_EQ(job.shard->clock().Of(0), 2);
}

// A worker that joined just before the primary died is no newcomer, though the replica has not
// heard of it.
TEST(ShardTest, APromotedReplicaTakesAWorkersWordForItsStep) {
  Job job(Asp());
  job.Assign(0);
  for (int64_t step = 1; step <= 6; ++step) {
    job.Repeat(
        {.op = Op::kReplicate, .flags = Request::kEndOfStep, .count = 1, .step = step, .worker = 0},
        std::vector<float>(64, 1.0f));
  }
  job.shard->Promote();
  EXPECT_EQ(*job.shard->Admit(0, 2), 6);
  EXPECT_EQ(*job.shard->Admit(1, 0), 0);
  EXPECT_TRUE(job.shard->Check(1, job.Push(1)).ok());
  EXPECT_EQ(*job.shard->Admit(2), 0);
}

// Under BSP a worker's push that others' have not followed is in no replica: it is pushed again.
TEST(ShardTest, AReplicaCountsAStepOnlyWhenAllHavePushedIt) {
  Job primary(Bsp(2)), replica(Bsp(2));
  primary.shard->set_observer([&](const Request& change, std::span<const float> values) {
    replica.Repeat(change, values);
  });
  primary.Assign(0);
  for (int w = 0; w < 2; ++w) ASSERT_TRUE(primary.shard->Admit(w).ok());
  ASSERT_EQ(primary.PushAll(0, 1, 1), Shard::Taken::kTaken);
  EXPECT_EQ(replica.shard->clock().Of(0), 0);
  ASSERT_EQ(primary.PushAll(1, 1, 1), Shard::Taken::kTaken);
  EXPECT_EQ(replica.shard->clock().Min(), 1);
  // All slices of step 2 are summed and applied, but worker 1 has not ended the step; worker 0 is
  // in step 3 when the primary dies.
  ASSERT_EQ(primary.PushAll(0, 2, 1), Shard::Taken::kTaken);
  for (uint32_t i = 0; i < primary.Slices(); ++i) primary.PushSlice(1, 2, i, 1);
  EXPECT_EQ(replica.parameters, primary.parameters);
  EXPECT_EQ(replica.shard->clock().Min(), 1);
  replica.shard->Promote();
  for (int w = 0; w < 2; ++w) EXPECT_EQ(*replica.shard->Admit(w), 1);
  EXPECT_EQ(replica.PushAll(0, 3, 1), Shard::Taken::kTaken);
  replica.shard->EndStep(1, 2);
  EXPECT_EQ(replica.PushAll(1, 3, 1), Shard::Taken::kTaken);
  EXPECT_EQ(replica.parameters[0], -6);
  EXPECT_EQ(replica.shard->clock().Min(), 3);
}

}  // namespace
}  // namespace gradwire::ps
