// What reaches the device on the way to a connection, and what a peer cannot make it do.
#include "transport/rdma/connection.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <set>

#include "tests/support/fake_verbs.h"
#include "tests/unit/rdma/fake_pair.h"

namespace gradwire::rdma {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class ConnectionTest : public testing::Test {
 protected:
  ConnectionTest() { test::ResetFakeVerbs(); }
  ~ConnectionTest() override { EXPECT_EQ(test::GetFakeCounters().alive.total(), 0); }

  static QueuePairEndpoint Good() {
    QueuePairEndpoint endpoint;
    endpoint.qp_number = 0x1234;
    endpoint.psn = 0xabcdef;
    endpoint.gid = FakePortChoice().gid.gid;
    endpoint.path_mtu = 1024;
    return endpoint;
  }
};

TEST_F(ConnectionTest, DrawsItsSequenceNumbers) {
  std::set<uint32_t> seen;
  for (int i = 0; i < 64; ++i) {
    const uint32_t psn = RandomPsn().value();
    EXPECT_LT(psn, 1u << 24);
    seen.insert(psn);
  }
  EXPECT_GT(seen.size(), 60u);  // 64 draws of 2^24: two alike are a chance of 1 in 8000
}

TEST_F(ConnectionTest, RefusesForgedEndpoints) {
  const PortChoice port = FakePortChoice();
  EXPECT_TRUE(CheckEndpoint(Good(), port, "rank 3").ok());
  const auto refused = [&](auto change) {
    QueuePairEndpoint endpoint = Good();
    change(endpoint);
    const absl::Status status = CheckEndpoint(endpoint, port, "rank 3");
    EXPECT_THAT(Message(status), HasSubstr("rank 3"));
    return status.code();
  };
  constexpr auto kForged = absl::StatusCode::kDataLoss;
  EXPECT_EQ(refused([](auto& e) { e.qp_number = 0; }), kForged);
  EXPECT_EQ(refused([](auto& e) { e.qp_number = 1; }), kForged);
  EXPECT_EQ(refused([](auto& e) { e.qp_number = 1 << 24; }), kForged);
  EXPECT_EQ(refused([](auto& e) { e.psn = 1 << 24; }), kForged);
  for (const uint32_t mtu : {0u, 1u, 128u, 1023u, 8192u, 0xffffffffu}) {
    EXPECT_EQ(refused([&](auto& e) { e.path_mtu = mtu; }), kForged) << mtu;
  }
  EXPECT_EQ(refused([](auto& e) { e.gid = {}; }), kForged);
  EXPECT_EQ(refused([](auto& e) { e.gid[0] = 0xff; }), kForged);  // multicast
  EXPECT_EQ(refused([](auto& e) { e.gid = {0xfe, 0x80}; }), absl::StatusCode::kFailedPrecondition);

  PortChoice infiniband = port;
  infiniband.ethernet = false;
  QueuePairEndpoint endpoint = Good();
  EXPECT_EQ(CheckEndpoint(endpoint, infiniband, "rank 3").code(), kForged);  // no LID
  endpoint.lid = 0xc000;
  EXPECT_EQ(CheckEndpoint(endpoint, infiniband, "rank 3").code(), kForged);  // multicast
  endpoint.lid = 12;
  EXPECT_TRUE(CheckEndpoint(endpoint, infiniband, "rank 3").ok());
}

TEST_F(ConnectionTest, AForgedEndpointNeverReachesTheDevice) {
  Pair pair;
  const PortChoice port = FakePortChoice();
  ASSERT_TRUE(Initialize(pair.a.queue_pair, port, {}).ok());
  QueuePairEndpoint theirs = Good();
  theirs.psn = 1 << 24;
  EXPECT_FALSE(Connect(pair.a.queue_pair, port, Good(), theirs, {}, "rank 1").ok());
  EXPECT_EQ(pair.a.queue_pair.QueryState().value(), IBV_QPS_INIT);
}

TEST_F(ConnectionTest, PassesOnWhatIsAsked) {
  Pair pair;
  const PortChoice port = FakePortChoice();
  Settings settings;
  settings.ib_timeout = 10;
  settings.ib_retries = 3;
  settings.rnr_retries = 2;
  settings.traffic_class = 104;
  settings.path_mtu = 2048;
  const ConnectionOptions options = ConnectionOptions::From(settings);
  ASSERT_TRUE(Initialize(pair.a.queue_pair, port, options).ok());
  const QueuePairEndpoint mine = Must(LocalEndpoint(pair.a.queue_pair, port, options));
  EXPECT_EQ(mine.qp_number, pair.a.queue_pair.number());
  EXPECT_EQ(mine.path_mtu, 2048u);
  EXPECT_EQ(mine.gid, port.gid.gid);
  ASSERT_TRUE(Connect(pair.a.queue_pair, port, mine, Good(), options, "rank 1").ok());

  ibv_qp_attr now = {};
  ibv_qp_init_attr initial = {};
  ASSERT_EQ(ibv_query_qp(pair.a.queue_pair.get(), &now, IBV_QP_STATE, &initial), 0);
  EXPECT_EQ(now.qp_state, IBV_QPS_RTS);
  EXPECT_EQ(now.path_mtu, IBV_MTU_1024);  // the smaller one: the peer's
  EXPECT_EQ(now.dest_qp_num, 0x1234u);
  EXPECT_EQ(now.rq_psn, 0xabcdefu);
  EXPECT_EQ(now.sq_psn, mine.psn);
  EXPECT_EQ(now.timeout, 10);
  EXPECT_EQ(now.retry_cnt, 3);
  EXPECT_EQ(now.rnr_retry, 2);
  EXPECT_EQ(now.qp_access_flags, static_cast<unsigned int>(IBV_ACCESS_REMOTE_WRITE));
  EXPECT_EQ(now.ah_attr.is_global, 1);
  EXPECT_EQ(now.ah_attr.grh.sgid_index, 1);
  EXPECT_EQ(now.ah_attr.grh.traffic_class, 104);
  EXPECT_EQ(initial.sq_sig_all, 0);
}

TEST_F(ConnectionTest, RefusesAPathMtuThatThePortLacks) {
  Pair pair;
  PortChoice port = FakePortChoice();
  port.mtu = 1024;
  ConnectionOptions options;
  options.path_mtu = 4096;
  EXPECT_THAT(Message(LocalEndpoint(pair.a.queue_pair, port, options).status()),
              AllOf(HasSubstr("--path-mtu 4096"), HasSubstr("1024"), HasSubstr("fake0")));
  options.path_mtu = 1000;
  EXPECT_FALSE(LocalEndpoint(pair.a.queue_pair, port, options).ok());
}

TEST_F(ConnectionTest, EachFailingStepSaysWhichAndWhy) {
  const PortChoice port = FakePortChoice();
  Pair pair;
  test::FailNext("ibv_modify_qp", EINVAL);
  EXPECT_THAT(Message(Initialize(pair.a.queue_pair, port, {})),
              AllOf(HasSubstr("to INIT on fake0 port 1"), HasSubstr("port")));
  ASSERT_TRUE(Initialize(pair.a.queue_pair, port, {}).ok());
  const QueuePairEndpoint mine = Must(LocalEndpoint(pair.a.queue_pair, port, {}));
  test::FailNext("ibv_modify_qp", ETIMEDOUT);
  EXPECT_THAT(Message(Connect(pair.a.queue_pair, port, mine, Good(), {}, "rank 1")),
              AllOf(HasSubstr("to RTR towards rank 1 at 10.0.0.1"), HasSubstr("ping")));
  // An index that the port does not have is refused by the device itself.
  PortChoice elsewhere = port;
  elsewhere.gid.index = 9;
  EXPECT_THAT(Message(Connect(pair.a.queue_pair, elsewhere, mine, Good(), {}, "rank 1")),
              HasSubstr("--gid-index"));
  test::FailNext("ibv_modify_qp", EINVAL, /*after=*/1);
  EXPECT_THAT(Message(Connect(pair.a.queue_pair, port, mine, Good(), {}, "rank 1")),
              AllOf(HasSubstr("to RTS towards rank 1"), HasSubstr("--ib-timeout")));
  EXPECT_EQ(pair.a.queue_pair.QueryState().value(), IBV_QPS_RTR);
}

TEST_F(ConnectionTest, StatesCannotBeSkipped) {
  Pair pair;
  const PortChoice port = FakePortChoice();
  const QueuePairEndpoint mine = Must(LocalEndpoint(pair.a.queue_pair, port, {}));
  EXPECT_FALSE(Connect(pair.a.queue_pair, port, mine, Good(), {}, "rank 1").ok());
  EXPECT_EQ(pair.a.PostReceive(1), EINVAL);  // not before INIT
  ASSERT_TRUE(Initialize(pair.a.queue_pair, port, {}).ok());
  EXPECT_EQ(pair.a.PostReceive(1), 0);
  EXPECT_EQ(pair.a.Post(pair.b, IBV_WR_RDMA_WRITE, 1), EINVAL);  // not before RTS
  ASSERT_TRUE(Connect(pair.a.queue_pair, port, mine, Good(), {}, "rank 1").ok());
  EXPECT_EQ(pair.a.Post(pair.b, IBV_WR_RDMA_WRITE, 1), 0);
}

}  // namespace
}  // namespace gradwire::rdma
