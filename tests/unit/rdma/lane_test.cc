// A lane's accounting: which requests are signaled, how many doorbells, what happens when the send
// queue is full or takes a chain only in part.
#include "transport/rdma/lane.h"

#include <gmock/gmock.h>

#include <cerrno>
#include <optional>
#include <vector>

#include "tests/support/fake_verbs.h"
#include "transport/rdma/connection.h"
#include "transport/rdma/interface.h"
#include "transport/rdma/verbs.h"

namespace gradwire::rdma {
namespace {

using test::GetFakeCounters;

// Two connected queue pairs; the first is driven by a lane, the second takes what comes.
class LaneTest : public ::testing::Test {
 protected:
  void SetUp() override {
    test::ResetFakeVerbs();
    device_ = *Device::Open("fake0");
    domain_ = *device_->AllocateProtectionDomain();
    completions_ = *device_->CreateCompletionQueue(4096, false);
    source_ = *domain_->Register(Bytes(bytes_), 0);
    target_ = *domain_->Register(Bytes(theirs_), IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE);
  }

  // Children before parents, and before the fake forgets them.
  void TearDown() override {
    lane_.reset();
    receives_.reset();
    peer_.reset();
    source_.reset();
    target_.reset();
    completions_.reset();
    domain_.reset();
    device_.reset();
    EXPECT_EQ(GetFakeCounters().alive.total(), 0);
  }

  void Connect(const LaneOptions& options) {
    QueuePairOptions wanted;
    wanted.completion_queue = &*completions_;
    wanted.send_depth = options.depth;
    wanted.receive_depth = 1024;
    wanted.inline_bytes = options.inline_bytes;
    QueuePair ours = *domain_->CreateQueuePair(wanted);
    peer_ = *domain_->CreateQueuePair(wanted);
    const PortChoice port = *ChoosePort(*ListPorts(), Settings(), "");
    const ConnectionOptions connection;
    for (QueuePair* made : {&ours, &*peer_}) {
      ASSERT_EQ(Initialize(*made, port, connection), absl::OkStatus());
    }
    const QueuePairEndpoint here = *LocalEndpoint(ours, port, connection);
    const QueuePairEndpoint there = *LocalEndpoint(*peer_, port, connection);
    ASSERT_EQ(rdma::Connect(ours, port, here, there, connection, "rank 1"), absl::OkStatus());
    ASSERT_EQ(rdma::Connect(*peer_, port, there, here, connection, "rank 0"), absl::OkStatus());
    receives_.emplace(&*peer_, nullptr, 64);
    ASSERT_EQ(receives_->Provide(1024), 0);
    lane_.emplace(std::move(ours), options);
  }

  int Enqueue(size_t length) {
    const RegionSpan from{bytes_.data(), length, source_->local_key()};
    const RemoteSpan to{reinterpret_cast<uint64_t>(theirs_.data()), target_->remote_key(), length};
    return lane_->Enqueue(from, to, Immediate::Unchecked(1, sequence_++, 0), true, counters_);
  }

  // Takes all completions: retires what the lane signaled, counts the peer's arrivals.
  int TakeCompletions() {
    std::vector<ibv_wc> batch(4096);
    const int count = *completions_->Poll(batch);
    int retired = 0;
    for (int i = 0; i < count; ++i) {
      const ibv_wc& completion = batch[static_cast<size_t>(i)];
      EXPECT_EQ(completion.status, IBV_WC_SUCCESS);
      if (Receives::Completed(completion)) {
        ++arrivals_;
      } else {
        EXPECT_TRUE(lane_->Retire(completion.wr_id));
        ++retired;
      }
    }
    return retired;
  }

  std::vector<std::byte> bytes_{4096};
  std::vector<std::byte> theirs_{4096};
  std::optional<Device> device_;
  std::optional<ProtectionDomain> domain_;
  std::optional<CompletionQueue> completions_;
  std::optional<MemoryRegion> source_;
  std::optional<MemoryRegion> target_;
  std::optional<QueuePair> peer_;
  std::optional<Receives> receives_;
  std::optional<Lane> lane_;
  TransportCounters counters_;
  uint64_t sequence_ = 0;
  int arrivals_ = 0;
};

TEST_F(LaneTest, OneInIntervalIsSignaledAndRetiresItsRun) {
  Connect({.depth = 64, .interval = 5, .chain = 1, .inline_bytes = 0, .waiting = 64});
  for (int i = 0; i < 12; ++i) ASSERT_EQ(Enqueue(100), 0);
  ASSERT_EQ(lane_->Post(counters_), 0);
  EXPECT_EQ(GetFakeCounters().requests, 12u);
  EXPECT_EQ(GetFakeCounters().signaled, 2u);
  EXPECT_EQ(lane_->oldest_unwritten(), 0u);
  EXPECT_EQ(TakeCompletions(), 2);
  EXPECT_EQ(arrivals_, 12);
  EXPECT_EQ(lane_->oldest_unwritten(), 10u);  // 0..9 were retired by the fifth and the tenth
  EXPECT_TRUE(lane_->idle());
}

TEST_F(LaneTest, ChainsSaveDoorbells) {
  for (const int chain : {1, 4, 16}) {
    TearDown();
    SetUp();
    counters_ = {};
    Connect({.depth = 64, .interval = 8, .chain = chain, .inline_bytes = 0, .waiting = 64});
    for (int i = 0; i < 32; ++i) ASSERT_EQ(Enqueue(64), 0);
    ASSERT_EQ(lane_->Post(counters_), 0);
    EXPECT_EQ(GetFakeCounters().doorbells, static_cast<uint64_t>(32 / chain));
    EXPECT_EQ(counters_.doorbells, static_cast<uint64_t>(32 / chain));
  }
}

TEST_F(LaneTest, FullQueueWaitsForACompletionAndDrains) {
  Connect({.depth = 8, .interval = 7, .chain = 4, .inline_bytes = 0, .waiting = 64});
  for (int i = 0; i < 40; ++i) ASSERT_EQ(Enqueue(64), 0);
  ASSERT_EQ(lane_->Post(counters_), 0);
  EXPECT_EQ(GetFakeCounters().requests, 8u);
  EXPECT_EQ(counters_.queue_full, 1u);
  EXPECT_TRUE(lane_->waiting());
  for (int round = 0; round < 40 && lane_->waiting(); ++round) {
    TakeCompletions();
    ASSERT_EQ(lane_->Post(counters_), 0);
  }
  EXPECT_FALSE(lane_->waiting());
  TakeCompletions();
  EXPECT_EQ(arrivals_, 40);
}

TEST_F(LaneTest, SettleMarksWhatWaitsAndFollowsWhatWent) {
  Connect({.depth = 16, .interval = 15, .chain = 8, .inline_bytes = 0, .waiting = 16});
  ASSERT_EQ(Enqueue(64), 0);
  ASSERT_EQ(Enqueue(64), 0);
  ASSERT_EQ(lane_->Settle(false, counters_), 0);
  ASSERT_EQ(lane_->Post(counters_), 0);
  EXPECT_EQ(GetFakeCounters().requests, 2u);  // nothing extra
  EXPECT_EQ(TakeCompletions(), 1);
  EXPECT_EQ(lane_->oldest_unwritten(), std::nullopt);

  ASSERT_EQ(Enqueue(64), 0);
  ASSERT_EQ(lane_->Post(counters_), 0);
  EXPECT_EQ(TakeCompletions(), 0);
  EXPECT_EQ(lane_->oldest_unwritten(), 2u);
  ASSERT_EQ(lane_->Settle(false, counters_), 0);
  EXPECT_EQ(GetFakeCounters().requests, 4u);  // a write of nothing behind it
  EXPECT_EQ(TakeCompletions(), 1);
  EXPECT_EQ(lane_->oldest_unwritten(), std::nullopt);
  EXPECT_EQ(arrivals_, 3);  // which the peer does not notice
  ASSERT_EQ(lane_->Settle(false, counters_), 0);
  EXPECT_EQ(GetFakeCounters().requests, 4u);  // all is settled
}

TEST_F(LaneTest, InlinedBytesMayChangeOncePosted) {
  Connect({.depth = 16, .interval = 15, .chain = 8, .inline_bytes = 128, .waiting = 16});
  ASSERT_EQ(Enqueue(128), 0);
  EXPECT_EQ(lane_->oldest_unwritten(), 0u);  // waits for its doorbell
  ASSERT_EQ(lane_->Post(counters_), 0);
  EXPECT_EQ(lane_->oldest_unwritten(), std::nullopt);
  EXPECT_EQ(GetFakeCounters().inlined, 1u);
  ASSERT_EQ(Enqueue(129), 0);
  ASSERT_EQ(lane_->Post(counters_), 0);
  EXPECT_EQ(GetFakeCounters().inlined, 1u);
  EXPECT_NE(lane_->oldest_unwritten(), std::nullopt);
}

TEST_F(LaneTest, ChainTakenInPartGoesOnWhereItStopped) {
  Connect({.depth = 16, .interval = 2, .chain = 8, .inline_bytes = 0, .waiting = 16});
  for (int i = 0; i < 8; ++i) ASSERT_EQ(Enqueue(64), 0);
  test::FailNext("ibv_post_send", ENOMEM, /*after=*/5);
  ASSERT_EQ(lane_->Post(counters_), 0);  // two of the five taken are signaled: one will complete
  EXPECT_EQ(GetFakeCounters().requests, 5u);
  EXPECT_TRUE(lane_->waiting());
  EXPECT_EQ(counters_.queue_full, 1u);
  EXPECT_EQ(TakeCompletions(), 2);
  ASSERT_EQ(lane_->Post(counters_), 0);
  EXPECT_EQ(TakeCompletions(), 2);
  EXPECT_EQ(arrivals_, 8);
  EXPECT_EQ(lane_->oldest_unwritten(), std::nullopt);
}

TEST_F(LaneTest, QueueThatTakesNothingAndCannotDrainIsAnError) {
  Connect({.depth = 16, .interval = 15, .chain = 8, .inline_bytes = 0, .waiting = 16});
  for (int i = 0; i < 4; ++i) ASSERT_EQ(Enqueue(64), 0);
  test::FailNext("ibv_post_send", ENOMEM, /*after=*/2);
  EXPECT_EQ(lane_->Post(counters_), ENOMEM);  // none of the two on the queue will complete
}

TEST_F(LaneTest, RejectedRequestIsAnError) {
  Connect({.depth = 16, .interval = 2, .chain = 8, .inline_bytes = 0, .waiting = 16});
  for (int i = 0; i < 4; ++i) ASSERT_EQ(Enqueue(64), 0);
  test::FailNext("ibv_post_send", EINVAL, /*after=*/3);
  EXPECT_EQ(lane_->Post(counters_), EINVAL);
}

TEST_F(LaneTest, CompletionsOfWhatWasNotPostedAreRefused) {
  Connect({.depth = 16, .interval = 2, .chain = 8, .inline_bytes = 0, .waiting = 16});
  EXPECT_FALSE(lane_->Retire(0));
  ASSERT_EQ(Enqueue(64), 0);
  ASSERT_EQ(Enqueue(64), 0);
  EXPECT_FALSE(lane_->Retire(1));  // not posted yet
  ASSERT_EQ(lane_->Post(counters_), 0);
  EXPECT_FALSE(lane_->Retire(0));  // not signaled
  EXPECT_FALSE(lane_->Retire(2));
  EXPECT_TRUE(lane_->Retire(1));
  EXPECT_FALSE(lane_->Retire(1));  // once
}

}  // namespace
}  // namespace gradwire::rdma
