// A primary and its replica: what was acknowledged survives, and a lost replica stops nobody.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>

#include "parameter_server/protocol.h"
#include "parameter_server/shard_thread.h"
#include "tests/unit/parameter_server/fake_replica.h"
#include "tests/unit/parameter_server/shard_thread_fixture.h"
#include "tests/unit/parameter_server/test_worker.h"

namespace gradwire::ps {
namespace {

using std::chrono::milliseconds;

TEST_P(ShardThreadTest, TheReplicaHasWhatWasAcknowledged) {
  for (const ShardOptions& options :
       {ShardOptions{.consistency = Consistency::kAsp},
        ShardOptions{.consistency = Consistency::kBsp, .workers = 1}}) {
    auto primary = Start(options);
    const auto replica = Start(options, /*replica=*/true);
    const auto request = primary->PrepareReplica("the replica", Soon());
    ASSERT_TRUE(request.ok()) << request.status();
    const auto reply = replica->Connect(*request, "the primary", Soon());
    ASSERT_TRUE(reply.ok()) << reply.status();
    ASSERT_TRUE(primary->AttachReplica(*reply, Soon()).ok());

    TestWorker worker(GetParam(), 0, placement_);
    ASSERT_TRUE(worker.Connect(*primary).ok());
    {
      TestWorker early(GetParam(), 1, placement_);
      EXPECT_TRUE(absl::IsUnavailable(early.Connect(*replica).status()));
    }
    ASSERT_TRUE(Assign(worker, 5).ok());
    std::ranges::fill(worker.gradients(), 1.0f);
    int64_t step = 0;
    for (; step < 20; ++step) {
      ASSERT_TRUE(worker.Do(step % 2 == 0 ? Op::kPush : Op::kPushPull, step + 1).ok());
    }
    // What was acknowledged is at the replica when the primary dies.
    primary.reset();
    worker.Disconnect();
    worker.failure = absl::OkStatus();
    ASSERT_TRUE(replica->Promote().ok());
    const auto clock = worker.Connect(*replica);
    ASSERT_TRUE(clock.ok()) << clock.status();
    EXPECT_EQ(*clock, step);
    ASSERT_TRUE(worker.Do(Op::kPull, step).ok());
    EXPECT_TRUE(std::ranges::all_of(worker.parameters(), [](float v) { return v == -15; }));
    ASSERT_TRUE(worker.Do(Op::kPushPull, step + 1).ok());
    EXPECT_EQ(worker.parameters()[499], -16);
    // It is nobody's replica any more.
    auto late = Start(options);
    const auto again = late->PrepareReplica("the replica", Soon());
    ASSERT_TRUE(again.ok());
    EXPECT_TRUE(
        absl::IsFailedPrecondition(replica->Connect(*again, "the old primary", Soon()).status()));
  }
}

TEST_P(ShardThreadTest, ALostReplicaHoldsNobodyUp) {
  auto primary = Start({.consistency = Consistency::kAsp});
  auto replica = Start({.consistency = Consistency::kAsp}, /*replica=*/true);
  const auto request = primary->PrepareReplica("the replica", Soon());
  ASSERT_TRUE(request.ok());
  const auto reply = replica->Connect(*request, "the primary", Soon());
  ASSERT_TRUE(reply.ok());
  ASSERT_TRUE(primary->AttachReplica(*reply, Soon()).ok());
  TestWorker worker(GetParam(), 0, placement_);
  ASSERT_TRUE(worker.Connect(*primary).ok());
  ASSERT_TRUE(Assign(worker, 0).ok());
  replica.reset();
  worker.Ask(Op::kPush, 1);
  primary->DetachReplica("its server was lost");
  ASSERT_TRUE(worker.Wait(2));
  EXPECT_TRUE(worker.replies.back().status().ok());
  EXPECT_TRUE(Eventually(*primary,
                         [](const ShardStatus& s) { return s.role == "primary, not replicated"; }));
}

TEST_P(ShardThreadTest, OneAnswerOfAReplicaStandsForAllBefore) {
  auto primary = Start({.consistency = Consistency::kAsp});
  FakeReplica replica(GetParam(), *primary);
  TestWorker worker(GetParam(), 0, placement_);
  ASSERT_TRUE(worker.Connect(*primary).ok());
  const auto slices = static_cast<uint32_t>(placement_.slices(0).size());
  ASSERT_GT(slices, 1u);
  worker.Ask(Op::kAssign, 0, 0);
  const Deadline deadline = Soon();
  while (replica.requests < slices && Clock::now() < deadline) {
    replica.Take();
    EXPECT_FALSE(worker.Wait(1, Clock::now() + milliseconds(5)));
  }
  ASSERT_EQ(replica.requests, slices);
  EXPECT_FALSE(worker.Wait(1, Clock::now() + milliseconds(50)));
  replica.Acknowledge(slices);
  EXPECT_TRUE(worker.Wait(1));
  // It was not given up: a push waits for it again.
  worker.Ask(Op::kPush, 1);
  EXPECT_FALSE(worker.Wait(2, Clock::now() + milliseconds(200)));
}

TEST_P(ShardThreadTest, AReplicaThatAcknowledgesWhatItWasNotSentIsGivenUp) {
  auto primary = Start({.consistency = Consistency::kAsp});
  FakeReplica replica(GetParam(), *primary);
  TestWorker worker(GetParam(), 0, placement_);
  ASSERT_TRUE(worker.Connect(*primary).ok());
  worker.Ask(Op::kAssign, 0, 0);
  replica.Acknowledge(1000);
  EXPECT_TRUE(worker.Wait(1));
  EXPECT_TRUE(Eventually(*primary,
                         [](const ShardStatus& s) { return s.role == "primary, not replicated"; }));
}

}  // namespace
}  // namespace gradwire::ps
