#include "tests/unit/urxe/verbs_fixture.h"

#include <poll.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <string>

#include "transport/urxe/urxe.h"

namespace urxe {
namespace {

// Before the first call that reads settings: every machine has this interface.
const int kChooseLoopback = setenv("URXE_INTERFACES", "lo", 1);

}  // namespace

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

void VerbsTest::SetUp() {
  ASSERT_EQ(kChooseLoopback, 0);
  context_ = Open();
  ASSERT_NE(context_, nullptr) << strerror(errno);
  ASSERT_NE(urxe_is_urxe(context_), 0);
  pd_ = ibv_alloc_pd(context_);
  channel_ = ibv_create_comp_channel(context_);
  cq_ = ibv_create_cq(context_, 100, this, channel_, 0);
  ASSERT_NE(cq_, nullptr);
}

void VerbsTest::TearDown() {
  if (context_ == nullptr) return;
  EXPECT_EQ(ibv_destroy_cq(cq_), 0);
  EXPECT_EQ(ibv_destroy_comp_channel(channel_), 0);
  EXPECT_EQ(ibv_dealloc_pd(pd_), 0);
  EXPECT_EQ(ibv_close_device(context_), 0);
}

ibv_qp_init_attr VerbsTest::Wanted(ibv_qp_type type) {
  ibv_qp_init_attr init = {};
  init.send_cq = init.recv_cq = cq_;
  init.qp_type = type;
  init.cap = {16, 16, 2, 2, 64};
  return init;
}

ibv_qp* VerbsTest::Create(ibv_qp_type type) {
  ibv_qp_init_attr init = Wanted(type);
  return ibv_create_qp(pd_, &init);
}

int VerbsTest::ToInit(ibv_qp* qp) {
  ibv_qp_attr attr = {};
  attr.qp_state = IBV_QPS_INIT;
  attr.port_num = 1;
  attr.qp_access_flags = kAccess;
  attr.qkey = 0x1234;
  return ibv_modify_qp(qp, &attr,
                       IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT |
                           (qp->qp_type == IBV_QPT_UD ? IBV_QP_QKEY : IBV_QP_ACCESS_FLAGS));
}

ibv_qp_attr VerbsTest::Path(uint32_t to) {
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

int VerbsTest::ToRts(ibv_qp* qp, uint32_t to) {
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

int VerbsTest::Move(ibv_qp* qp, ibv_qp_state state) {
  ibv_qp_attr attr = {};
  attr.qp_state = state;
  return ibv_modify_qp(qp, &attr, IBV_QP_STATE);
}

void VerbsTest::Connect(ibv_qp*& a, ibv_qp*& b) {
  a = Create();
  b = Create();
  ASSERT_EQ(ToInit(a), 0);
  ASSERT_EQ(ToInit(b), 0);
  ASSERT_EQ(ToRts(a, b->qp_num), 0);
  ASSERT_EQ(ToRts(b, a->qp_num), 0);
}

std::vector<ibv_wc> VerbsTest::Poll(int count) {
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

}  // namespace urxe
