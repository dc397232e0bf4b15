// The responder against a peer that follows the rules, and one that does not (IBTA vol. 1, 9.7.4).
#include <arpa/inet.h>

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "tests/unit/urxe/protocol_fixture.h"
#include "tests/unit/urxe/wire_support.h"

namespace urxe {
namespace {

using ResponderTest = ProtocolTest;

std::vector<std::byte> Part(const std::vector<std::byte>& bytes, size_t offset, size_t length) {
  const auto begin = bytes.begin() + static_cast<std::ptrdiff_t>(offset);
  return {begin, begin + static_cast<std::ptrdiff_t>(length)};
}

TEST_F(ResponderTest, PlacesAWriteOfSeveralPackets) {
  const auto bytes = RandomBytes(2 * kMtu + 101, 1);
  peer_.Send(WriteRequest(Operation::kWriteFirst, 1000, 64, bytes.size()), Part(bytes, 0, kMtu));
  peer_.ExpectAck(kAckNoCredits, 1000);
  peer_.Send(Request(Operation::kWriteMiddle, 1001), Part(bytes, kMtu, kMtu));
  peer_.ExpectAck(kAckNoCredits, 1001);
  peer_.Send(Request(Operation::kWriteLast, 1002), Part(bytes, 2 * kMtu, 101));
  const auto last = peer_.Hear();
  ASSERT_TRUE(last.has_value());
  EXPECT_EQ(last->header.psn, 1002u);
  EXPECT_EQ(last->header.msn, 1u);  // one message is done
  EXPECT_TRUE(MemoryIs(64, bytes));
  EXPECT_EQ(memory_[63], std::byte{0});
  EXPECT_EQ(memory_[64 + bytes.size()], std::byte{0});
}

TEST_F(ResponderTest, AnswersAGapOnceAndGoesOnAtTheExpectedPacket) {
  const auto bytes = RandomBytes(64, 2);
  peer_.Send(WriteRequest(Operation::kWriteOnly, 1002, 0, 64), bytes);
  peer_.ExpectAck(kNakSequence, 1000);
  peer_.Send(WriteRequest(Operation::kWriteOnly, 1003, 0, 64), bytes);
  EXPECT_TRUE(peer_.HearsNothing());
  EXPECT_TRUE(MemoryIs(0, std::vector<std::byte>(64)));
  peer_.Send(WriteRequest(Operation::kWriteOnly, 1000, 0, 64), bytes);
  peer_.ExpectAck(kAckNoCredits, 1000);
  EXPECT_TRUE(MemoryIs(0, bytes));
}

TEST_F(ResponderTest, AcknowledgesADuplicateWithoutWritingAgain) {
  const auto bytes = RandomBytes(64, 3);
  peer_.Send(WriteRequest(Operation::kWriteOnly, 1000, 0, 64), bytes);
  peer_.ExpectAck(kAckNoCredits, 1000);
  peer_.Send(WriteRequest(Operation::kWriteOnly, 1000, 0, 64), RandomBytes(64, 4));
  peer_.ExpectAck(kAckNoCredits, 1000);
  EXPECT_TRUE(MemoryIs(0, bytes));
}

TEST_F(ResponderTest, SaysThatItIsNotReadyUntilAReceiveIsPosted) {
  Header send = Request(Operation::kSendOnlyImm, 1000);
  send.immediate = {1, 2, 3, 4};
  const auto bytes = RandomBytes(77, 5);
  peer_.Send(send, bytes);
  peer_.ExpectAck(kRnrNak | 12, 1000);
  ASSERT_EQ(PostReceive(128, 100, 42), 0);
  peer_.Send(send, bytes);
  peer_.ExpectAck(kAckNoCredits, 1000);
  const auto wc = Complete();
  ASSERT_TRUE(wc.has_value());
  EXPECT_EQ(wc->status, IBV_WC_SUCCESS);
  EXPECT_EQ(wc->opcode, IBV_WC_RECV);
  EXPECT_EQ(wc->wr_id, 42u);
  EXPECT_EQ(wc->byte_len, 77u);
  EXPECT_EQ(ntohl(wc->imm_data), 0x01020304u);
  EXPECT_TRUE(MemoryIs(128, bytes));
}

TEST_F(ResponderTest, HandsOverTheImmediateOfAnEmptyWriteWithAnyKey) {
  ASSERT_EQ(PostReceive(0, 8), 0);
  Header write = Request(Operation::kWriteOnlyImm, 1000);
  write.rkey = 0xDEAD;
  write.immediate = {9, 8, 7, 6};
  peer_.Send(write);
  peer_.ExpectAck(kAckNoCredits, 1000);
  const auto wc = Complete();
  ASSERT_TRUE(wc.has_value());
  EXPECT_EQ(wc->opcode, IBV_WC_RECV_RDMA_WITH_IMM);
  EXPECT_EQ(wc->byte_len, 0u);
  EXPECT_EQ(ntohl(wc->imm_data), 0x09080706u);
}

// Requests that must be refused before any byte is placed; then the queue pair is silent.
class RefusalTest : public ResponderTest {
 protected:
  void ExpectRefused(const Header& header, const std::vector<std::byte>& payload,
                     uint8_t syndrome) {
    ASSERT_EQ(PostReceive(0, 8, 5), 0);
    peer_.Send(header, payload);
    peer_.ExpectAck(syndrome, 1000);
    EXPECT_EQ(State(), IBV_QPS_ERR);
    const auto wc = Complete();
    ASSERT_TRUE(wc.has_value());
    EXPECT_EQ(wc->status, IBV_WC_WR_FLUSH_ERR);
    EXPECT_EQ(wc->wr_id, 5u);
    EXPECT_TRUE(MemoryIs(0, std::vector<std::byte>(memory_.size())));
    peer_.Send(WriteRequest(Operation::kWriteOnly, 1000, 0, 4), RandomBytes(4, 6));
    EXPECT_TRUE(peer_.HearsNothing());
    EXPECT_TRUE(MemoryIs(0, std::vector<std::byte>(memory_.size())));
  }
};

TEST_F(RefusalTest, AWrongKey) {
  Header write = WriteRequest(Operation::kWriteOnly, 1000, 0, 64);
  write.rkey ^= 0x100;
  ExpectRefused(write, RandomBytes(64, 7), kNakRemoteAccess);
}
TEST_F(RefusalTest, AnOutdatedKey) {
  Header write = WriteRequest(Operation::kWriteOnly, 1000, 0, 64);
  write.rkey ^= 0x01;
  ExpectRefused(write, RandomBytes(64, 7), kNakRemoteAccess);
}
TEST_F(RefusalTest, BytesBeyondTheRegion) {
  ExpectRefused(WriteRequest(Operation::kWriteFirst, 1000, memory_.size() - kMtu, kMtu + 1),
                RandomBytes(kMtu, 8), kNakRemoteAccess);
}
TEST_F(RefusalTest, BytesBeforeTheRegion) {
  Header write = WriteRequest(Operation::kWriteOnly, 1000, 0, 64);
  --write.address;
  ExpectRefused(write, RandomBytes(64, 8), kNakRemoteAccess);
}
TEST_F(RefusalTest, AnAddressThatWrapsAround) {
  Header write = WriteRequest(Operation::kWriteOnly, 1000, 0, 64);
  write.address = UINT64_MAX - 10;
  ExpectRefused(write, RandomBytes(64, 8), kNakRemoteAccess);
}
TEST_F(RefusalTest, AReadBeyondTheRegion) {
  ExpectRefused(WriteRequest(Operation::kReadRequest, 1000, 16, memory_.size()), {},
                kNakRemoteAccess);
}
TEST_F(RefusalTest, MoreBytesThanWereAnnounced) {
  ExpectRefused(WriteRequest(Operation::kWriteOnly, 1000, 0, 60), RandomBytes(64, 9),
                kNakInvalidRequest);
}
TEST_F(RefusalTest, AFirstPacketThatIsNotFull) {
  ExpectRefused(WriteRequest(Operation::kWriteFirst, 1000, 0, 2 * kMtu), RandomBytes(kMtu - 4, 10),
                kNakInvalidRequest);
}
TEST_F(RefusalTest, AMiddleWithoutAFirst) {
  ExpectRefused(Request(Operation::kWriteMiddle, 1000), RandomBytes(kMtu, 11), kNakInvalidRequest);
}
TEST_F(RefusalTest, AnAtomicThatIsNotAligned) {
  Header add = Request(Operation::kFetchAdd, 1000);
  add.address = AddressOf(4);
  add.rkey = mr_->rkey;
  ExpectRefused(add, {}, kNakInvalidRequest);
}

TEST_F(ResponderTest, RefusesWhatTheRegionDoesNotPermit) {
  ibv_mr* const local = ibv_reg_mr(pd_, memory_.data(), memory_.size(), IBV_ACCESS_LOCAL_WRITE);
  ASSERT_NE(local, nullptr);
  Header write = WriteRequest(Operation::kWriteOnly, 1000, 0, 8);
  write.rkey = local->rkey;
  peer_.Send(write, RandomBytes(8, 12));
  peer_.ExpectAck(kNakRemoteAccess, 1000);
  EXPECT_TRUE(MemoryIs(0, std::vector<std::byte>(8)));
  EXPECT_EQ(ibv_dereg_mr(local), 0);
}

TEST_F(ResponderTest, RefusesTheKeyOfAnotherProtectionDomain) {
  ibv_pd* const other = ibv_alloc_pd(context_);
  ibv_mr* const foreign = ibv_reg_mr(other, memory_.data(), memory_.size(),
                                     IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE);
  ASSERT_NE(foreign, nullptr);
  Header write = WriteRequest(Operation::kWriteOnly, 1000, 0, 8);
  write.rkey = foreign->rkey;
  peer_.Send(write, RandomBytes(8, 13));
  peer_.ExpectAck(kNakRemoteAccess, 1000);
  EXPECT_TRUE(MemoryIs(0, std::vector<std::byte>(8)));
  EXPECT_EQ(ibv_dereg_mr(foreign), 0);
  EXPECT_EQ(ibv_dealloc_pd(other), 0);
}

TEST_F(ResponderTest, ASendThatIsTooLongFailsBothSides) {
  ASSERT_EQ(PostReceive(0, 10, 3), 0);
  peer_.Send(Request(Operation::kSendOnly, 1000), RandomBytes(64, 14));
  peer_.ExpectAck(kNakInvalidRequest, 1000);
  const auto wc = Complete();
  ASSERT_TRUE(wc.has_value());
  EXPECT_EQ(wc->status, IBV_WC_LOC_LEN_ERR);
  EXPECT_EQ(State(), IBV_QPS_ERR);
}

TEST_F(ResponderTest, ReadsAgainForADuplicateAndOnlyWhatWasAsked) {
  const auto bytes = RandomBytes(2 * kMtu + 10, 15);
  std::copy(bytes.begin(), bytes.end(), memory_.begin());
  const Header read = WriteRequest(Operation::kReadRequest, 1000, 0, bytes.size());
  const Operation kinds[] = {Operation::kReadResponseFirst, Operation::kReadResponseMiddle,
                             Operation::kReadResponseLast};
  for (int round = 0; round < 2; ++round) {
    peer_.Send(read);
    for (uint32_t i = 0; i < 3; ++i) {
      const auto heard = peer_.Hear();
      ASSERT_TRUE(heard.has_value());
      EXPECT_EQ(heard->header.operation, kinds[i]);
      EXPECT_EQ(heard->header.psn, 1000 + i);
      EXPECT_EQ(heard->payload, Part(bytes, i * kMtu, i == 2 ? 10 : kMtu));
    }
  }
  // The second half alone, as a requester asks after a loss.
  peer_.Send(WriteRequest(Operation::kReadRequest, 1002, 2 * kMtu, 10));
  const auto rest = peer_.Hear();
  ASSERT_TRUE(rest.has_value());
  EXPECT_EQ(rest->header.operation, Operation::kReadResponseOnly);
  EXPECT_EQ(rest->payload, Part(bytes, 2 * kMtu, 10));
  // More than the READ had asked for is not answered.
  peer_.Send(WriteRequest(Operation::kReadRequest, 1000, 0, memory_.size()));
  EXPECT_TRUE(peer_.HearsNothing());
  EXPECT_EQ(State(), IBV_QPS_RTS);
}

TEST_F(ResponderTest, AddsOnceHoweverOftenItIsAsked) {
  uint64_t value = 40;
  std::memcpy(memory_.data(), &value, 8);
  Header add = Request(Operation::kFetchAdd, 1000);
  add.address = AddressOf(0);
  add.rkey = mr_->rkey;
  add.swap_or_add = 2;
  for (int round = 0; round < 3; ++round) {
    peer_.Send(add);
    const auto heard = peer_.Hear();
    ASSERT_TRUE(heard.has_value());
    EXPECT_EQ(heard->header.operation, Operation::kAtomicAcknowledge);
    EXPECT_EQ(heard->header.psn, 1000u);
    EXPECT_EQ(heard->header.original, 40u);
    std::memcpy(&value, memory_.data(), 8);
    EXPECT_EQ(value, 42u);
  }
}

TEST_F(ResponderTest, IsSilentToPacketsThatAreNotForIt) {
  const auto before = Counters();
  auto spoilt =
      ScriptedPeer::Make(WriteRequest(Operation::kWriteOnly, 1000, 0, 8), RandomBytes(8, 16));
  spoilt.back() ^= std::byte{1};
  peer_.SendRaw(spoilt);
  Header write = WriteRequest(Operation::kWriteOnly, 1000, 0, 8);
  write.pkey = 0x1234;
  peer_.Send(write, RandomBytes(8, 16));
  write.pkey = 0xFFFF;
  write.dest_qpn ^= 0x40;
  peer_.Send(write, RandomBytes(8, 16));
  write = WriteRequest(Operation::kWriteOnly, 1000, 0, 8);
  write.service = Service::kUc;
  peer_.Send(write, RandomBytes(8, 16));
  peer_.SendRaw(RandomBytes(3, 17));
  peer_.SendRaw(RandomBytes(200, 18));
  EXPECT_TRUE(peer_.HearsNothing());
  EXPECT_TRUE(MemoryIs(0, std::vector<std::byte>(8)));
  const auto after = Counters();
  EXPECT_GE(after.icrc_errors, before.icrc_errors + 1);
  EXPECT_EQ(after.unknown_queue_pairs, before.unknown_queue_pairs + 3);
  EXPECT_EQ(after.packets_received, before.packets_received);
  // And all is as before.
  peer_.Send(WriteRequest(Operation::kWriteOnly, 1000, 0, 8), RandomBytes(8, 16));
  peer_.ExpectAck(kAckNoCredits, 1000);
}

TEST_F(ResponderTest, CountsPastTheEndOfThePsnRing) {
  Choice choice;
  choice.psn = 0xFFFFFE;
  Reconnect(choice);
  for (uint32_t i = 0; i < 4; ++i) {
    const auto bytes = RandomBytes(8, i);
    peer_.Send(WriteRequest(Operation::kWriteOnly, 0xFFFFFE + i, 0, 8), bytes);
    peer_.ExpectAck(kAckNoCredits, 0xFFFFFE + i);
    EXPECT_TRUE(MemoryIs(0, bytes));
  }
}

}  // namespace
}  // namespace urxe
