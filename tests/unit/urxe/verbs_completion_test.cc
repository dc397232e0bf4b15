// Completion queues and channels of urxe's devices as a program uses them.
#include <gtest/gtest.h>
#include <infiniband/verbs.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <thread>
#include <vector>

#include "tests/unit/urxe/verbs_fixture.h"

namespace urxe {
namespace {

TEST_F(VerbsTest, ChannelsWakeAndDestroyingWaitsForAcknowledgement) {
  ibv_qp* a = nullptr;
  ibv_qp* b = nullptr;
  Connect(a, b);
  ASSERT_EQ(ibv_req_notify_cq(cq_, 0), 0);
  EXPECT_FALSE(Readable(channel_->fd, 0));
  ibv_recv_wr request = {};
  ibv_recv_wr* bad = nullptr;
  ASSERT_EQ(ibv_post_recv(a, &request, &bad), 0);
  ASSERT_EQ(Move(a, IBV_QPS_ERR), 0);
  ASSERT_TRUE(Readable(channel_->fd, 5000));
  ibv_cq* from = nullptr;
  void* own = nullptr;
  ASSERT_EQ(ibv_get_cq_event(channel_, &from, &own), 0);
  EXPECT_EQ(from, cq_);
  EXPECT_EQ(own, this);
  EXPECT_EQ(ibv_destroy_comp_channel(channel_), EBUSY);
  EXPECT_EQ(ibv_destroy_qp(a), 0);
  EXPECT_EQ(ibv_destroy_qp(b), 0);

  ibv_cq* cq = cq_;
  std::atomic<bool> destroyed{false};
  std::thread destroyer([&] {
    EXPECT_EQ(ibv_destroy_cq(cq), 0);
    destroyed = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_FALSE(destroyed);
  ibv_ack_cq_events(cq, 1);
  destroyer.join();
  cq_ = ibv_create_cq(context_, 1, nullptr, channel_, 0);
}

TEST_F(VerbsTest, ModerationHoldsAnEventBackForItsPeriod) {
  ibv_qp* qp = Create();
  ASSERT_EQ(ToInit(qp), 0);
  ibv_modify_cq_attr moderation = {};
  moderation.attr_mask = IBV_CQ_ATTR_MODERATE;
  moderation.moderate = {100, 50000};  // completions, microseconds
  ASSERT_EQ(ibv_modify_cq(cq_, &moderation), 0);
  ASSERT_EQ(ibv_req_notify_cq(cq_, 0), 0);
  ibv_recv_wr request = {};
  ibv_recv_wr* bad = nullptr;
  ASSERT_EQ(ibv_post_recv(qp, &request, &bad), 0);
  const auto begin = std::chrono::steady_clock::now();
  ASSERT_EQ(Move(qp, IBV_QPS_ERR), 0);
  // Nobody polls: the device itself must see that the time is over.
  ASSERT_TRUE(Readable(channel_->fd, 10000));
  EXPECT_GE(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(50));
  ibv_cq* from = nullptr;
  void* own = nullptr;
  ASSERT_EQ(ibv_get_cq_event(channel_, &from, &own), 0);
  ibv_ack_cq_events(from, 1);
  EXPECT_EQ(ibv_destroy_qp(qp), 0);
}

TEST_F(VerbsTest, AnUnreadEventGoesWithItsQueue) {
  ibv_cq* cq = ibv_create_cq(context_, 10, nullptr, channel_, 0);
  ibv_qp_init_attr init = Wanted();
  init.recv_cq = cq;
  ibv_qp* qp = ibv_create_qp(pd_, &init);
  ASSERT_EQ(ToInit(qp), 0);
  ASSERT_EQ(ibv_req_notify_cq(cq, 0), 0);
  ibv_recv_wr request = {};
  ibv_recv_wr* bad = nullptr;
  ASSERT_EQ(ibv_post_recv(qp, &request, &bad), 0);
  ASSERT_EQ(Move(qp, IBV_QPS_ERR), 0);
  ASSERT_TRUE(Readable(channel_->fd, 5000));
  EXPECT_EQ(ibv_destroy_qp(qp), 0);
  EXPECT_EQ(ibv_destroy_cq(cq), 0);
  EXPECT_FALSE(Readable(channel_->fd, 0));
}

TEST_F(VerbsTest, ExtendedQueuesArePolledFieldByField) {
  ibv_cq_init_attr_ex attr = {};
  attr.cqe = 10;
  attr.wc_flags = IBV_WC_STANDARD_FLAGS;
  attr.wc_flags |= IBV_WC_EX_WITH_COMPLETION_TIMESTAMP_WALLCLOCK;
  ibv_cq_ex* cq = ibv_create_cq_ex(context_, &attr);
  ASSERT_NE(cq, nullptr) << strerror(errno);
  ibv_poll_cq_attr poll_attr = {};
  EXPECT_EQ(ibv_start_poll(cq, &poll_attr), ENOENT);
  ibv_qp_init_attr init = Wanted();
  init.recv_cq = ibv_cq_ex_to_cq(cq);
  ibv_qp* qp = ibv_create_qp(pd_, &init);
  ASSERT_EQ(ToInit(qp), 0);
  for (uint64_t id = 1; id <= 2; ++id) {
    ibv_recv_wr request = {};
    request.wr_id = id;
    ibv_recv_wr* bad = nullptr;
    ASSERT_EQ(ibv_post_recv(qp, &request, &bad), 0);
  }
  ASSERT_EQ(Move(qp, IBV_QPS_ERR), 0);
  ASSERT_EQ(ibv_start_poll(cq, &poll_attr), 0);
  EXPECT_EQ(cq->wr_id, 1u);
  EXPECT_EQ(cq->status, IBV_WC_WR_FLUSH_ERR);
  EXPECT_EQ(ibv_wc_read_qp_num(cq), qp->qp_num);
  timespec now = {};
  clock_gettime(CLOCK_REALTIME, &now);
  const auto seconds = static_cast<int64_t>(ibv_wc_read_completion_wallclock_ns(cq) / 1000000000);
  EXPECT_LE(std::abs(seconds - now.tv_sec), 10);
  EXPECT_EQ(ibv_next_poll(cq), 0);
  EXPECT_EQ(cq->wr_id, 2u);
  EXPECT_EQ(ibv_next_poll(cq), ENOENT);
  ibv_end_poll(cq);
  EXPECT_EQ(ibv_destroy_qp(qp), 0);
  EXPECT_EQ(ibv_destroy_cq(ibv_cq_ex_to_cq(cq)), 0);
  attr.wc_flags = IBV_WC_EX_WITH_TM_INFO;
  EXPECT_EQ(ibv_create_cq_ex(context_, &attr), nullptr);
  EXPECT_EQ(errno, EOPNOTSUPP);
}

TEST_F(VerbsTest, ResizingKeepsWhatWaits) {
  ibv_qp* qp = Create();
  ASSERT_EQ(ToInit(qp), 0);
  for (uint64_t id = 0; id < 10; ++id) {
    ibv_recv_wr request = {};
    request.wr_id = id;
    ibv_recv_wr* bad = nullptr;
    ASSERT_EQ(ibv_post_recv(qp, &request, &bad), 0);
  }
  ASSERT_EQ(Move(qp, IBV_QPS_ERR), 0);
  EXPECT_EQ(ibv_resize_cq(cq_, 5), EINVAL) << "ten wait";
  ASSERT_EQ(ibv_resize_cq(cq_, 1000), 0);
  EXPECT_GE(cq_->cqe, 1000);
  const std::vector<ibv_wc> all = Poll(10);
  for (uint64_t id = 0; id < 10; ++id) EXPECT_EQ(all[id].wr_id, id);
  EXPECT_EQ(ibv_destroy_qp(qp), 0);
}

}  // namespace
}  // namespace urxe
