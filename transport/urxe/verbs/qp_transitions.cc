#include "transport/urxe/verbs/qp_transitions.h"

namespace urxe {
namespace {

// Services that a row is for.
constexpr unsigned kRc = 1;
constexpr unsigned kUc = 2;
constexpr unsigned kUd = 4;

constexpr int kCurrent = IBV_QP_CUR_STATE;
constexpr int kAccess = IBV_QP_ACCESS_FLAGS;
constexpr int kPkey = IBV_QP_PKEY_INDEX;
constexpr int kPort = IBV_QP_PORT;
constexpr int kQkey = IBV_QP_QKEY;
constexpr int kAv = IBV_QP_AV;
constexpr int kAlt = IBV_QP_ALT_PATH;
constexpr int kMig = IBV_QP_PATH_MIG_STATE;
constexpr int kRnr = IBV_QP_MIN_RNR_TIMER;
constexpr int kPath = IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN;
constexpr int kRetry = IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY;
constexpr int kReads = IBV_QP_MAX_QP_RD_ATOMIC;
constexpr int kServedReads = IBV_QP_MAX_DEST_RD_ATOMIC;

struct Row {
  ibv_qp_state from;
  ibv_qp_state to;
  unsigned services;
  int required;
  int optional;
};

// Any state to RESET or ERR takes no attributes and has no row.
constexpr Row kTable[] = {
    {IBV_QPS_RESET, IBV_QPS_INIT, kRc | kUc, kPkey | kPort | kAccess, 0},
    {IBV_QPS_RESET, IBV_QPS_INIT, kUd, kPkey | kPort | kQkey, 0},

    {IBV_QPS_INIT, IBV_QPS_INIT, kRc | kUc, 0, kPkey | kPort | kAccess},
    {IBV_QPS_INIT, IBV_QPS_INIT, kUd, 0, kPkey | kPort | kQkey},

    {IBV_QPS_INIT, IBV_QPS_RTR, kRc, kPath | kServedReads | kRnr, kAlt | kAccess | kPkey},
    {IBV_QPS_INIT, IBV_QPS_RTR, kUc, kPath, kAlt | kAccess | kPkey},
    {IBV_QPS_INIT, IBV_QPS_RTR, kUd, 0, kPkey | kQkey},

    {IBV_QPS_RTR, IBV_QPS_RTS, kRc, kRetry | IBV_QP_SQ_PSN | kReads,
     kCurrent | kAlt | kAccess | kRnr | kMig},
    {IBV_QPS_RTR, IBV_QPS_RTS, kUc, IBV_QP_SQ_PSN, kCurrent | kAlt | kAccess | kMig},
    {IBV_QPS_RTR, IBV_QPS_RTS, kUd, IBV_QP_SQ_PSN, kCurrent | kQkey},

    {IBV_QPS_RTS, IBV_QPS_RTS, kRc, 0, kCurrent | kAlt | kAccess | kRnr | kMig},
    {IBV_QPS_RTS, IBV_QPS_RTS, kUc, 0, kCurrent | kAlt | kAccess | kMig},
    {IBV_QPS_RTS, IBV_QPS_RTS, kUd, 0, kCurrent | kQkey},

    {IBV_QPS_RTS, IBV_QPS_SQD, kRc | kUc | kUd, 0, IBV_QP_EN_SQD_ASYNC_NOTIFY},

    {IBV_QPS_SQD, IBV_QPS_SQD, kRc, 0,
     kPort | kAv | kRetry | kReads | kServedReads | kAlt | kAccess | kPkey | kRnr | kMig},
    {IBV_QPS_SQD, IBV_QPS_SQD, kUc, 0, kAv | kAlt | kAccess | kPkey | kMig},
    {IBV_QPS_SQD, IBV_QPS_SQD, kUd, 0, kPkey | kQkey},

    {IBV_QPS_SQD, IBV_QPS_RTS, kRc, 0, kCurrent | kAlt | kAccess | kRnr | kMig},
    {IBV_QPS_SQD, IBV_QPS_RTS, kUc, 0, kCurrent | kAlt | kAccess | kMig},
    {IBV_QPS_SQD, IBV_QPS_RTS, kUd, 0, kCurrent | kQkey},

    {IBV_QPS_SQE, IBV_QPS_RTS, kUc, 0, kCurrent | kAccess},
    {IBV_QPS_SQE, IBV_QPS_RTS, kUd, 0, kCurrent | kQkey},
};

unsigned ServiceOf(ibv_qp_type type) {
  switch (type) {
    case IBV_QPT_RC:
      return kRc;
    case IBV_QPT_UC:
      return kUc;
    case IBV_QPT_UD:
      return kUd;
    default:
      return 0;
  }
}

}  // namespace

bool TransitionAllowed(ibv_qp_type type, ibv_qp_state from, ibv_qp_state to, int mask) {
  const unsigned service = ServiceOf(type);
  const int given = mask & ~IBV_QP_STATE;
  if (to == IBV_QPS_RESET || to == IBV_QPS_ERR) {
    return service != 0 && (given & ~kCurrent) == 0;
  }
  for (const Row& row : kTable) {
    if (row.from != from || row.to != to || (row.services & service) == 0) continue;
    return (given & row.required) == row.required && (given & ~(row.required | row.optional)) == 0;
  }
  return false;
}

}  // namespace urxe
