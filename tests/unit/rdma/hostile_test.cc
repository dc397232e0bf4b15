// A peer that speaks verbs but lies: forged facts while a link is opened, forged immediates,
// lengths, places and keys once it stands.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <optional>
#include <thread>

#include "tests/support/fake_verbs.h"
#include "tests/support/links.h"
#include "tests/support/local_world.h"
#include "transport/rdma/transport.h"

namespace gradwire::rdma {
namespace {

using test::In;
using test::LinkSettings;
using test::LocalJob;
using ::testing::HasSubstr;

// Rank 0 of a job of two, played by the test with verbs of its own; rank 1 is the real transport.
class HostilePeer {
 public:
  // `forge` may change what the peer tells of itself.
  explicit HostilePeer(const std::function<void(ConnectionFacts&)>& forge = nullptr)
      : victim_world_(job_.Join(1)), own_world_(job_.Join(0)) {
    victim_ = *RdmaTransport::Create(*victim_world_, LinkSettings(), "test");
    device_ = *Device::Open("fake0");
    domain_ = *device_->AllocateProtectionDomain();
    completions_ = *device_->CreateCompletionQueue(64, false);
    QueuePairOptions options;
    options.completion_queue = &*completions_;
    options.send_depth = 16;
    options.receive_depth = 16;
    queue_pair_ = *domain_->CreateQueuePair(options);
    const PortChoice port = *ChoosePort(*ListPorts(), LinkSettings(), "");
    EXPECT_EQ(Initialize(*queue_pair_, port, {}), absl::OkStatus());
    memory_.resize(4 * 4096);
    region_ = *domain_->Register(memory_, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE);
    ConnectionFacts mine;
    mine.queue_pairs = {*LocalEndpoint(*queue_pair_, port, {})};
    mine.grants = {
        {reinterpret_cast<uint64_t>(memory_.data()), memory_.size(), region_->remote_key(), 0}};
    mine.window = LinkSettings().slots;
    mine.slot_bytes = LinkSettings().slice_bytes;
    mine.lanes = 1;
    const QueuePairEndpoint honest = mine.queue_pairs.front();
    if (forge) forge(mine);

    std::thread opening([this] { link_ = victim_->OpenLink(0, In(10'000)); });
    const auto facts =
        own_world_->ExchangeFacts("rdma/test/0-1", mine, {0, 1}, std::chrono::seconds(10));
    EXPECT_TRUE(facts.ok()) << facts.status();
    if (!forge) {
      slots_ = (*facts)[1].grants.front();
      EXPECT_EQ(Connect(*queue_pair_, port, honest, (*facts)[1].queue_pairs.front(), {}, "rank 1"),
                absl::OkStatus());
      EXPECT_TRUE(
          own_world_->AllGather("rdma/test/0-1/ready", "", {0, 1}, std::chrono::seconds(10)).ok());
    }
    opening.join();
  }

  const absl::StatusOr<Link*>& link() const { return link_; }
  const MemoryGrant& slots() const { return slots_; }

  // Posts one request as `forge` leaves it: an honest first write of 64 bytes to slot 0.
  void Post(const std::function<void(ibv_send_wr&)>& forge) {
    ibv_sge piece = {reinterpret_cast<uint64_t>(memory_.data()), 64, region_->local_key()};
    ibv_send_wr request = {};
    request.sg_list = &piece;
    request.num_sge = 1;
    request.opcode = IBV_WR_RDMA_WRITE_WITH_IMM;
    request.send_flags = IBV_SEND_SIGNALED;
    request.imm_data = Immediate::Unchecked(1, 0, 0).ToWire();
    request.wr.rdma.remote_addr = slots_.address;
    request.wr.rdma.rkey = slots_.key;
    forge(request);
    ibv_send_wr* bad = nullptr;
    EXPECT_EQ(queue_pair_->PostSend(&request, &bad), 0);
  }

  // How our request ended.
  ibv_wc_status Outcome() {
    ibv_wc completion[1] = {};
    EXPECT_EQ(*completions_->Poll(completion), 1);
    return completion[0].status;
  }

  // Why the victim closed the link, empty when it did not.
  std::string Punishment() {
    Completion completion[4];
    for (const Deadline deadline = In(2'000); Clock::now() < deadline;) {
      const auto count = victim_->Wait(completion, In(100));
      if (!count.ok() && !absl::IsDeadlineExceeded(count.status())) return Message(count.status());
      if (!(*link_)->status().ok()) return Message((*link_)->status());
      if (!count.ok()) return "";
    }
    return "";
  }

 private:
  LocalJob job_{2, false};
  std::unique_ptr<World> victim_world_;
  std::unique_ptr<World> own_world_;
  std::unique_ptr<RdmaTransport> victim_;
  absl::StatusOr<Link*> link_ = InternalError("not opened");
  std::vector<std::byte> memory_;
  std::optional<Device> device_;
  std::optional<ProtectionDomain> domain_;
  std::optional<CompletionQueue> completions_;
  std::optional<MemoryRegion> region_;
  std::optional<QueuePair> queue_pair_;
  MemoryGrant slots_;
};

class HostileTest : public ::testing::Test {
 protected:
  void SetUp() override { test::ResetFakeVerbs(); }
  void TearDown() override { EXPECT_EQ(test::GetFakeCounters().alive.total(), 0); }
};

TEST_F(HostileTest, HonestWriteIsTaken) {
  HostilePeer peer;
  ASSERT_TRUE(peer.link().ok()) << peer.link().status();
  peer.Post([](ibv_send_wr&) {});
  EXPECT_EQ(peer.Outcome(), IBV_WC_SUCCESS);
  EXPECT_EQ(peer.Punishment(), "");
}

TEST_F(HostileTest, ForgedFactsOpenNoLink) {
  struct Forgery {
    std::function<void(ConnectionFacts&)> forge;
    const char* message;
  };
  const Forgery forgeries[] = {
      {[](ConnectionFacts& f) { f.queue_pairs.clear(); }, "0 queue pairs"},
      {[](ConnectionFacts& f) { f.queue_pairs.push_back(f.queue_pairs[0]); }, "2 queue pairs"},
      {[](ConnectionFacts& f) { f.grants.clear(); }, "0 grants"},
      {[](ConnectionFacts& f) { f.grants[0].length = 1; }, "of slots"},
      {[](ConnectionFacts& f) { f.grants[0].length = ~uint64_t{0}; }, "of slots"},
      {[](ConnectionFacts& f) { f.window = 1 << 30; }, "--slots"},
      {[](ConnectionFacts& f) { f.queue_pairs[0].qp_number = 1 << 24; }, "rank 0"},
      {[](ConnectionFacts& f) { f.queue_pairs[0].psn = 1 << 24; }, "rank 0"},
      {[](ConnectionFacts& f) { f.queue_pairs[0].path_mtu = 1500; }, "rank 0"},
      {[](ConnectionFacts& f) { f.queue_pairs[0].gid = {}; }, "rank 0"},
  };
  for (const Forgery& forgery : forgeries) {
    HostilePeer peer(forgery.forge);
    EXPECT_FALSE(peer.link().ok()) << forgery.message;
    EXPECT_THAT(Message(peer.link().status()), HasSubstr(forgery.message));
  }
}

TEST_F(HostileTest, ForgedArrivalsEndTheLink) {
  struct Forgery {
    std::function<void(ibv_send_wr&)> forge;
    const char* message;
  };
  const auto immediate = [](uint32_t tag, uint64_t sequence, uint32_t credits) {
    return Immediate::Unchecked(tag, sequence, credits).ToWire();
  };
  const Forgery forgeries[] = {
      {[&](ibv_send_wr& r) { r.imm_data = immediate(1, 4, 0); }, "without a credit"},
      {[&](ibv_send_wr& r) { r.imm_data = immediate(1, 127, 0); }, "without a credit"},
      {[&](ibv_send_wr& r) { r.imm_data = immediate(1, 0, 1); }, "credits granted"},
      {[&](ibv_send_wr& r) { r.imm_data = Immediate::CreditsOnly(3).ToWire(); }, "credits granted"},
      {[&](ibv_send_wr& r) { r.imm_data = Immediate::CreditsOnly(0).ToWire(); },
       "credit message came with 64 bytes"},
      {[&](ibv_send_wr& r) { r.sg_list->length = 4097; }, "4096 is the most"},
  };
  for (const Forgery& forgery : forgeries) {
    HostilePeer peer;
    ASSERT_TRUE(peer.link().ok()) << peer.link().status();
    peer.Post(forgery.forge);
    const std::string reason = peer.Punishment();
    EXPECT_THAT(reason, HasSubstr(forgery.message));
    EXPECT_THAT(reason, HasSubstr("rank 0"));
  }
}

TEST_F(HostileTest, PlacesThatWereNotGrantedAreOutOfReach) {
  const auto refused = [](const std::function<void(ibv_send_wr&, const MemoryGrant&)>& forge) {
    HostilePeer peer;
    ASSERT_TRUE(peer.link().ok()) << peer.link().status();
    peer.Post([&](ibv_send_wr& request) { forge(request, peer.slots()); });
    EXPECT_EQ(peer.Outcome(), IBV_WC_REM_ACCESS_ERR);
  };
  refused([](ibv_send_wr& r, const MemoryGrant&) { r.wr.rdma.remote_addr -= 1; });
  refused(
      [](ibv_send_wr& r, const MemoryGrant& slots) { r.wr.rdma.remote_addr += slots.length - 63; });
  refused([](ibv_send_wr& r, const MemoryGrant&) { r.wr.rdma.remote_addr = ~uint64_t{0} - 8; });
  refused([](ibv_send_wr& r, const MemoryGrant&) { r.wr.rdma.rkey ^= 0x100; });
}

TEST_F(HostileTest, OtherVerbsEndTheLink) {
  HostilePeer peer;
  ASSERT_TRUE(peer.link().ok()) << peer.link().status();
  peer.Post([](ibv_send_wr& request) {
    request.opcode = IBV_WR_SEND;
    request.num_sge = 0;
  });
  EXPECT_THAT(peer.Punishment(), HasSubstr("something else than a write"));
}

TEST_F(HostileTest, ReadsOfOurMemoryAreRefused) {
  HostilePeer peer;
  ASSERT_TRUE(peer.link().ok()) << peer.link().status();
  peer.Post([](ibv_send_wr& request) { request.opcode = IBV_WR_RDMA_READ; });
  EXPECT_NE(peer.Outcome(), IBV_WC_SUCCESS);
}

}  // namespace
}  // namespace gradwire::rdma
