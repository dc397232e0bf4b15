#include "transport/urxe/engine/completion_queue.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>

#include <bit>
#include <cerrno>
#include <thread>

#include "transport/urxe/verbs/context.h"

namespace urxe {
namespace {

bool Readable(int fd, int milliseconds = 0) {
  pollfd entry = {fd, POLLIN, 0};
  return poll(&entry, 1, milliseconds) == 1;
}

Completion Numbered(uint64_t wr_id, bool solicited = false, ibv_wc_status status = IBV_WC_SUCCESS) {
  Completion completion;
  completion.wc.wr_id = wr_id;
  completion.wc.status = status;
  completion.solicited = solicited;
  return completion;
}

// A queue of 7 entries with a channel, of a context that has no engine.
class CompletionQueueTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_GE(context_.events.Open(), 0);
    channel_.fd = channel_.events.Open();
    ASSERT_GE(channel_.fd, 0);
    fcntl(channel_.fd, F_SETFL, O_NONBLOCK);
    cq_.context = &context_.context;
    cq_.channel = &channel_;
    cq_.ring.resize(8);
    cq_.cqe = 7;
  }
  // Takes an event from the channel; whether there was one.
  bool Event() {
    CompletionQueue* from = nullptr;
    const int error = channel_.events.Take([&](CompletionQueue* queue) { from = queue; });
    EXPECT_EQ(error, from == nullptr ? EAGAIN : 0);
    EXPECT_TRUE(from == nullptr || from == &cq_);
    return from != nullptr;
  }
  Context context_ = {};
  CompletionChannel channel_ = {};
  CompletionQueue cq_ = {};
};

TEST_F(CompletionQueueTest, TakesInOrderRoundAndRound) {
  Completion taken[8];
  EXPECT_EQ(Take(cq_, 8, taken), 0);
  for (uint64_t round = 0; round < 100; ++round) {
    for (uint64_t i = 0; i < 5; ++i) Push(cq_, Numbered(round * 5 + i));
    EXPECT_EQ(Take(cq_, 2, taken), 2);
    EXPECT_EQ(taken[0].wc.wr_id, round * 5);
    EXPECT_EQ(Take(cq_, 8, taken), 3);
    EXPECT_EQ(taken[2].wc.wr_id, round * 5 + 4);
  }
}

TEST_F(CompletionQueueTest, AnOverrunIsReportedOnceAndForAll) {
  for (uint64_t i = 0; i < 9; ++i) Push(cq_, Numbered(i));
  ibv_async_event event = {};
  int events = 0;
  while (Readable(context_.events.fd())) {
    ASSERT_EQ(context_.events.Take([&](const ibv_async_event& taken) { event = taken; }), 0);
    ++events;
  }
  EXPECT_EQ(events, 1);
  EXPECT_EQ(event.event_type, IBV_EVENT_CQ_ERR);
  EXPECT_EQ(event.element.cq, ibv_cq_ex_to_cq(&cq_));
  Completion taken[8];
  EXPECT_EQ(Take(cq_, 8, taken), 7);
  EXPECT_EQ(taken[6].wc.wr_id, 6u);
  EXPECT_EQ(Take(cq_, 8, taken), -1);
}

TEST_F(CompletionQueueTest, ArmingFiresForTheNextCompletionOnly) {
  Push(cq_, Numbered(1));
  EXPECT_FALSE(Event()) << "nobody asked";
  Arm(cq_, false);
  EXPECT_FALSE(Event()) << "what waited before is not new";
  Push(cq_, Numbered(2));
  EXPECT_TRUE(Event());
  Push(cq_, Numbered(3));
  EXPECT_FALSE(Event()) << "one event for one arming";
  Arm(cq_, false);
  Arm(cq_, false);
  Push(cq_, Numbered(4));
  Push(cq_, Numbered(5));
  EXPECT_TRUE(Event());
  EXPECT_FALSE(Event());
}

TEST_F(CompletionQueueTest, SolicitedArmingWaitsForSolicitedAndErrors) {
  Arm(cq_, true);
  Push(cq_, Numbered(1));
  EXPECT_FALSE(Event());
  Push(cq_, Numbered(2, true));
  EXPECT_TRUE(Event());
  Arm(cq_, true);
  Push(cq_, Numbered(3, false, IBV_WC_WR_FLUSH_ERR));
  EXPECT_TRUE(Event());
  // The weaker request does not take the stronger one back.
  Arm(cq_, false);
  Arm(cq_, true);
  Push(cq_, Numbered(4));
  EXPECT_TRUE(Event());
}

TEST_F(CompletionQueueTest, ModerationHoldsBackUntilEnoughCame) {
  cq_.moderation_count = 3;
  cq_.moderation_period = 60000;
  Arm(cq_, false);
  Push(cq_, Numbered(1));
  Push(cq_, Numbered(2));
  EXPECT_FALSE(Event());
  Push(cq_, Numbered(3));
  EXPECT_TRUE(Event());
  EXPECT_EQ(FireModerated(UINT64_MAX - 1), UINT64_MAX) << "nothing is held back any more";
  EXPECT_FALSE(Event());
}

TEST_F(CompletionQueueTest, ModerationFiresAfterItsPeriod) {
  cq_.moderation_count = 100;
  cq_.moderation_period = 50;
  const uint64_t before = Now();
  Arm(cq_, false);
  Push(cq_, Numbered(1));
  const uint64_t due = FireModerated(before);
  EXPECT_GE(due, before + 50000);
  EXPECT_FALSE(Event());
  EXPECT_EQ(FireModerated(due), UINT64_MAX);
  EXPECT_TRUE(Event());
  // A queue that goes away is not fired.
  Arm(cq_, false);
  Push(cq_, Numbered(2));
  ForgetModerated(cq_);
  EXPECT_EQ(FireModerated(UINT64_MAX - 1), UINT64_MAX);
  EXPECT_FALSE(Event());
}

TEST_F(CompletionQueueTest, ForgetsOneQueuePairsCompletions) {
  for (uint32_t i = 0; i < 6; ++i) {
    Completion completion = Numbered(i);
    completion.wc.qp_num = i % 2;
    Push(cq_, completion);
  }
  Forget(cq_, 0);
  Completion taken[8];
  ASSERT_EQ(Take(cq_, 8, taken), 3);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(taken[i].wc.wr_id, static_cast<uint64_t>(2 * i + 1));
  EXPECT_EQ(cq_.waiting, 0u);
}

TEST_F(CompletionQueueTest, PushersAndTakersLoseNothing) {
  cq_.channel = nullptr;
  cq_.ring.resize(1 << 15);
  cq_.cqe = (1 << 15) - 1;
  constexpr uint64_t kEach = 10000;
  std::atomic<uint64_t> count{0};
  std::atomic<uint64_t> sum{0};
  const auto take = [&] {
    Completion taken[16];
    while (count < 2 * kEach) {
      const int n = Take(cq_, 16, taken);
      for (int i = 0; i < n; ++i) sum += taken[i].wc.wr_id;
      count += static_cast<uint64_t>(std::max(n, 0));
    }
  };
  const auto push = [&] {
    for (uint64_t i = 1; i <= kEach; ++i) Push(cq_, Numbered(i));
  };
  std::thread threads[] = {std::thread(take), std::thread(take), std::thread(push),
                           std::thread(push)};
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(sum, kEach * (kEach + 1));
  EXPECT_FALSE(cq_.overrun);
}

TEST(EventQueueTest, TakeBlocksUntilAnEventCame) {
  EventQueue<int> events;
  ASSERT_GE(events.Open(), 0);
  int taken = 0;
  std::thread taker([&] { EXPECT_EQ(events.Take([&](int event) { taken = event; }), 0); });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  events.Push(5);
  taker.join();
  EXPECT_EQ(taken, 5);
}

TEST(EventQueueTest, ASignalEndsTheWait) {
  EventQueue<int> events;
  ASSERT_GE(events.Open(), 0);
  struct sigaction action = {};
  action.sa_handler = [](int) {};
  struct sigaction before = {};
  sigaction(SIGUSR1, &action, &before);
  std::atomic<bool> done{false};
  std::thread taker([&] {
    EXPECT_EQ(events.Take([](int) {}), EINTR);
    done = true;
  });
  // It may not have begun to wait when the first one comes.
  for (int i = 0; i < 500 && !done; ++i) {
    pthread_kill(taker.native_handle(), SIGUSR1);
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  if (!done) events.Push(0);
  taker.join();
  sigaction(SIGUSR1, &before, nullptr);
}

TEST(EventQueueTest, RemovedEventsAreNotReadable) {
  EventQueue<int> events;
  const int fd = events.Open();
  ASSERT_GE(fd, 0);
  uint32_t taken = 4;
  for (const int event : {1, 2, 1}) events.Push(event);
  EXPECT_EQ(events.Remove([](int event) { return event == 1; }, taken), 4u);
  EXPECT_TRUE(Readable(fd));
  EXPECT_EQ(events.Take([](int event) { EXPECT_EQ(event, 2); }), 0);
  EXPECT_FALSE(Readable(fd));
}

}  // namespace
}  // namespace urxe
