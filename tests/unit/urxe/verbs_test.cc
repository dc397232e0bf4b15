// urxe's devices as a program sees them: through liburxe.so's public functions only.
#include <endian.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <infiniband/verbs.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "transport/urxe/urxe.h"

namespace {

// Before the first call that reads settings: every machine has this interface.
const int kChooseLoopback = setenv("URXE_INTERFACES", "lo", 1);

constexpr int kAccess = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ |
                        IBV_ACCESS_REMOTE_ATOMIC;

ibv_device* FindUrxe(ibv_device** list) {
  for (; *list != nullptr; ++list) {
    if (std::string(ibv_get_device_name(*list)) == "urxe0") return *list;
  }
  return nullptr;
}

ibv_context* Open() {
  ibv_device** list = ibv_get_device_list(nullptr);
  if (list == nullptr) return nullptr;
  ibv_device* device = FindUrxe(list);
  ibv_context* context = device == nullptr ? nullptr : ibv_open_device(device);
  ibv_free_device_list(list);
  return context;
}

bool Readable(int fd, int milliseconds) {
  pollfd entry = {fd, POLLIN, 0};
  return poll(&entry, 1, milliseconds) == 1;
}

// One context, domain and completion queue; everything made in a test is destroyed by it.
class VerbsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(kChooseLoopback, 0);
    context_ = Open();
    ASSERT_NE(context_, nullptr) << strerror(errno);
    ASSERT_NE(urxe_is_urxe(context_), 0);
    pd_ = ibv_alloc_pd(context_);
    channel_ = ibv_create_comp_channel(context_);
    cq_ = ibv_create_cq(context_, 100, this, channel_, 0);
    ASSERT_NE(cq_, nullptr);
  }
  void TearDown() override {
    if (context_ == nullptr) return;
    EXPECT_EQ(ibv_destroy_cq(cq_), 0);
    EXPECT_EQ(ibv_destroy_comp_channel(channel_), 0);
    EXPECT_EQ(ibv_dealloc_pd(pd_), 0);
    EXPECT_EQ(ibv_close_device(context_), 0);
  }

  ibv_qp_init_attr Wanted(ibv_qp_type type = IBV_QPT_RC) {
    ibv_qp_init_attr init = {};
    init.send_cq = init.recv_cq = cq_;
    init.qp_type = type;
    init.cap = {16, 16, 2, 2, 64};
    return init;
  }
  ibv_qp* Create(ibv_qp_type type = IBV_QPT_RC) {
    ibv_qp_init_attr init = Wanted(type);
    return ibv_create_qp(pd_, &init);
  }
  int ToInit(ibv_qp* qp) {
    ibv_qp_attr attr = {};
    attr.qp_state = IBV_QPS_INIT;
    attr.port_num = 1;
    attr.qp_access_flags = kAccess;
    attr.qkey = 0x1234;
    return ibv_modify_qp(qp, &attr,
                         IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT |
                             (qp->qp_type == IBV_QPT_UD ? IBV_QP_QKEY : IBV_QP_ACCESS_FLAGS));
  }
  ibv_qp_attr Path(uint32_t to) {
    ibv_qp_attr attr = {};
    attr.qp_state = IBV_QPS_RTR;
    attr.path_mtu = IBV_MTU_1024;
    attr.dest_qp_num = to;
    attr.rq_psn = 0x111111;
    attr.max_dest_rd_atomic = 4;
    attr.min_rnr_timer = 1;
    attr.ah_attr.is_global = 1;
    attr.ah_attr.port_num = 1;
    EXPECT_EQ(ibv_query_gid(context_, 1, 0, &attr.ah_attr.grh.dgid), 0);
    return attr;
  }
  static constexpr int kPathMask = IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
                                   IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER;
  int ToRts(ibv_qp* qp, uint32_t to) {
    ibv_qp_attr attr = Path(to);
    if (const int error = ibv_modify_qp(qp, &attr, kPathMask); error != 0) return error;
    attr = {};
    attr.qp_state = IBV_QPS_RTS;
    attr.timeout = 14;
    attr.retry_cnt = 7;
    attr.rnr_retry = 7;
    attr.sq_psn = 0x111111;
    attr.max_rd_atomic = 4;
    return ibv_modify_qp(qp, &attr,
                         IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                             IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC);
  }
  int Move(ibv_qp* qp, ibv_qp_state state) {
    ibv_qp_attr attr = {};
    attr.qp_state = state;
    return ibv_modify_qp(qp, &attr, IBV_QP_STATE);
  }
  // Two connected queue pairs of this process.
  void Connect(ibv_qp*& a, ibv_qp*& b) {
    a = Create();
    b = Create();
    ASSERT_EQ(ToInit(a), 0);
    ASSERT_EQ(ToInit(b), 0);
    ASSERT_EQ(ToRts(a, b->qp_num), 0);
    ASSERT_EQ(ToRts(b, a->qp_num), 0);
  }
  // Polls until `count` completions came.
  std::vector<ibv_wc> Poll(int count) {
    std::vector<ibv_wc> all;
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (static_cast<int>(all.size()) < count && std::chrono::steady_clock::now() < deadline) {
      ibv_wc wc = {};
      if (ibv_poll_cq(cq_, 1, &wc) == 1) all.push_back(wc);
    }
    EXPECT_EQ(static_cast<int>(all.size()), count);
    all.resize(static_cast<size_t>(count));
    return all;
  }

  ibv_context* context_ = nullptr;
  ibv_pd* pd_ = nullptr;
  ibv_comp_channel* channel_ = nullptr;
  ibv_cq* cq_ = nullptr;
};

TEST_F(VerbsTest, DevicesAreListedAndDescribed) {
  ibv_device** list = ibv_get_device_list(nullptr);
  ASSERT_NE(list, nullptr);
  ibv_device* device = FindUrxe(list);
  ASSERT_NE(device, nullptr);
  EXPECT_EQ(device->node_type, IBV_NODE_CA);
  EXPECT_EQ(device->transport_type, IBV_TRANSPORT_IB);
  EXPECT_EQ(device, context_->device);
  ibv_free_device_list(list);

  ibv_device_attr attr = {};
  ASSERT_EQ(ibv_query_device(context_, &attr), 0);
  EXPECT_EQ(attr.node_guid, ibv_get_device_guid(context_->device));
  EXPECT_NE(attr.node_guid, 0u);
  EXPECT_EQ(attr.phys_port_cnt, 1);
  EXPECT_EQ(attr.atomic_cap, IBV_ATOMIC_HCA);
  EXPECT_EQ(attr.max_mw, 0) << "not served, so not claimed";
  EXPECT_EQ(attr.max_mcast_grp, 0);
  ibv_device_attr_ex extended = {};
  ASSERT_EQ(ibv_query_device_ex(context_, nullptr, &extended), 0);
  EXPECT_EQ(extended.orig_attr.max_qp, attr.max_qp);
  EXPECT_EQ(extended.odp_caps.general_caps, 0u);
  EXPECT_EQ(extended.max_dm_size, 0u);
}

TEST_F(VerbsTest, ThePortFollowsItsInterface) {
  ibv_port_attr port = {};
  ASSERT_EQ(ibv_query_port(context_, 1, &port), 0);
  EXPECT_EQ(port.state, IBV_PORT_ACTIVE);
  EXPECT_EQ(port.link_layer, IBV_LINK_LAYER_ETHERNET);
  EXPECT_EQ(port.active_mtu, IBV_MTU_4096) << "lo carries 64 KiB";
  EXPECT_EQ(ibv_query_port(context_, 0, &port), EINVAL);
  EXPECT_EQ(ibv_query_port(context_, 2, &port), EINVAL);
  __be16 pkey = 0;
  EXPECT_EQ(ibv_query_pkey(context_, 1, 0, &pkey), 0);
  EXPECT_EQ(be16toh(pkey), 0xFFFF);
  EXPECT_EQ(ibv_query_pkey(context_, 1, 1, &pkey), -1);
  EXPECT_EQ(ibv_get_pkey_index(context_, 1, htobe16(0xFFFF)), 0);
}

TEST_F(VerbsTest, TheFirstGidIsTheIpv4Address) {
  ibv_gid gid = {};
  ASSERT_EQ(ibv_query_gid(context_, 1, 0, &gid), 0);
  const uint8_t loopback[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 127, 0, 0, 1};
  EXPECT_EQ(memcmp(gid.raw, loopback, 16), 0);
  ibv_gid_entry entry = {};
  ASSERT_EQ(ibv_query_gid_ex(context_, 1, 0, &entry, 0), 0);
  EXPECT_EQ(entry.gid_type, uint32_t{IBV_GID_TYPE_ROCE_V2});
  EXPECT_EQ(entry.ndev_ifindex, 1u);
  ibv_port_attr port = {};
  ASSERT_EQ(ibv_query_port(context_, 1, &port), 0);
  const auto last = static_cast<uint32_t>(port.gid_tbl_len - 1);
  EXPECT_EQ(ibv_query_gid_ex(context_, 1, last, &entry, 0), ENODATA);
  EXPECT_EQ(ibv_query_gid_ex(context_, 1, last + 1, &entry, 0), EINVAL);
  EXPECT_EQ(ibv_query_gid(context_, 1, port.gid_tbl_len, &gid), -1);
  std::array<ibv_gid_entry, 64> table = {};
  const ssize_t count = ibv_query_gid_table(context_, table.data(), table.size(), 0);
  ASSERT_GE(count, 1);
  EXPECT_EQ(memcmp(table[0].gid.raw, loopback, 16), 0);
  EXPECT_EQ(ibv_query_gid_table(context_, table.data(), 0, 0), -EINVAL);
}

TEST_F(VerbsTest, RegistersWhatIsThereWithLegalAccess) {
  std::vector<char> bytes(10000);
  ibv_mr* mr = ibv_reg_mr(pd_, bytes.data(), bytes.size(), kAccess);
  ASSERT_NE(mr, nullptr);
  EXPECT_EQ(mr->length, bytes.size());
  EXPECT_EQ(ibv_dealloc_pd(pd_), EBUSY);
  EXPECT_EQ(ibv_dereg_mr(mr), 0);

  const auto refused = [&](void* address, size_t length, int access) {
    errno = 0;
    EXPECT_EQ(ibv_reg_mr(pd_, address, length, access), nullptr);
    return errno;
  };
  EXPECT_EQ(refused(bytes.data(), 100, IBV_ACCESS_REMOTE_WRITE), EINVAL);
  EXPECT_EQ(refused(bytes.data(), 100, IBV_ACCESS_REMOTE_ATOMIC), EINVAL);
  EXPECT_EQ(refused(bytes.data(), 100, IBV_ACCESS_ON_DEMAND), EOPNOTSUPP);
  EXPECT_EQ(refused(nullptr, 100, 0), EFAULT);
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* pages = mmap(nullptr, 2 * page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(pages, MAP_FAILED);
  EXPECT_EQ(refused(pages, page, IBV_ACCESS_LOCAL_WRITE), EFAULT) << "read-only memory";
  munmap(static_cast<char*>(pages) + page, page);
  EXPECT_EQ(refused(pages, 2 * page, 0), EFAULT) << "a hole";
  mr = ibv_reg_mr(pd_, pages, page, IBV_ACCESS_REMOTE_READ);
  EXPECT_NE(mr, nullptr);
  EXPECT_EQ(ibv_dereg_mr(mr), 0);
  munmap(pages, page);
}

TEST_F(VerbsTest, ReregistersAccessDomainAndMemory) {
  std::vector<char> bytes(8192);
  ibv_mr* mr = ibv_reg_mr(pd_, bytes.data(), 4096, IBV_ACCESS_LOCAL_WRITE);
  ASSERT_NE(mr, nullptr);
  ibv_pd* other = ibv_alloc_pd(context_);
  const uint32_t key = mr->rkey;
  EXPECT_EQ(ibv_rereg_mr(mr, IBV_REREG_MR_CHANGE_ACCESS, nullptr, nullptr, 0, kAccess), 0);
  EXPECT_EQ(mr->rkey, key);
  EXPECT_EQ(ibv_rereg_mr(mr, IBV_REREG_MR_CHANGE_PD, other, nullptr, 0, 0), 0);
  EXPECT_EQ(mr->pd, other);
  EXPECT_EQ(ibv_dealloc_pd(other), EBUSY);
  EXPECT_EQ(ibv_rereg_mr(mr, IBV_REREG_MR_CHANGE_TRANSLATION, nullptr, bytes.data() + 4096, 100, 0),
            0);
  EXPECT_EQ(mr->addr, bytes.data() + 4096);
  EXPECT_EQ(
      ibv_rereg_mr(mr, IBV_REREG_MR_CHANGE_ACCESS, nullptr, nullptr, 0, IBV_ACCESS_REMOTE_WRITE),
      IBV_REREG_MR_ERR_INPUT);
  EXPECT_EQ(ibv_rereg_mr(mr, 0, nullptr, nullptr, 0, 0), IBV_REREG_MR_ERR_INPUT);
  EXPECT_EQ(ibv_dereg_mr(mr), 0);
  EXPECT_EQ(ibv_dealloc_pd(other), 0);
}

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

TEST_F(VerbsTest, AddressHandlesOfDatagrams) {
  ibv_ah_attr attr = Path(0).ah_attr;
  ibv_ah* handle = ibv_create_ah(pd_, &attr);
  ASSERT_NE(handle, nullptr) << strerror(errno);
  EXPECT_EQ(ibv_destroy_ah(handle), 0);
  attr.is_global = 0;
  EXPECT_EQ(ibv_create_ah(pd_, &attr), nullptr);
  EXPECT_EQ(errno, EINVAL);
  // As a datagram over IPv4 brings it: the IP header in the last 20 bytes.
  uint8_t grh[40] = {};
  const uint8_t ip[20] = {0x45, 0x08, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 127, 0, 0, 5, 127, 0, 0, 1};
  memcpy(grh + 20, ip, sizeof(ip));
  ibv_wc wc = {};
  wc.wc_flags = IBV_WC_GRH;
  ASSERT_EQ(ibv_init_ah_from_wc(context_, 1, &wc, reinterpret_cast<ibv_grh*>(grh), &attr), 0);
  EXPECT_EQ(attr.is_global, 1);
  EXPECT_EQ(attr.grh.sgid_index, 0);
  EXPECT_EQ(attr.grh.traffic_class, 8);
  const uint8_t sender[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 127, 0, 0, 5};
  EXPECT_EQ(memcmp(attr.grh.dgid.raw, sender, 16), 0);
  grh[39] = 77;  // not an address of ours
  EXPECT_EQ(ibv_init_ah_from_wc(context_, 1, &wc, reinterpret_cast<ibv_grh*>(grh), &attr), -1);
}

TEST_F(VerbsTest, ADeviceOpensTwiceAndContextsStayApart) {
  ibv_context* second = Open();
  ASSERT_NE(second, nullptr);
  EXPECT_NE(second, context_);
  ibv_pd* pd = ibv_alloc_pd(second);
  ibv_qp_init_attr init = Wanted();
  EXPECT_EQ(ibv_create_qp(pd, &init), nullptr) << "the queue is the other context's";
  EXPECT_EQ(errno, EINVAL);
  EXPECT_EQ(ibv_close_device(second), 0) << "as the system's libibverbs, with objects left";
  EXPECT_EQ(ibv_dealloc_pd(pd), 0);
}

TEST_F(VerbsTest, CountersAndFaults) {
  urxe_counters before = {};
  ASSERT_EQ(urxe_read_counters(&before, sizeof(before)), 0);
  ibv_qp* a = nullptr;
  ibv_qp* b = nullptr;
  Connect(a, b);
  ibv_recv_wr receive = {};
  ibv_recv_wr* bad_receive = nullptr;
  ASSERT_EQ(ibv_post_recv(a, &receive, &bad_receive), 0);
  ibv_send_wr send = {};
  ibv_send_wr* bad = nullptr;
  send.opcode = IBV_WR_SEND;
  send.send_flags = IBV_SEND_SIGNALED;
  ASSERT_EQ(ibv_post_send(b, &send, &bad), 0);
  Poll(2);
  urxe_counters after = {};
  ASSERT_EQ(urxe_read_counters_of(getpid(), &after, sizeof(after)), 0);
  EXPECT_EQ(after.doorbells, before.doorbells + 1);
  // A program of an earlier version asks for fewer counters.
  urxe_counters partial = {};
  EXPECT_EQ(urxe_read_counters(&partial, 2 * sizeof(uint64_t)), 0);
  EXPECT_EQ(partial.doorbells, 0u);
  EXPECT_EQ(urxe_read_counters(nullptr, sizeof(after)), EINVAL);
  EXPECT_EQ(urxe_read_counters(&after, 3), EINVAL);
  EXPECT_EQ(urxe_read_counters_of(1 << 30, &after, sizeof(after)), ENOENT);
  EXPECT_EQ(urxe_set_faults("drop=2"), EINVAL);
  EXPECT_EQ(urxe_set_faults(nullptr), EINVAL);
  EXPECT_EQ(urxe_set_faults("drop=0.5,seed=3"), 0);
  EXPECT_EQ(urxe_set_faults(""), 0);
  EXPECT_EQ(ibv_destroy_qp(a), 0);
  EXPECT_EQ(ibv_destroy_qp(b), 0);
}

}  // namespace
