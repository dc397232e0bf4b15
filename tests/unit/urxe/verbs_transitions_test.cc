#include <gtest/gtest.h>

#include <set>
#include <utility>

#include "transport/urxe/verbs/qp_transitions.h"

namespace urxe {
namespace {

constexpr ibv_qp_type kTypes[] = {IBV_QPT_RC, IBV_QPT_UC, IBV_QPT_UD};
constexpr ibv_qp_state kStates[] = {IBV_QPS_RESET, IBV_QPS_INIT, IBV_QPS_RTR, IBV_QPS_RTS,
                                    IBV_QPS_SQD,   IBV_QPS_SQE,  IBV_QPS_ERR};
constexpr int kAllBits = (1 << 26) - 1;

// Tries all attributes that a set-up of the service gives, then leaves each out in turn.
void ExpectNeedsAll(ibv_qp_type type, ibv_qp_state from, ibv_qp_state to, int mask) {
  EXPECT_TRUE(TransitionAllowed(type, from, to, IBV_QP_STATE | mask)) << type << from << to;
  for (int bit = 1; bit < kAllBits; bit <<= 1) {
    if ((mask & bit) == 0) continue;
    EXPECT_FALSE(TransitionAllowed(type, from, to, IBV_QP_STATE | (mask & ~bit)))
        << type << ": " << from << " to " << to << " without " << bit;
  }
}

TEST(TransitionsTest, RcSetUpNeedsEveryAttribute) {
  ExpectNeedsAll(IBV_QPT_RC, IBV_QPS_RESET, IBV_QPS_INIT,
                 IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
  ExpectNeedsAll(IBV_QPT_RC, IBV_QPS_INIT, IBV_QPS_RTR,
                 IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                     IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
  ExpectNeedsAll(IBV_QPT_RC, IBV_QPS_RTR, IBV_QPS_RTS,
                 IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN |
                     IBV_QP_MAX_QP_RD_ATOMIC);
}

TEST(TransitionsTest, UcAndUdNeedLess) {
  ExpectNeedsAll(IBV_QPT_UC, IBV_QPS_INIT, IBV_QPS_RTR,
                 IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN);
  ExpectNeedsAll(IBV_QPT_UC, IBV_QPS_RTR, IBV_QPS_RTS, IBV_QP_SQ_PSN);
  ExpectNeedsAll(IBV_QPT_UD, IBV_QPS_RESET, IBV_QPS_INIT,
                 IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_QKEY);
  ExpectNeedsAll(IBV_QPT_UD, IBV_QPS_INIT, IBV_QPS_RTR, 0);
  ExpectNeedsAll(IBV_QPT_UD, IBV_QPS_RTR, IBV_QPS_RTS, IBV_QP_SQ_PSN);
}

TEST(TransitionsTest, AttributesOfAnotherServiceAreRefused) {
  EXPECT_FALSE(TransitionAllowed(
      IBV_QPT_RC, IBV_QPS_RESET, IBV_QPS_INIT,
      IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS | IBV_QP_QKEY));
  EXPECT_FALSE(TransitionAllowed(IBV_QPT_UC, IBV_QPS_RTR, IBV_QPS_RTS,
                                 IBV_QP_STATE | IBV_QP_SQ_PSN | IBV_QP_TIMEOUT));
  EXPECT_FALSE(TransitionAllowed(IBV_QPT_UD, IBV_QPS_INIT, IBV_QPS_RTR, IBV_QP_STATE | IBV_QP_AV));
}

TEST(TransitionsTest, AnyStateMayBeResetOrFailed) {
  for (const ibv_qp_type type : kTypes) {
    for (const ibv_qp_state from : kStates) {
      EXPECT_TRUE(TransitionAllowed(type, from, IBV_QPS_RESET, IBV_QP_STATE));
      EXPECT_TRUE(TransitionAllowed(type, from, IBV_QPS_ERR, IBV_QP_STATE));
      EXPECT_FALSE(TransitionAllowed(type, from, IBV_QPS_ERR, IBV_QP_STATE | IBV_QP_SQ_PSN));
    }
  }
}

TEST(TransitionsTest, NoOtherPairsExist) {
  using Pair = std::pair<ibv_qp_state, ibv_qp_state>;
  const std::set<Pair> pairs = {{IBV_QPS_RESET, IBV_QPS_INIT}, {IBV_QPS_INIT, IBV_QPS_INIT},
                                {IBV_QPS_INIT, IBV_QPS_RTR},   {IBV_QPS_RTR, IBV_QPS_RTS},
                                {IBV_QPS_RTS, IBV_QPS_RTS},    {IBV_QPS_RTS, IBV_QPS_SQD},
                                {IBV_QPS_SQD, IBV_QPS_SQD},    {IBV_QPS_SQD, IBV_QPS_RTS}};
  for (const ibv_qp_type type : kTypes) {
    for (const ibv_qp_state from : kStates) {
      for (const ibv_qp_state to : kStates) {
        if (to == IBV_QPS_RESET || to == IBV_QPS_ERR) continue;
        // Possible when one of the sets of attributes that some transition needs will do.
        bool possible = false;
        for (const int mask : {0, IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS,
                               IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_QKEY,
                               IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN,
                               IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                                   IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER,
                               int{IBV_QP_SQ_PSN},
                               IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                                   IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC}) {
          possible |= TransitionAllowed(type, from, to, IBV_QP_STATE | mask);
        }
        const bool listed = pairs.count({from, to}) != 0 ||
                            (from == IBV_QPS_SQE && to == IBV_QPS_RTS && type != IBV_QPT_RC);
        EXPECT_EQ(possible, listed) << type << ": " << from << " to " << to;
      }
    }
  }
}

TEST(TransitionsTest, ServicesThatAreNotServedHaveNone) {
  EXPECT_FALSE(TransitionAllowed(IBV_QPT_RAW_PACKET, IBV_QPS_RESET, IBV_QPS_INIT,
                                 IBV_QP_STATE | IBV_QP_PORT));
  EXPECT_FALSE(TransitionAllowed(IBV_QPT_RAW_PACKET, IBV_QPS_INIT, IBV_QPS_ERR, IBV_QP_STATE));
}

}  // namespace
}  // namespace urxe
