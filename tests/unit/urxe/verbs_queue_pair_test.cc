// Queue pairs of urxe's devices as a program makes, moves and posts to them.
#include <gtest/gtest.h>
#include <infiniband/verbs.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <vector>

#include "tests/unit/urxe/verbs_fixture.h"

namespace urxe {
namespace {

TEST_F(VerbsTest, CreationChecksEveryLimit) {
  ibv_device_attr device = {};
  ASSERT_EQ(ibv_query_device(context_, &device), 0);
  const auto refused = [&](auto change) {
    ibv_qp_init_attr init = Wanted();
    change(init);
    errno = 0;
    EXPECT_EQ(ibv_create_qp(pd_, &init), nullptr);
    return errno;
  };
  EXPECT_EQ(refused([&](auto& init) { init.cap.max_send_wr = device.max_qp_wr + 1; }), EINVAL);
  EXPECT_EQ(refused([&](auto& init) { init.cap.max_recv_wr = device.max_qp_wr + 1; }), EINVAL);
  EXPECT_EQ(refused([&](auto& init) { init.cap.max_send_sge = device.max_sge + 1; }), EINVAL);
  EXPECT_EQ(refused([&](auto& init) { init.cap.max_recv_sge = device.max_sge + 1; }), EINVAL);
  EXPECT_EQ(refused([&](auto& init) { init.cap.max_inline_data = 1 << 20; }), EINVAL);
  EXPECT_EQ(refused([&](auto& init) { init.send_cq = nullptr; }), EINVAL);
  EXPECT_EQ(refused([&](auto& init) { init.recv_cq = nullptr; }), EINVAL);
  EXPECT_EQ(refused([&](auto& init) { init.qp_type = IBV_QPT_RAW_PACKET; }), EOPNOTSUPP);
  EXPECT_EQ(ibv_create_cq(context_, 0, nullptr, nullptr, 0), nullptr);
  EXPECT_EQ(ibv_create_cq(context_, device.max_cqe + 1, nullptr, nullptr, 0), nullptr);
  EXPECT_EQ(ibv_create_cq(context_, 1, nullptr, nullptr, context_->num_comp_vectors), nullptr);
  ibv_srq_init_attr srq = {};
  srq.attr.max_wr = static_cast<uint32_t>(device.max_srq_wr + 1);
  srq.attr.max_sge = 1;
  EXPECT_EQ(ibv_create_srq(pd_, &srq), nullptr);
}

TEST_F(VerbsTest, StatesAreEnteredInOrderWithGoodAttributes) {
  ibv_qp* qp = Create();
  ASSERT_NE(qp, nullptr);
  EXPECT_EQ(qp->state, IBV_QPS_RESET);
  EXPECT_EQ(ToRts(qp, qp->qp_num), EINVAL) << "not from RESET";
  ASSERT_EQ(ToInit(qp), 0);
  const auto refused = [&](auto change) {
    ibv_qp_attr attr = Path(qp->qp_num);
    change(attr);
    const int error = ibv_modify_qp(qp, &attr, kPathMask);
    EXPECT_EQ(qp->state, IBV_QPS_INIT);
    return error;
  };
  EXPECT_EQ(refused([](auto& attr) { attr.path_mtu = ibv_mtu(0); }), EINVAL);
  EXPECT_EQ(refused([](auto& attr) { attr.path_mtu = ibv_mtu(6); }), EINVAL);
  EXPECT_EQ(refused([](auto& attr) { attr.ah_attr.is_global = 0; }), EINVAL);
  EXPECT_EQ(refused([](auto& attr) { attr.ah_attr.port_num = 2; }), EINVAL);
  EXPECT_EQ(refused([](auto& attr) { attr.ah_attr.grh.sgid_index = 31; }), EINVAL);
  EXPECT_EQ(refused([](auto& attr) { attr.min_rnr_timer = 32; }), EINVAL);
  EXPECT_EQ(refused([](auto& attr) { attr.max_dest_rd_atomic = 255; }), EINVAL);
  EXPECT_EQ(refused([](auto& attr) { attr.dest_qp_num = 1 << 24; }), EINVAL);
  ASSERT_EQ(ToRts(qp, qp->qp_num), 0);
  EXPECT_EQ(qp->state, IBV_QPS_RTS);

  ibv_qp_attr attr = {};
  ibv_qp_init_attr init = {};
  ASSERT_EQ(ibv_query_qp(qp, &attr, IBV_QP_STATE, &init), 0);
  EXPECT_EQ(attr.qp_state, IBV_QPS_RTS);
  EXPECT_EQ(attr.dest_qp_num, qp->qp_num);
  EXPECT_EQ(attr.timeout, 14);
  EXPECT_EQ(init.cap.max_send_wr, 16u);
  EXPECT_EQ(init.send_cq, cq_);

  attr.cur_qp_state = IBV_QPS_RTR;
  EXPECT_EQ(ibv_modify_qp(qp, &attr, IBV_QP_STATE | IBV_QP_CUR_STATE), EINVAL);
  EXPECT_EQ(Move(qp, IBV_QPS_INIT), EINVAL);
  EXPECT_EQ(Move(qp, IBV_QPS_SQD), 0);
  EXPECT_EQ(Move(qp, IBV_QPS_RTS), 0);
  EXPECT_EQ(Move(qp, IBV_QPS_ERR), 0);
  EXPECT_EQ(Move(qp, IBV_QPS_RESET), 0);
  ASSERT_EQ(ToInit(qp), 0) << "it can be used again";
  EXPECT_EQ(ibv_destroy_cq(cq_), EBUSY);
  EXPECT_EQ(ibv_dealloc_pd(pd_), EBUSY);
  EXPECT_EQ(ibv_destroy_qp(qp), 0);
}

TEST_F(VerbsTest, FailedQueuesAreFlushedInOrder) {
  ibv_qp* a = nullptr;
  ibv_qp* b = nullptr;
  Connect(a, b);
  for (uint64_t id = 0; id < 3; ++id) {
    ibv_recv_wr request = {};
    request.wr_id = id;
    ibv_recv_wr* bad = nullptr;
    ASSERT_EQ(ibv_post_recv(a, &request, &bad), 0);
  }
  ASSERT_EQ(Move(a, IBV_QPS_ERR), 0);
  const std::vector<ibv_wc> flushed = Poll(3);
  for (uint64_t id = 0; id < 3; ++id) {
    EXPECT_EQ(flushed[id].wr_id, id);
    EXPECT_EQ(flushed[id].status, IBV_WC_WR_FLUSH_ERR);
    EXPECT_EQ(flushed[id].qp_num, a->qp_num);
  }
  // What waits to be polled is not of the queue pair's next life.
  ibv_recv_wr request = {};
  ibv_recv_wr* bad = nullptr;
  ASSERT_EQ(ibv_post_recv(a, &request, &bad), 0);
  ASSERT_EQ(Move(a, IBV_QPS_RESET), 0);
  ibv_wc wc = {};
  EXPECT_EQ(ibv_poll_cq(cq_, 1, &wc), 0);
  EXPECT_EQ(ibv_destroy_qp(a), 0);
  EXPECT_EQ(ibv_destroy_qp(b), 0);
}

TEST_F(VerbsTest, SharedQueuesLimitRaisesOneEvent) {
  ibv_srq_init_attr srq_init = {};
  srq_init.attr = {8, 1, 0};
  ibv_srq* srq = ibv_create_srq(pd_, &srq_init);
  ASSERT_NE(srq, nullptr);
  ibv_qp_init_attr init = Wanted();
  init.srq = srq;
  ibv_qp* a = ibv_create_qp(pd_, &init);
  ibv_qp* b = Create();
  for (ibv_qp* qp : {a, b}) ASSERT_EQ(ToInit(qp), 0);
  ASSERT_EQ(ToRts(a, b->qp_num), 0);
  ASSERT_EQ(ToRts(b, a->qp_num), 0);
  ibv_recv_wr receive = {};
  ibv_recv_wr* bad_receive = nullptr;
  EXPECT_EQ(ibv_post_recv(a, &receive, &bad_receive), EINVAL) << "its receives are the SRQ's";
  for (int i = 0; i < 4; ++i) ASSERT_EQ(ibv_post_srq_recv(srq, &receive, &bad_receive), 0);
  ibv_srq_attr attr = {};
  attr.srq_limit = 9;
  EXPECT_EQ(ibv_modify_srq(srq, &attr, IBV_SRQ_LIMIT), EINVAL);
  attr.srq_limit = 3;
  ASSERT_EQ(ibv_modify_srq(srq, &attr, IBV_SRQ_LIMIT), 0);
  ASSERT_EQ(ibv_query_srq(srq, &attr), 0);
  EXPECT_EQ(attr.srq_limit, 3u);

  for (int i = 0; i < 3; ++i) {
    ibv_send_wr send = {};
    ibv_send_wr* bad = nullptr;
    send.opcode = IBV_WR_SEND;
    send.send_flags = IBV_SEND_SIGNALED;
    ASSERT_EQ(ibv_post_send(b, &send, &bad), 0);
  }
  Poll(6);
  int limits = 0;
  while (Readable(context_->async_fd, 200)) {
    ibv_async_event event = {};
    ASSERT_EQ(ibv_get_async_event(context_, &event), 0);
    if (event.event_type == IBV_EVENT_SRQ_LIMIT_REACHED) {
      EXPECT_EQ(event.element.srq, srq);
      ++limits;
    }
    ibv_ack_async_event(&event);
  }
  EXPECT_EQ(limits, 1);
  ASSERT_EQ(ibv_query_srq(srq, &attr), 0);
  EXPECT_EQ(attr.srq_limit, 0u) << "disarmed";
  EXPECT_EQ(ibv_destroy_srq(srq), EBUSY);
  EXPECT_EQ(ibv_destroy_qp(a), 0);
  EXPECT_EQ(ibv_destroy_qp(b), 0);
  EXPECT_EQ(ibv_destroy_srq(srq), 0);
}

TEST_F(VerbsTest, RequestsAreBuiltAndPostedTogether) {
  ibv_qp_init_attr_ex init = {};
  init.send_cq = init.recv_cq = cq_;
  init.qp_type = IBV_QPT_RC;
  init.cap = {4, 4, 2, 2, 64};
  init.pd = pd_;
  init.comp_mask = IBV_QP_INIT_ATTR_PD | IBV_QP_INIT_ATTR_SEND_OPS_FLAGS;
  init.send_ops_flags = IBV_QP_EX_WITH_RDMA_WRITE | IBV_QP_EX_WITH_ATOMIC_FETCH_AND_ADD;
  ibv_qp* a = ibv_create_qp_ex(context_, &init);
  ASSERT_NE(a, nullptr) << strerror(errno);
  ibv_qp* b = Create();
  EXPECT_EQ(ibv_qp_to_qp_ex(b), nullptr);
  for (ibv_qp* qp : {a, b}) ASSERT_EQ(ToInit(qp), 0);
  ASSERT_EQ(ToRts(a, b->qp_num), 0);
  ASSERT_EQ(ToRts(b, a->qp_num), 0);
  alignas(8) uint64_t memory[8] = {};
  ibv_mr* mr = ibv_reg_mr(pd_, memory, sizeof(memory), kAccess);
  ASSERT_NE(mr, nullptr);
  const auto address = reinterpret_cast<uint64_t>(memory);

  ibv_qp_ex* qp = ibv_qp_to_qp_ex(a);
  ASSERT_NE(qp, nullptr);
  ibv_wr_start(qp);
  qp->wr_id = 1;
  qp->wr_flags = IBV_SEND_SIGNALED;
  ibv_wr_rdma_write(qp, mr->rkey, address);
  uint64_t value = 40;
  ibv_wr_set_inline_data(qp, &value, sizeof(value));
  qp->wr_id = 2;
  ibv_wr_atomic_fetch_add(qp, mr->rkey, address, 2);
  ibv_wr_set_sge(qp, mr->lkey, address + 8, 8);
  value = 0;  // inline data were copied when they were set
  EXPECT_EQ(memory[0], 0u) << "nothing is posted yet";
  ASSERT_EQ(ibv_wr_complete(qp), 0);
  const std::vector<ibv_wc> done = Poll(2);
  EXPECT_EQ(done[0].wr_id, 1u);
  EXPECT_EQ(done[0].status, IBV_WC_SUCCESS);
  EXPECT_EQ(done[1].wr_id, 2u);
  EXPECT_EQ(memory[0], 42u);
  EXPECT_EQ(memory[1], 40u);

  // All or nothing: five do not fit, so that none is posted; an error of a setter likewise.
  ibv_wr_start(qp);
  for (int i = 0; i < 5; ++i) {
    ibv_wr_rdma_write(qp, mr->rkey, address);
    ibv_wr_set_sge(qp, mr->lkey, address + 8, 8);
  }
  EXPECT_EQ(ibv_wr_complete(qp), ENOMEM);
  ibv_wr_start(qp);
  ibv_wr_rdma_write(qp, mr->rkey, address);
  const std::array<char, 65> long_data = {};
  ibv_wr_set_inline_data(qp, const_cast<char*>(long_data.data()), long_data.size());
  EXPECT_EQ(ibv_wr_complete(qp), EINVAL);
  ibv_wr_start(qp);
  ibv_wr_rdma_write(qp, mr->rkey, address);
  ibv_wr_abort(qp);
  ibv_wc wc = {};
  EXPECT_EQ(ibv_poll_cq(cq_, 1, &wc), 0);
  EXPECT_EQ(memory[0], 42u);
  EXPECT_EQ(ibv_dereg_mr(mr), 0);
  EXPECT_EQ(ibv_destroy_qp(a), 0);
  EXPECT_EQ(ibv_destroy_qp(b), 0);
}

}  // namespace
}  // namespace urxe
