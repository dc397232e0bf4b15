#include "tests/unit/urxe/protocol_fixture.h"

#include <arpa/inet.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "tests/unit/urxe/wire_support.h"

namespace urxe {

void ProtocolTest::SetUpTestSuite() {
  setenv("URXE_INTERFACES", "lo", 1);
  setenv("URXE_PATH", "udp", 1);
}

void ProtocolTest::Connect(const Choice& choice) {
  ASSERT_TRUE(peer_.bound()) << "127.0.0.2:4791 is taken";
  int count = 0;
  ibv_device** list = ibv_get_device_list(&count);
  for (int i = 0; i < count; ++i) {
    ibv_context* context = ibv_open_device(list[i]);
    if (context != nullptr && urxe_is_urxe(context)) {
      context_ = context;
      break;
    }
    if (context != nullptr) ibv_close_device(context);
  }
  ibv_free_device_list(list);
  ASSERT_NE(context_, nullptr);
  pd_ = ibv_alloc_pd(context_);
  cq_ = ibv_create_cq(context_, 256, nullptr, nullptr, 0);
  memory_.assign(1 << 16, std::byte{0});
  mr_ = ibv_reg_mr(pd_, memory_.data(), memory_.size(),
                   IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ |
                       IBV_ACCESS_REMOTE_ATOMIC);
  ASSERT_NE(mr_, nullptr);
  ibv_qp_init_attr init = {};
  init.send_cq = init.recv_cq = cq_;
  init.cap = {64, 64, 4, 4, 64};
  init.qp_type = IBV_QPT_RC;
  qp_ = ibv_create_qp(pd_, &init);
  ASSERT_NE(qp_, nullptr);
  ibv_qp_attr attr = {};
  attr.qp_state = IBV_QPS_INIT;
  attr.port_num = 1;
  attr.qp_access_flags =
      IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC;
  ASSERT_EQ(ibv_modify_qp(qp_, &attr,
                          IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS),
            0);
  attr.qp_state = IBV_QPS_RTR;
  attr.path_mtu = IBV_MTU_1024;
  attr.dest_qp_num = kPeerQpn;
  attr.rq_psn = choice.psn;
  attr.max_dest_rd_atomic = 4;
  attr.min_rnr_timer = choice.rnr_timer;
  attr.ah_attr.is_global = 1;
  attr.ah_attr.port_num = 1;
  attr.ah_attr.grh.hop_limit = 64;
  const Gid remote = Ipv4(127, 0, 0, 2);
  std::copy(remote.begin(), remote.end(), attr.ah_attr.grh.dgid.raw);
  ASSERT_EQ(ibv_modify_qp(qp_, &attr,
                          IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
                              IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER),
            0);
  attr.qp_state = IBV_QPS_RTS;
  attr.sq_psn = choice.psn;
  attr.timeout = choice.timeout;
  attr.retry_cnt = choice.retries;
  attr.rnr_retry = choice.rnr_retries;
  attr.max_rd_atomic = 4;
  ASSERT_EQ(ibv_modify_qp(qp_, &attr,
                          IBV_QP_STATE | IBV_QP_SQ_PSN | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT |
                              IBV_QP_RNR_RETRY | IBV_QP_MAX_QP_RD_ATOMIC),
            0);
}

void ProtocolTest::Disconnect() {
  if (qp_ != nullptr) ibv_destroy_qp(qp_);
  if (mr_ != nullptr) ibv_dereg_mr(mr_);
  if (cq_ != nullptr) ibv_destroy_cq(cq_);
  if (pd_ != nullptr) ibv_dealloc_pd(pd_);
  if (context_ != nullptr) ibv_close_device(context_);
  qp_ = nullptr;
  mr_ = nullptr;
  cq_ = nullptr;
  pd_ = nullptr;
  context_ = nullptr;
}

void ProtocolTest::Reconnect(const Choice& choice) {
  Disconnect();
  while (peer_.Hear(0).has_value()) {  // what was on its way
  }
  Connect(choice);
}

Header ProtocolTest::Request(Operation operation, uint32_t psn) const {
  Header header;
  header.operation = operation;
  header.dest_qpn = qp_->qp_num;
  header.psn = psn & kPsnMask;
  header.ack_request = true;
  return header;
}

Header ProtocolTest::WriteRequest(Operation operation, uint32_t psn, size_t offset,
                                  size_t length) const {
  Header header = Request(operation, psn);
  header.address = AddressOf(offset);
  header.rkey = mr_->rkey;
  header.dma_length = static_cast<uint32_t>(length);
  return header;
}

Header ProtocolTest::Ack(uint8_t syndrome, uint32_t psn) const {
  Header header = Request(Operation::kAcknowledge, psn);
  header.ack_request = false;
  header.syndrome = syndrome;
  return header;
}

int ProtocolTest::PostReceive(size_t offset, uint32_t length, uint64_t id) {
  ibv_sge sge = {AddressOf(offset), length, mr_->lkey};
  ibv_recv_wr wr = {id, nullptr, &sge, 1};
  ibv_recv_wr* bad;
  return ibv_post_recv(qp_, &wr, &bad);
}

int ProtocolTest::PostSend(ibv_wr_opcode opcode, size_t offset, uint32_t length, uint64_t id,
                           unsigned flags) {
  ibv_sge sge = {AddressOf(offset), length, mr_->lkey};
  ibv_send_wr wr = {};
  wr.wr_id = id;
  wr.sg_list = &sge;
  wr.num_sge = 1;
  wr.opcode = opcode;
  wr.send_flags = flags;
  wr.imm_data = htonl(0xA1B2C3D4);
  if (opcode == IBV_WR_ATOMIC_FETCH_AND_ADD || opcode == IBV_WR_ATOMIC_CMP_AND_SWP) {
    wr.wr.atomic = {0x5000, 5, 7, 0x77};
  } else {
    wr.wr.rdma = {0x5000, 0x77};
  }
  ibv_send_wr* bad;
  return ibv_post_send(qp_, &wr, &bad);
}

std::optional<ibv_wc> ProtocolTest::Complete(int patience) {
  const uint64_t end = TestClock() + static_cast<uint64_t>(patience) * 1'000'000;
  ibv_wc wc;
  do {
    const int count = ibv_poll_cq(cq_, 1, &wc);
    if (count == 1) return wc;
    usleep(200);
  } while (TestClock() < end);
  return std::nullopt;
}

ibv_qp_state ProtocolTest::State() const {
  ibv_qp_attr attr;
  ibv_qp_init_attr init;
  EXPECT_EQ(ibv_query_qp(qp_, &attr, IBV_QP_STATE, &init), 0);
  return attr.qp_state;
}

urxe_counters ProtocolTest::Counters() {
  urxe_counters counters = {};
  EXPECT_EQ(urxe_read_counters(&counters, sizeof(counters)), 0);
  return counters;
}

bool ProtocolTest::MemoryIs(size_t offset, const std::vector<std::byte>& bytes) const {
  return std::equal(bytes.begin(), bytes.end(),
                    memory_.begin() + static_cast<std::ptrdiff_t>(offset));
}

}  // namespace urxe
