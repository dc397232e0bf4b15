// A urxe device over the loopback interface, and what it takes to connect queue pairs of it. For
// tests that use liburxe.so's public functions only, as programs do.
#pragma once

#include <gtest/gtest.h>
#include <infiniband/verbs.h>

#include <cstdint>
#include <vector>

namespace urxe {

inline constexpr int kAccess = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE |
                               IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC;

// urxe0 of a list that ends with null; null when it is not there.
ibv_device* FindUrxe(ibv_device** list);
// A context of urxe0; null with errno.
ibv_context* Open();
// Whether `fd` becomes readable within `milliseconds`.
bool Readable(int fd, int milliseconds);

// One context, domain and completion queue; everything made in a test is destroyed by it.
class VerbsTest : public ::testing::Test {
 protected:
  static constexpr int kPathMask = IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
                                   IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER;

  void SetUp() override;
  void TearDown() override;

  ibv_qp_init_attr Wanted(ibv_qp_type type = IBV_QPT_RC);
  ibv_qp* Create(ibv_qp_type type = IBV_QPT_RC);
  int ToInit(ibv_qp* qp);
  // What takes a queue pair to RTR, connected to number `to` of this device; goes with kPathMask.
  ibv_qp_attr Path(uint32_t to);
  int ToRts(ibv_qp* qp, uint32_t to);
  // Changes nothing but the state.
  int Move(ibv_qp* qp, ibv_qp_state state);
  // Two connected queue pairs of this process.
  void Connect(ibv_qp*& a, ibv_qp*& b);
  // Polls until `count` completions came.
  std::vector<ibv_wc> Poll(int count);

  ibv_context* context_ = nullptr;
  ibv_pd* pd_ = nullptr;
  ibv_comp_channel* channel_ = nullptr;
  ibv_cq* cq_ = nullptr;
};

}  // namespace urxe
