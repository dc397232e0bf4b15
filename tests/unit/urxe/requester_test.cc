// The requester against a peer that acknowledges, loses, refuses or keeps silent (IBTA vol.
// 1, 9.7.5).
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "tests/unit/urxe/protocol_fixture.h"
#include "tests/unit/urxe/wire_support.h"

namespace urxe {
namespace {

using RequesterTest = ProtocolTest;

TEST_F(RequesterTest, CutsAtTheMtuAndCompletesWhenAcknowledged) {
  const auto random = RandomBytes(memory_.size(), 1);
  std::copy(random.begin(), random.end(), memory_.begin());
  ASSERT_EQ(PostSend(IBV_WR_RDMA_WRITE_WITH_IMM, 0, 2 * kMtu + 5, 7), 0);
  const Operation kinds[] = {Operation::kWriteFirst, Operation::kWriteMiddle,
                             Operation::kWriteLastImm};
  std::vector<std::byte> bytes;
  for (uint32_t i = 0; i < 3; ++i) {
    const auto heard = peer_.Hear();
    ASSERT_TRUE(heard.has_value());
    EXPECT_EQ(heard->header.operation, kinds[i]);
    EXPECT_EQ(heard->header.psn, 1000 + i);
    if (i == 0) {
      EXPECT_EQ(heard->header.address, 0x5000u);
      EXPECT_EQ(heard->header.rkey, 0x77u);
      EXPECT_EQ(heard->header.dma_length, 2 * kMtu + 5);
    }
    if (i == 2) {
      EXPECT_TRUE(heard->header.ack_request);
      EXPECT_EQ(heard->header.immediate, (std::array<uint8_t, 4>{0xA1, 0xB2, 0xC3, 0xD4}));
    }
    bytes.insert(bytes.end(), heard->payload.begin(), heard->payload.end());
  }
  EXPECT_EQ(bytes.size(), 2 * kMtu + 5);
  EXPECT_TRUE(MemoryIs(0, bytes));
  EXPECT_FALSE(Complete(0).has_value());
  peer_.Send(Ack(kAckNoCredits, 1001));
  EXPECT_FALSE(Complete(1).has_value());
  peer_.Send(Ack(kAckNoCredits, 1002));
  const auto wc = Complete();
  ASSERT_TRUE(wc.has_value());
  EXPECT_EQ(wc->status, IBV_WC_SUCCESS);
  EXPECT_EQ(wc->opcode, IBV_WC_RDMA_WRITE);
  EXPECT_EQ(wc->wr_id, 7u);
}

TEST_F(RequesterTest, OneAckCompletesSeveralAndSkipsTheUnsignaled) {
  ASSERT_EQ(PostSend(IBV_WR_RDMA_WRITE, 0, 8, 1), 0);
  ASSERT_EQ(PostSend(IBV_WR_RDMA_WRITE, 0, 8, 2, 0), 0);
  ASSERT_EQ(PostSend(IBV_WR_SEND, 0, 8, 3), 0);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(peer_.Hear().has_value());
  peer_.Send(Ack(kAckNoCredits, 1002));
  for (const uint64_t id : {1, 3}) {
    const auto wc = Complete();
    ASSERT_TRUE(wc.has_value());
    EXPECT_EQ(wc->wr_id, id);
    EXPECT_EQ(wc->status, IBV_WC_SUCCESS);
  }
  EXPECT_FALSE(Complete(5).has_value());
}

TEST_F(RequesterTest, GoesBackToWhatANakNames) {
  ASSERT_EQ(PostSend(IBV_WR_RDMA_WRITE, 0, 4 * kMtu), 0);
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(peer_.Hear().has_value());
  peer_.Send(Ack(kNakSequence, 1002));
  const auto first = peer_.HearFrom(1002);
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(first->header.psn, 1002u);
  EXPECT_EQ(first->header.operation, Operation::kWriteMiddle);
  const auto second = peer_.HearFrom(1003);
  ASSERT_TRUE(second.has_value());
  EXPECT_EQ(second->header.psn, 1003u);
  peer_.Send(Ack(kAckNoCredits, 1003));
  const auto wc = Complete();
  ASSERT_TRUE(wc.has_value());
  EXPECT_EQ(wc->status, IBV_WC_SUCCESS);
}

TEST_F(RequesterTest, GivesUpAfterItsRetriesAndFlushesTheRest) {
  Choice choice;
  choice.timeout = 8;  // 1.05 ms
  choice.retries = 3;
  Reconnect(choice);
  const auto before = Counters();
  ASSERT_EQ(PostSend(IBV_WR_RDMA_WRITE, 0, 8, 1), 0);
  ASSERT_EQ(PostSend(IBV_WR_RDMA_WRITE, 0, 8, 2, 0), 0);
  const auto failed = Complete();
  ASSERT_TRUE(failed.has_value());
  EXPECT_EQ(failed->wr_id, 1u);
  EXPECT_EQ(failed->status, IBV_WC_RETRY_EXC_ERR);
  const auto flushed = Complete();
  ASSERT_TRUE(flushed.has_value());
  EXPECT_EQ(flushed->wr_id, 2u);
  EXPECT_EQ(flushed->status, IBV_WC_WR_FLUSH_ERR);
  EXPECT_EQ(State(), IBV_QPS_ERR);
  EXPECT_EQ(Counters().timeouts, before.timeouts + 4);  // the first try and three more
  ASSERT_EQ(PostSend(IBV_WR_RDMA_WRITE, 0, 8, 3), 0);
  const auto late = Complete();
  ASSERT_TRUE(late.has_value());
  EXPECT_EQ(late->status, IBV_WC_WR_FLUSH_ERR);
}

TEST_F(RequesterTest, WaitsAsLongAsTheReceiverSays) {
  const uint64_t probes = Counters().probes;
  ASSERT_EQ(PostSend(IBV_WR_SEND, 0, 8), 0);
  ASSERT_TRUE(peer_.Hear().has_value());
  const uint64_t start = TestClock();
  peer_.Send(Ack(kRnrNak | 21, 1000));  // 15.36 ms
  // Before the NAK is taken, the packet may be sent early again.
  uint64_t before = 0;
  auto again = peer_.Hear();
  for (; again.has_value() && TestClock() - start < 15'000'000; again = peer_.Hear()) ++before;
  ASSERT_TRUE(again.has_value());
  EXPECT_EQ(again->header.psn, 1000u);
  EXPECT_LE(before, Counters().probes - probes);
  peer_.Send(Ack(kAckNoCredits, 1000));
  const auto wc = Complete();
  ASSERT_TRUE(wc.has_value());
  EXPECT_EQ(wc->status, IBV_WC_SUCCESS);
}

TEST_F(RequesterTest, GivesUpOnAReceiverThatIsNeverReady) {
  Choice choice;
  choice.rnr_retries = 2;
  Reconnect(choice);
  ASSERT_EQ(PostSend(IBV_WR_SEND, 0, 8), 0);
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(peer_.Hear().has_value()) << i;
    peer_.Send(Ack(kRnrNak | 1, 1000));
  }
  const auto wc = Complete();
  ASSERT_TRUE(wc.has_value());
  EXPECT_EQ(wc->status, IBV_WC_RNR_RETRY_EXC_ERR);
}

TEST_F(RequesterTest, TranslatesRefusals) {
  const std::pair<uint8_t, ibv_wc_status> cases[] = {
      {kNakInvalidRequest, IBV_WC_REM_INV_REQ_ERR},
      {kNakRemoteAccess, IBV_WC_REM_ACCESS_ERR},
      {kNakRemoteOperation, IBV_WC_REM_OP_ERR},
  };
  for (const auto& [syndrome, status] : cases) {
    Reconnect(Choice());
    ASSERT_EQ(PostSend(IBV_WR_RDMA_WRITE, 0, 8), 0);
    ASSERT_TRUE(peer_.Hear().has_value());
    peer_.Send(Ack(syndrome, 1000));
    const auto wc = Complete();
    ASSERT_TRUE(wc.has_value());
    EXPECT_EQ(wc->status, status);
    EXPECT_EQ(State(), IBV_QPS_ERR);
  }
}

TEST_F(RequesterTest, AsksAgainForTheResponsesThatAreMissing) {
  ASSERT_EQ(PostSend(IBV_WR_RDMA_READ, 0, 3 * kMtu, 9), 0);
  const auto asked = peer_.Hear();
  ASSERT_TRUE(asked.has_value());
  EXPECT_EQ(asked->header.operation, Operation::kReadRequest);
  EXPECT_EQ(asked->header.dma_length, 3 * kMtu);
  const auto bytes = RandomBytes(3 * kMtu, 20);
  const auto respond = [&](Operation operation, uint32_t packet) {
    Header header = Ack(kAckNoCredits, 1000 + packet);
    header.operation = operation;
    const auto begin = bytes.begin() + packet * kMtu;
    peer_.Send(header, {begin, begin + kMtu});
  };
  usleep(2000);  // beyond the pause between two such requests
  respond(Operation::kReadResponseFirst, 0);
  respond(Operation::kReadResponseLast, 2);
  const auto again = peer_.Hear();
  ASSERT_TRUE(again.has_value());
  EXPECT_EQ(again->header.operation, Operation::kReadRequest);
  EXPECT_EQ(again->header.psn, 1001u);
  EXPECT_EQ(again->header.address, 0x5000u + kMtu);
  EXPECT_EQ(again->header.dma_length, 2 * kMtu);
  respond(Operation::kReadResponseFirst, 1);
  respond(Operation::kReadResponseLast, 2);
  const auto wc = Complete();
  ASSERT_TRUE(wc.has_value());
  EXPECT_EQ(wc->status, IBV_WC_SUCCESS);
  EXPECT_EQ(wc->opcode, IBV_WC_RDMA_READ);
  EXPECT_TRUE(MemoryIs(0, bytes));
}

TEST_F(RequesterTest, AFenceWaitsForReadsAndAnAtomicBringsItsOriginal) {
  ASSERT_EQ(PostSend(IBV_WR_ATOMIC_FETCH_AND_ADD, 16, 8, 1), 0);
  ASSERT_EQ(PostSend(IBV_WR_SEND, 0, 8, 2, IBV_SEND_SIGNALED | IBV_SEND_FENCE), 0);
  const auto atomic = peer_.Hear();
  ASSERT_TRUE(atomic.has_value());
  EXPECT_EQ(atomic->header.operation, Operation::kFetchAdd);
  EXPECT_EQ(atomic->header.swap_or_add, 5u);
  EXPECT_TRUE(peer_.HearsNothing());
  Header response = Ack(kAckNoCredits, 1000);
  response.operation = Operation::kAtomicAcknowledge;
  response.original = 0x0102030405060708;
  peer_.Send(response);
  const auto send = peer_.Hear();
  ASSERT_TRUE(send.has_value());
  EXPECT_EQ(send->header.operation, Operation::kSendOnly);
  uint64_t original;
  std::memcpy(&original, &memory_[16], 8);
  EXPECT_EQ(original, 0x0102030405060708u);
}

TEST_F(RequesterTest, BelievesNoAckForWhatItDidNotSend) {
  ASSERT_EQ(PostSend(IBV_WR_RDMA_WRITE, 0, 8), 0);
  ASSERT_TRUE(peer_.Hear().has_value());
  peer_.Send(Ack(kAckNoCredits, 1001));
  peer_.Send(Ack(kAckNoCredits, 1000 + (1 << 22)));
  peer_.Send(Ack(kNakRemoteAccess, 1500));
  peer_.Send(Ack(kAckNoCredits, 999));
  EXPECT_FALSE(Complete(kSilence).has_value());
  peer_.Send(Ack(kAckNoCredits, 1000));
  EXPECT_TRUE(Complete().has_value());
}

TEST_F(RequesterTest, LocalMemoryThatIsNotRegisteredFailsInItsTurn) {
  ASSERT_EQ(PostSend(IBV_WR_RDMA_WRITE, 0, 8, 1), 0);
  ibv_sge sge = {AddressOf(0), 8, mr_->lkey ^ 0x100};
  ibv_send_wr wr = {};
  wr.wr_id = 2;
  wr.sg_list = &sge;
  wr.num_sge = 1;
  wr.opcode = IBV_WR_RDMA_WRITE;
  ibv_send_wr* bad;
  ASSERT_EQ(ibv_post_send(qp_, &wr, &bad), 0);
  EXPECT_FALSE(Complete(kSilence).has_value());
  peer_.Send(Ack(kAckNoCredits, 1000));
  auto wc = Complete();
  ASSERT_TRUE(wc.has_value());
  EXPECT_EQ(wc->status, IBV_WC_SUCCESS);
  wc = Complete();
  ASSERT_TRUE(wc.has_value());
  EXPECT_EQ(wc->wr_id, 2u);
  EXPECT_EQ(wc->status, IBV_WC_LOC_PROT_ERR);
}

}  // namespace
}  // namespace urxe
