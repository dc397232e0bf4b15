// ibv_modify_qp: checks of a transition and its attributes (IBTA vol. 1, 11.2.5.2).
#include <cerrno>
#include <cstring>

#include "transport/urxe/verbs/context.h"
#include "transport/urxe/verbs/qp_transitions.h"
#include "transport/urxe/verbs/system.h"

namespace urxe {
namespace {

constexpr uint8_t kMaxTimer = 31;  // five bits: local ACK timeout, RNR NAK timer
constexpr uint8_t kMaxRetry = 7;   // three bits
constexpr uint32_t kMaxQpn = 0xFFFFFF;

bool AddressIsGood(const ibv_context* context, const ibv_ah_attr& attributes) {
  Gid gid;
  unsigned interface_index = 0;
  return attributes.port_num == kPort && attributes.is_global != 0 &&
         SourceOf(context, attributes.grh.sgid_index, gid, interface_index);
}

// Whether every attribute that `mask` names is in range.
bool InRange(const QueuePair& qp, const ibv_qp_attr& attributes, int mask) {
  const ibv_context* context = qp.qp_base.context;
  const auto given = [mask](int bit) { return (mask & bit) != 0; };
  if (given(IBV_QP_PKEY_INDEX) && attributes.pkey_index != 0) return false;
  if (given(IBV_QP_PORT) && attributes.port_num != kPort) return false;
  if (given(IBV_QP_AV) && !AddressIsGood(context, attributes.ah_attr)) return false;
  if (given(IBV_QP_PATH_MTU) && (attributes.path_mtu < IBV_MTU_256 ||
                                 attributes.path_mtu > Urxe(context).device->active_mtu())) {
    return false;
  }
  if (given(IBV_QP_DEST_QPN) && attributes.dest_qp_num > kMaxQpn) return false;
  if (given(IBV_QP_TIMEOUT) && attributes.timeout > kMaxTimer) return false;
  if (given(IBV_QP_MIN_RNR_TIMER) && attributes.min_rnr_timer > kMaxTimer) return false;
  if (given(IBV_QP_RETRY_CNT) && attributes.retry_cnt > kMaxRetry) return false;
  if (given(IBV_QP_RNR_RETRY) && attributes.rnr_retry > kMaxRetry) return false;
  if (given(IBV_QP_MAX_QP_RD_ATOMIC) && attributes.max_rd_atomic > kMaxRdAtomic) return false;
  if (given(IBV_QP_MAX_DEST_RD_ATOMIC) && attributes.max_dest_rd_atomic > kMaxRdAtomic) {
    return false;
  }
  // Automatic path migration is not claimed.
  if (given(IBV_QP_ALT_PATH)) return false;
  if (given(IBV_QP_PATH_MIG_STATE) && attributes.path_mig_state != IBV_MIG_MIGRATED) return false;
  return true;
}

void Store(ibv_qp_attr& to, const ibv_qp_attr& from, int mask) {
  const auto given = [mask](int bit) { return (mask & bit) != 0; };
  if (given(IBV_QP_EN_SQD_ASYNC_NOTIFY)) to.en_sqd_async_notify = from.en_sqd_async_notify;
  if (given(IBV_QP_ACCESS_FLAGS)) to.qp_access_flags = from.qp_access_flags;
  if (given(IBV_QP_PKEY_INDEX)) to.pkey_index = from.pkey_index;
  if (given(IBV_QP_PORT)) to.port_num = from.port_num;
  if (given(IBV_QP_QKEY)) to.qkey = from.qkey;
  if (given(IBV_QP_AV)) to.ah_attr = from.ah_attr;
  if (given(IBV_QP_PATH_MTU)) to.path_mtu = from.path_mtu;
  if (given(IBV_QP_TIMEOUT)) to.timeout = from.timeout;
  if (given(IBV_QP_RETRY_CNT)) to.retry_cnt = from.retry_cnt;
  if (given(IBV_QP_RNR_RETRY)) to.rnr_retry = from.rnr_retry;
  if (given(IBV_QP_RQ_PSN)) to.rq_psn = from.rq_psn & kPsnMask;
  if (given(IBV_QP_SQ_PSN)) to.sq_psn = from.sq_psn & kPsnMask;
  if (given(IBV_QP_MAX_QP_RD_ATOMIC)) to.max_rd_atomic = from.max_rd_atomic;
  if (given(IBV_QP_MAX_DEST_RD_ATOMIC)) to.max_dest_rd_atomic = from.max_dest_rd_atomic;
  if (given(IBV_QP_MIN_RNR_TIMER)) to.min_rnr_timer = from.min_rnr_timer;
  if (given(IBV_QP_DEST_QPN)) to.dest_qp_num = from.dest_qp_num;
}

// Whether the path may become `to` in SQD: another class or hop limit, but not another address,
// since the engine decides at RTR how a peer is reached.
bool SamePath(const ibv_ah_attr& from, const ibv_ah_attr& to) {
  return memcmp(&from.grh.dgid, &to.grh.dgid, sizeof(to.grh.dgid)) == 0 &&
         from.grh.sgid_index == to.grh.sgid_index;
}

// Attributes changed within a state: what the engine derived from them follows.
void Adjust(QueuePair& qp, int mask) {
  if ((mask & IBV_QP_AV) != 0) {
    qp.destination.traffic_class = qp.attr.ah_attr.grh.traffic_class;
    const uint8_t hops = qp.attr.ah_attr.grh.hop_limit;
    if (hops != 0) qp.destination.hop_limit = hops;
  }
  if ((mask & IBV_QP_MAX_DEST_RD_ATOMIC) != 0) {
    qp.responder.resources.resize(qp.attr.max_dest_rd_atomic);
    qp.responder.next_resource = 0;
  }
  qp.engine->SetState(qp, qp.qp_base.state);  // peers see access and timer
}

int MoveTo(QueuePair& qp, ibv_qp_state to) {
  Engine& engine = *qp.engine;
  switch (to) {
    case IBV_QPS_RESET: {
      const ibv_mtu port_mtu = qp.attr.path_mtu;
      qp.attr = {};
      if (qp.qp_base.qp_type == IBV_QPT_UD) qp.attr.path_mtu = port_mtu;
      engine.Reset(qp);
      Forget(*qp.send, qp.qp_base.qp_num);
      Forget(*qp.receive, qp.qp_base.qp_num);
      return 0;
    }
    case IBV_QPS_RTR:
      return engine.Connect(qp);
    case IBV_QPS_RTS:
      engine.StartSending(qp);
      return 0;
    case IBV_QPS_SQD:
      engine.Drain(qp);
      return 0;
    case IBV_QPS_ERR:
      engine.Fail(qp);
      return 0;
    default:
      engine.SetState(qp, to);
      return 0;
  }
}

int Modify(QueuePair& qp, const ibv_qp_attr& attributes, int mask) {
  const std::lock_guard guard(qp.engine->lock);
  const ibv_qp_state from = qp.qp_base.state;
  if ((mask & IBV_QP_CUR_STATE) != 0 && attributes.cur_qp_state != from) return EINVAL;
  const ibv_qp_state to = (mask & IBV_QP_STATE) != 0 ? attributes.qp_state : from;
  if (!TransitionAllowed(qp.qp_base.qp_type, from, to, mask) || !InRange(qp, attributes, mask)) {
    return EINVAL;
  }
  const bool stays = from == to && to != IBV_QPS_RESET;
  if (from == IBV_QPS_SQD && stays && (mask & IBV_QP_AV) != 0 &&
      !SamePath(qp.attr.ah_attr, attributes.ah_attr)) {
    return EINVAL;
  }
  const ibv_qp_attr before = qp.attr;
  Store(qp.attr, attributes, mask);
  if (stays) {
    Adjust(qp, mask);
    return 0;
  }
  const int error = MoveTo(qp, to);
  if (error != 0) {
    qp.attr = before;
    // Of a path that was found but cannot be taken nothing stays.
    qp.endpoint = nullptr;
    qp.window = nullptr;
    qp.local = nullptr;
  }
  return error;
}

}  // namespace
}  // namespace urxe

using namespace urxe;

extern "C" int ibv_modify_qp(ibv_qp* qp, ibv_qp_attr* attributes, int mask) {
  if (!IsUrxe(qp->context)) return URXE_SYSTEM(ibv_modify_qp, qp, attributes, mask);
  return Modify(Urxe(qp), *attributes, mask);
}
