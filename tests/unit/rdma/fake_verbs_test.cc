// The fabric that other tests rely on, driven through the verbs objects.
#include "tests/support/fake_verbs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <thread>
#include <vector>

#include "tests/unit/rdma/fake_pair.h"

namespace gradwire::rdma {
namespace {

using test::GetFakeCounters;

class FakeVerbsTest : public testing::Test {
 protected:
  FakeVerbsTest() { test::ResetFakeVerbs(); }
  ~FakeVerbsTest() override { EXPECT_EQ(GetFakeCounters().alive.total(), 0); }
};

void Fill(End& end, int value) {
  std::fill(end.memory.begin(), end.memory.end(), static_cast<std::byte>(value));
}

std::vector<ibv_wc_status> Statuses(const std::vector<ibv_wc>& completions) {
  std::vector<ibv_wc_status> result;
  for (const ibv_wc& completion : completions) result.push_back(completion.status);
  return result;
}

TEST_F(FakeVerbsTest, WriteWithImmediateBringsBytesAndNotice) {
  Pair pair;
  pair.Connect();
  Fill(pair.a, 7);
  ASSERT_EQ(pair.b.PostReceive(40), 0);
  ASSERT_EQ(pair.a.Post(pair.b, IBV_WR_RDMA_WRITE_WITH_IMM, 1, 8), 0);
  EXPECT_EQ(pair.b.memory[7], std::byte{7});
  EXPECT_EQ(pair.b.memory[8], std::byte{0});
  const auto arrived = pair.b.Poll();
  ASSERT_EQ(arrived.size(), 1u);
  EXPECT_EQ(arrived[0].wr_id, 40u);
  EXPECT_EQ(arrived[0].opcode, IBV_WC_RECV_RDMA_WITH_IMM);
  EXPECT_EQ(arrived[0].byte_len, 8u);
  EXPECT_EQ(arrived[0].imm_data, 0x01020304u);
  EXPECT_EQ(arrived[0].qp_num, pair.b.queue_pair.number());
  const auto written = pair.a.Poll();
  ASSERT_EQ(written.size(), 1u);
  EXPECT_EQ(written[0].opcode, IBV_WC_RDMA_WRITE);
  // A plain write gives no notice.
  ASSERT_EQ(pair.a.Post(pair.b, IBV_WR_RDMA_WRITE, 2, 16), 0);
  EXPECT_EQ(pair.b.memory[15], std::byte{7});
  EXPECT_TRUE(pair.b.Poll().empty());
}

TEST_F(FakeVerbsTest, SendsReadsAndAdds) {
  Pair pair;
  pair.Connect();
  Fill(pair.a, 3);
  ASSERT_EQ(pair.b.PostReceive(1), 0);
  ASSERT_EQ(pair.a.Post(pair.b, IBV_WR_SEND, 2, 5), 0);
  const auto arrived = pair.b.Poll();
  ASSERT_EQ(arrived.size(), 1u);
  EXPECT_EQ(arrived[0].opcode, IBV_WC_RECV);
  EXPECT_EQ(arrived[0].byte_len, 5u);
  EXPECT_EQ(pair.b.memory[4], std::byte{3});
  Fill(pair.b, 9);
  ASSERT_EQ(pair.a.Post(pair.b, IBV_WR_RDMA_READ, 3, 64), 0);
  EXPECT_EQ(pair.a.memory[63], std::byte{9});
  uint64_t counter = 100;
  std::memcpy(pair.b.memory.data(), &counter, sizeof(counter));
  ASSERT_EQ(pair.a.Post(pair.b, IBV_WR_ATOMIC_FETCH_AND_ADD, 4, 8), 0);
  std::memcpy(&counter, pair.a.memory.data(), sizeof(counter));
  EXPECT_EQ(counter, 100u);
  std::memcpy(&counter, pair.b.memory.data(), sizeof(counter));
  EXPECT_EQ(counter, 105u);
}

TEST_F(FakeVerbsTest, SlotsComeBackOnlyWithPolledCompletions) {
  Pair pair;
  pair.Connect();
  for (int i = 0; i < 3; ++i) ASSERT_EQ(pair.a.Post(pair.b, IBV_WR_RDMA_WRITE, 0, 8, 0), 0);
  ASSERT_EQ(pair.a.Post(pair.b, IBV_WR_RDMA_WRITE, 9, 8), 0);
  // All four were delivered; none was polled.
  EXPECT_EQ(pair.a.Post(pair.b, IBV_WR_RDMA_WRITE, 0, 8, 0), ENOMEM);
  EXPECT_EQ(pair.a.Poll().size(), 1u);  // one completion gives four slots
  for (int i = 0; i < 4; ++i) ASSERT_EQ(pair.a.Post(pair.b, IBV_WR_RDMA_WRITE, 0, 8, 0), 0);
  // Without a signaled one the queue never drains.
  EXPECT_TRUE(pair.a.Poll().empty());
  EXPECT_EQ(pair.a.Post(pair.b, IBV_WR_RDMA_WRITE, 0, 8, 0), ENOMEM);
  EXPECT_EQ(GetFakeCounters().requests, 8u);
  EXPECT_EQ(GetFakeCounters().signaled, 1u);
}

TEST_F(FakeVerbsTest, AChainStopsAtTheRequestThatFails) {
  Pair pair;
  pair.Connect();
  ibv_sge piece{reinterpret_cast<uint64_t>(pair.a.memory.data()), 8, pair.a.region.local_key()};
  std::array<ibv_send_wr, 3> chain = {};
  for (size_t i = 0; i < chain.size(); ++i) {
    chain[i].wr_id = i;
    chain[i].next = i + 1 < chain.size() ? &chain[i + 1] : nullptr;
    chain[i].sg_list = &piece;
    chain[i].num_sge = 1;
    chain[i].opcode = IBV_WR_RDMA_WRITE;
    chain[i].send_flags = IBV_SEND_SIGNALED;
    chain[i].wr.rdma.remote_addr = reinterpret_cast<uint64_t>(pair.b.memory.data());
    chain[i].wr.rdma.rkey = pair.b.region.remote_key();
  }
  test::FailNext("ibv_post_send", EAGAIN, /*after=*/1);
  ibv_send_wr* bad = nullptr;
  EXPECT_EQ(pair.a.queue_pair.PostSend(chain.data(), &bad), EAGAIN);
  EXPECT_EQ(bad, &chain[1]);
  EXPECT_EQ(pair.a.Poll().size(), 1u);
  EXPECT_EQ(pair.a.queue_pair.PostSend(bad, &bad), 0);
  EXPECT_EQ(GetFakeCounters().doorbells, 2u);
  EXPECT_EQ(GetFakeCounters().requests, 3u);
}

TEST_F(FakeVerbsTest, ReceiverNotReadyWaitsOrFails) {
  Pair patient;
  patient.Connect();
  ASSERT_EQ(patient.a.Post(patient.b, IBV_WR_RDMA_WRITE_WITH_IMM, 1), 0);
  EXPECT_TRUE(patient.a.Poll().empty());
  EXPECT_EQ(GetFakeCounters().not_ready, 1u);
  ASSERT_EQ(patient.b.PostReceive(1), 0);
  EXPECT_EQ(patient.b.Poll().size(), 1u);
  EXPECT_EQ(patient.a.Poll().size(), 1u);

  Pair hasty;
  hasty.Connect({.rnr_retries = 0});
  ASSERT_EQ(hasty.a.Post(hasty.b, IBV_WR_RDMA_WRITE_WITH_IMM, 1, 8, 0), 0);
  EXPECT_THAT(Statuses(hasty.a.Poll()), testing::ElementsAre(IBV_WC_RNR_RETRY_EXC_ERR));
  EXPECT_EQ(hasty.a.queue_pair.QueryState().value(), IBV_QPS_ERR);
}

TEST_F(FakeVerbsTest, SharedReceivesServeTheirQueuePairs) {
  Pair pair({.shared = true});
  pair.Connect();
  ASSERT_EQ(pair.a.Post(pair.b, IBV_WR_RDMA_WRITE_WITH_IMM, 1), 0);
  EXPECT_TRUE(pair.b.Poll().empty());
  ASSERT_EQ(pair.b.PostReceive(77), 0);
  EXPECT_EQ(pair.b.Poll().at(0).wr_id, 77u);
  // In error the shared receives stay where they are.
  ASSERT_EQ(pair.b.PostReceive(78), 0);
  test::BreakQueuePair(pair.b.queue_pair.number());
  EXPECT_TRUE(pair.b.Poll().empty());
  EXPECT_EQ(pair.b.device.NextAsyncEvent().value()->type, IBV_EVENT_QP_LAST_WQE_REACHED);
}

TEST_F(FakeVerbsTest, RemoteAccessIsCheckedAndEndsBothEnds) {
  struct Row {
    const char* name;
    uint64_t shift;
    uint32_t key_change;
    uint32_t length;
  };
  for (const Row& row :
       {Row{"one byte beyond", 57, 0, 8}, Row{"wrong key", 0, 1000, 8},
        Row{"before the region", static_cast<uint64_t>(-1), 0, 8}, Row{"longer", 0, 0, 64 + 1}}) {
    Pair pair({.bytes = 64});
    pair.Connect();
    std::vector<std::byte> large(128);
    MemoryRegion source = Must(pair.a.domain.Register(large, IBV_ACCESS_LOCAL_WRITE));
    ASSERT_EQ(pair.b.PostReceive(5), 0);
    ibv_sge piece{reinterpret_cast<uint64_t>(large.data()), row.length, source.local_key()};
    ibv_send_wr work = {};
    work.sg_list = &piece;
    work.num_sge = 1;
    work.opcode = IBV_WR_RDMA_WRITE_WITH_IMM;
    work.wr.rdma.remote_addr = reinterpret_cast<uint64_t>(pair.b.memory.data()) + row.shift;
    work.wr.rdma.rkey = pair.b.region.remote_key() + row.key_change;
    ibv_send_wr* bad = nullptr;
    ASSERT_EQ(pair.a.queue_pair.PostSend(&work, &bad), 0);
    EXPECT_THAT(Statuses(pair.a.Poll()), testing::ElementsAre(IBV_WC_REM_ACCESS_ERR)) << row.name;
    EXPECT_THAT(Statuses(pair.b.Poll()), testing::ElementsAre(IBV_WC_WR_FLUSH_ERR)) << row.name;
    EXPECT_EQ(pair.b.queue_pair.QueryState().value(), IBV_QPS_ERR);
    EXPECT_EQ(pair.b.device.NextAsyncEvent().value()->type, IBV_EVENT_QP_ACCESS_ERR);
  }
  // A region without the remote right.
  Pair pair({.access = IBV_ACCESS_LOCAL_WRITE});
  pair.Connect();
  ASSERT_EQ(pair.a.Post(pair.b, IBV_WR_RDMA_WRITE, 1), 0);
  EXPECT_THAT(Statuses(pair.a.Poll()), testing::ElementsAre(IBV_WC_REM_ACCESS_ERR));
}

TEST_F(FakeVerbsTest, UnregisteredSourcesAreFound) {
  Pair pair;
  pair.Connect();
  std::byte elsewhere[8] = {};
  ibv_sge piece{reinterpret_cast<uint64_t>(elsewhere), 8, pair.a.region.local_key()};
  ibv_send_wr work = {};
  work.sg_list = &piece;
  work.num_sge = 1;
  work.opcode = IBV_WR_RDMA_WRITE;
  work.wr.rdma.remote_addr = reinterpret_cast<uint64_t>(pair.b.memory.data());
  work.wr.rdma.rkey = pair.b.region.remote_key();
  ibv_send_wr* bad = nullptr;
  // Inline needs no registration: the bytes are copied by the post.
  work.send_flags = IBV_SEND_INLINE | IBV_SEND_SIGNALED;
  ASSERT_EQ(pair.a.queue_pair.PostSend(&work, &bad), 0);
  EXPECT_THAT(Statuses(pair.a.Poll()), testing::ElementsAre(IBV_WC_SUCCESS));
  work.send_flags = 0;
  ASSERT_EQ(pair.a.queue_pair.PostSend(&work, &bad), 0);
  EXPECT_THAT(Statuses(pair.a.Poll()), testing::ElementsAre(IBV_WC_LOC_PROT_ERR));
  EXPECT_EQ(GetFakeCounters().inlined, 1u);
}

TEST_F(FakeVerbsTest, ABrokenQueuePairFlushesAndItsPeerFindsOut) {
  Pair pair;
  pair.Connect();
  ASSERT_EQ(pair.b.PostReceive(1), 0);
  ASSERT_EQ(pair.b.PostReceive(2), 0);
  test::CompleteNext(IBV_WC_RETRY_EXC_ERR, /*after=*/1);
  test::Hold();
  for (int i = 0; i < 4; ++i) {
    ASSERT_EQ(pair.a.Post(pair.b, IBV_WR_RDMA_WRITE, static_cast<uint64_t>(i), 8, 0), 0);
  }
  test::Release();
  // The first was unsignaled and worked; errors complete whether signaled or not.
  const auto failed = pair.a.Poll();
  EXPECT_THAT(Statuses(failed),
              testing::ElementsAre(IBV_WC_RETRY_EXC_ERR, IBV_WC_WR_FLUSH_ERR, IBV_WC_WR_FLUSH_ERR));
  EXPECT_EQ(failed[0].wr_id, 1u);
  EXPECT_NE(failed[0].byte_len, 8u);                        // not to be relied on
  ASSERT_EQ(pair.a.Post(pair.b, IBV_WR_RDMA_WRITE, 9), 0);  // accepted, and flushed
  EXPECT_THAT(Statuses(pair.a.Poll()), testing::ElementsAre(IBV_WC_WR_FLUSH_ERR));
  EXPECT_TRUE(pair.b.Poll().empty());
  ASSERT_EQ(pair.b.Post(pair.a, IBV_WR_RDMA_WRITE, 3), 0);
  EXPECT_THAT(Statuses(pair.b.Poll()),
              testing::ElementsAre(IBV_WC_RETRY_EXC_ERR, IBV_WC_WR_FLUSH_ERR, IBV_WC_WR_FLUSH_ERR));
}

TEST_F(FakeVerbsTest, EndsThatWereConnectedDifferentlyDoNotMeet) {
  Pair pair;
  const PortChoice port = FakePortChoice();
  ASSERT_TRUE(Initialize(pair.a.queue_pair, port, {}).ok());
  ASSERT_TRUE(Initialize(pair.b.queue_pair, port, {}).ok());
  const QueuePairEndpoint a = Must(LocalEndpoint(pair.a.queue_pair, port, {}));
  const QueuePairEndpoint b = Must(LocalEndpoint(pair.b.queue_pair, port, {}));
  ASSERT_TRUE(Connect(pair.a.queue_pair, port, a, b, {}, "b").ok());
  // Until the other is ready to receive, requests wait.
  ASSERT_EQ(pair.a.Post(pair.b, IBV_WR_RDMA_WRITE, 1), 0);
  EXPECT_TRUE(pair.a.Poll().empty());
  QueuePairEndpoint wrong = a;
  wrong.psn ^= 1;
  ASSERT_TRUE(Connect(pair.b.queue_pair, port, b, wrong, {}, "a").ok());
  EXPECT_THAT(Statuses(pair.a.Poll()), testing::ElementsAre(IBV_WC_RETRY_EXC_ERR));
}

TEST_F(FakeVerbsTest, AnOverrunCompletionQueueEndsItsQueuePairs) {
  Pair pair({.entries = 2});
  pair.Connect();
  for (int i = 0; i < 3; ++i) ASSERT_EQ(pair.a.Post(pair.b, IBV_WR_RDMA_WRITE, 1), 0);
  EXPECT_EQ(GetFakeCounters().overruns, 1u);
  EXPECT_EQ(pair.a.queue_pair.QueryState().value(), IBV_QPS_ERR);
  EXPECT_EQ(pair.a.device.NextAsyncEvent().value()->type, IBV_EVENT_CQ_ERR);
  EXPECT_EQ(pair.a.Poll().size(), 2u);
  std::array<ibv_wc, 1> completion;
  EXPECT_FALSE(pair.a.queue.Poll(completion).ok());
}

TEST_F(FakeVerbsTest, AnArmedQueueWakesOnce) {
  Pair pair({.with_channel = true});
  pair.Connect();
  const auto readable = [&] {
    pollfd entry{pair.a.queue.fd(), POLLIN, 0};
    return poll(&entry, 1, 0) == 1;
  };
  ASSERT_EQ(pair.a.Post(pair.b, IBV_WR_RDMA_WRITE, 1), 0);
  EXPECT_FALSE(readable());  // not armed
  ASSERT_TRUE(pair.a.queue.Arm().ok());
  EXPECT_FALSE(readable());  // what came before raises nothing
  ASSERT_EQ(pair.a.Post(pair.b, IBV_WR_RDMA_WRITE, 2), 0);
  ASSERT_EQ(pair.a.Post(pair.b, IBV_WR_RDMA_WRITE, 3), 0);
  EXPECT_TRUE(readable());
  EXPECT_EQ(pair.a.queue.TakeEvents().value(), 1);
  EXPECT_FALSE(readable());
  EXPECT_EQ(GetFakeCounters().events, 1u);
}

TEST_F(FakeVerbsTest, ThreadsMeetWithoutARace) {
  constexpr int kWrites = 2000;
  Pair pair({.entries = 256, .send_depth = 16, .receive_depth = 64, .with_channel = true});
  pair.Connect();
  for (uint64_t i = 0; i < 16; ++i) ASSERT_EQ(pair.b.PostReceive(i), 0);
  std::thread receiver([&] {
    int arrived = 0;
    while (arrived < kWrites) {
      ASSERT_TRUE(pair.b.queue.Arm().ok());
      auto completions = pair.b.Poll();
      if (completions.empty()) {
        pollfd entry{pair.b.queue.fd(), POLLIN, 0};
        ASSERT_EQ(poll(&entry, 1, 10'000), 1);
        ASSERT_TRUE(pair.b.queue.TakeEvents().ok());
        completions = pair.b.Poll();
      }
      for (const ibv_wc& completion : completions) {
        ASSERT_EQ(completion.status, IBV_WC_SUCCESS);
        ASSERT_EQ(pair.b.PostReceive(0), 0);
        ++arrived;
      }
    }
  });
  int done = 0;
  for (int posted = 0; posted < kWrites || done < kWrites / 8;) {
    if (posted < kWrites) {
      const bool signaled = posted % 8 == 7;
      const int error =
          pair.a.Post(pair.b, IBV_WR_RDMA_WRITE_WITH_IMM, 0, 8, signaled ? IBV_SEND_SIGNALED : 0);
      if (error == 0) ++posted;
      ASSERT_TRUE(error == 0 || error == ENOMEM);
    }
    for (const ibv_wc& completion : pair.a.Poll()) {
      ASSERT_EQ(completion.status, IBV_WC_SUCCESS);
      ++done;
    }
  }
  receiver.join();
  EXPECT_EQ(GetFakeCounters().delivered_bytes, 8u * kWrites);
}

}  // namespace
}  // namespace gradwire::rdma
