// Making, querying and destroying queue pairs (IBTA vol. 1, 11.2.5); modify_qp.cc changes them.
#include <cerrno>
#include <memory>

#include "transport/urxe/verbs/context.h"
#include "transport/urxe/verbs/system.h"
#include "transport/urxe/verbs/work_requests.h"

namespace urxe {
namespace {

int CheckAttributes(const ibv_context* context, const ibv_qp_init_attr_ex& attributes) {
  switch (attributes.qp_type) {
    case IBV_QPT_RC:
    case IBV_QPT_UC:
    case IBV_QPT_UD:
      break;
    default:
      return EOPNOTSUPP;
  }
  if (attributes.pd == nullptr || attributes.pd->context != context) return EINVAL;
  if (attributes.send_cq == nullptr || attributes.send_cq->context != context) return EINVAL;
  if (attributes.recv_cq == nullptr || attributes.recv_cq->context != context) return EINVAL;
  if (attributes.srq != nullptr && attributes.srq->context != context) return EINVAL;
  const ibv_qp_cap& cap = attributes.cap;
  if (cap.max_send_wr > kMaxQpWr || cap.max_send_sge > kMaxSge) return EINVAL;
  if (cap.max_inline_data > kMaxInline) return EINVAL;
  if (attributes.srq == nullptr && (cap.max_recv_wr > kMaxQpWr || cap.max_recv_sge > kMaxSge)) {
    return EINVAL;
  }
  return 0;
}

// The operations that ibv_wr_* has for a service.
uint64_t SendOperationsOf(ibv_qp_type type) {
  uint64_t operations = IBV_QP_EX_WITH_SEND | IBV_QP_EX_WITH_SEND_WITH_IMM;
  if (type != IBV_QPT_UD) {
    operations |= IBV_QP_EX_WITH_RDMA_WRITE | IBV_QP_EX_WITH_RDMA_WRITE_WITH_IMM;
  }
  if (type == IBV_QPT_RC) {
    operations |= IBV_QP_EX_WITH_RDMA_READ | IBV_QP_EX_WITH_ATOMIC_CMP_AND_SWP |
                  IBV_QP_EX_WITH_ATOMIC_FETCH_AND_ADD;
  }
  return operations;
}

ibv_qp* Create(ibv_context* context, ibv_qp_init_attr_ex& attributes) {
  if (const int error = CheckAttributes(context, attributes); error != 0) {
    errno = error;
    return nullptr;
  }
  auto qp = std::unique_ptr<VerbsQueuePair>(new VerbsQueuePair());
  ibv_qp& base = qp->qp_base;
  base.context = context;
  base.qp_context = attributes.qp_context;
  base.pd = attributes.pd;
  base.send_cq = attributes.send_cq;
  base.recv_cq = attributes.recv_cq;
  base.srq = attributes.srq;
  base.qp_type = attributes.qp_type;
  qp->pd_handle = attributes.pd->handle;
  qp->signal_all = attributes.sq_sig_all != 0;
  qp->cap = attributes.cap;
  qp->send = &Urxe(attributes.send_cq);
  qp->receive = &Urxe(attributes.recv_cq);
  if (attributes.srq != nullptr) {
    qp->shared = &Urxe(attributes.srq);
    qp->cap.max_recv_wr = qp->cap.max_recv_sge = 0;
  }
  // Datagrams have no path MTU of their own: they may be as long as the port permits.
  if (base.qp_type == IBV_QPT_UD) qp->attr.path_mtu = Urxe(context).device->active_mtu();
  Engine& engine = *Urxe(context).engine;
  {
    const std::lock_guard guard(engine.lock);
    if (const int error = engine.Add(*qp); error != 0) {
      errno = error;
      return nullptr;
    }
  }
  base.handle = base.qp_num;
  pthread_mutex_init(&base.mutex, nullptr);
  pthread_cond_init(&base.cond, nullptr);
  attributes.cap = qp->cap;
  ++qp->send->users;
  ++qp->receive->users;
  if (qp->shared != nullptr) ++qp->shared->users;
  ++Urxe(base.pd).users;
  ++Urxe(context).users;
  return &qp.release()->qp_base;
}

ibv_qp* CreateEx(ibv_context* context, ibv_qp_init_attr_ex* attributes) {
  constexpr uint32_t kMask =
      IBV_QP_INIT_ATTR_PD | IBV_QP_INIT_ATTR_CREATE_FLAGS | IBV_QP_INIT_ATTR_SEND_OPS_FLAGS;
  const uint32_t mask = attributes->comp_mask;
  const bool flags = (mask & IBV_QP_INIT_ATTR_CREATE_FLAGS) != 0 && attributes->create_flags != 0;
  const bool extended = (mask & IBV_QP_INIT_ATTR_SEND_OPS_FLAGS) != 0;
  if ((mask & ~kMask) != 0 || flags ||
      (extended && (attributes->send_ops_flags & ~SendOperationsOf(attributes->qp_type)) != 0)) {
    errno = EOPNOTSUPP;
    return nullptr;
  }
  if ((mask & IBV_QP_INIT_ATTR_PD) == 0) {
    errno = EINVAL;
    return nullptr;
  }
  ibv_qp* qp = Create(context, *attributes);
  if (qp != nullptr && extended) SetWorkRequests(Urxe(qp));
  return qp;
}

void Query(QueuePair& qp, ibv_qp_attr& attributes, ibv_qp_init_attr* init) {
  {
    const std::lock_guard guard(qp.engine->lock);
    attributes = qp.attr;
    attributes.qp_state = attributes.cur_qp_state = qp.qp_base.state;
    attributes.sq_draining =
        qp.qp_base.state == IBV_QPS_SQD && qp.first != qp.next;  // what was started goes on
  }
  attributes.path_mig_state = IBV_MIG_MIGRATED;
  attributes.cap = qp.cap;
  if (init == nullptr) return;
  *init = {};
  init->qp_context = qp.qp_base.qp_context;
  init->send_cq = qp.qp_base.send_cq;
  init->recv_cq = qp.qp_base.recv_cq;
  init->srq = qp.qp_base.srq;
  init->cap = qp.cap;
  init->qp_type = qp.qp_base.qp_type;
  init->sq_sig_all = qp.signal_all ? 1 : 0;
}

int Destroy(VerbsQueuePair& qp) {
  ibv_qp& base = qp.qp_base;
  {
    const std::lock_guard guard(qp.engine->lock);
    qp.engine->Remove(qp);
    Forget(*qp.send, base.qp_num);
    Forget(*qp.receive, base.qp_num);
  }
  AwaitAcknowledged(base.mutex, base.cond, base.events_completed,
                    DropEvents(base.context, &base, qp.events_taken));
  pthread_cond_destroy(&base.cond);
  pthread_mutex_destroy(&base.mutex);
  --qp.send->users;
  --qp.receive->users;
  if (qp.shared != nullptr) --qp.shared->users;
  --Urxe(base.pd).users;
  Release(base.context);
  delete &qp;
  return 0;
}

int PostSendOperation(ibv_qp* qp, ibv_send_wr* request, ibv_send_wr** bad) {
  QueuePair& pair = Urxe(qp);
  return pair.engine->PostSend(pair, request, bad);
}

int PostReceiveOperation(ibv_qp* qp, ibv_recv_wr* request, ibv_recv_wr** bad) {
  QueuePair& pair = Urxe(qp);
  return pair.engine->PostReceive(pair, request, bad);
}

}  // namespace

void SetQueuePairOperations(Context& context) {
  context.context.ops.post_send = PostSendOperation;
  context.context.ops.post_recv = PostReceiveOperation;
  context.create_qp_ex = CreateEx;
}

}  // namespace urxe

using namespace urxe;

extern "C" {

ibv_qp* ibv_create_qp(ibv_pd* pd, ibv_qp_init_attr* attributes) {
  if (!IsUrxe(pd->context)) return URXE_SYSTEM(ibv_create_qp, pd, attributes);
  ibv_qp_init_attr_ex extended = {};
  extended.qp_context = attributes->qp_context;
  extended.send_cq = attributes->send_cq;
  extended.recv_cq = attributes->recv_cq;
  extended.srq = attributes->srq;
  extended.cap = attributes->cap;
  extended.qp_type = attributes->qp_type;
  extended.sq_sig_all = attributes->sq_sig_all;
  extended.pd = pd;
  ibv_qp* qp = Create(pd->context, extended);
  if (qp != nullptr) attributes->cap = extended.cap;
  return qp;
}

ibv_qp_ex* ibv_qp_to_qp_ex(ibv_qp* qp) {
  if (!IsUrxe(qp->context)) return URXE_SYSTEM(ibv_qp_to_qp_ex, qp);
  QueuePair& pair = Urxe(qp);
  return pair.extended ? &pair : nullptr;
}

int ibv_query_qp(ibv_qp* qp, ibv_qp_attr* attributes, int mask, ibv_qp_init_attr* init) {
  if (!IsUrxe(qp->context)) return URXE_SYSTEM(ibv_query_qp, qp, attributes, mask, init);
  Query(Urxe(qp), *attributes, init);
  return 0;
}

int ibv_destroy_qp(ibv_qp* qp) {
  if (!IsUrxe(qp->context)) return URXE_SYSTEM(ibv_destroy_qp, qp);
  return Destroy(static_cast<VerbsQueuePair&>(Urxe(qp)));
}

// Whether a reader that polls on the last byte of a message may trust those before it.
int ibv_query_qp_data_in_order(ibv_qp* qp, ibv_wr_opcode opcode, uint32_t flags);
int ibv_query_qp_data_in_order(ibv_qp* qp, ibv_wr_opcode opcode, uint32_t flags) {
  if (!IsUrxe(qp->context)) return URXE_SYSTEM(ibv_query_qp_data_in_order, qp, opcode, flags);
  return 0;
}

// Vendors' extensions of connecting: there are none.
int ibv_set_ece(ibv_qp* qp, ibv_ece* ece) {
  if (!IsUrxe(qp->context)) return URXE_SYSTEM(ibv_set_ece, qp, ece);
  return errno = EOPNOTSUPP;
}

int ibv_query_ece(ibv_qp* qp, ibv_ece* ece) {
  if (!IsUrxe(qp->context)) return URXE_SYSTEM(ibv_query_ece, qp, ece);
  *ece = {};
  return errno = EOPNOTSUPP;
}

// Multicast is not claimed: max_mcast_grp is 0.
int ibv_attach_mcast(ibv_qp* qp, const ibv_gid* gid, uint16_t lid) {
  if (!IsUrxe(qp->context)) return URXE_SYSTEM(ibv_attach_mcast, qp, gid, lid);
  return EOPNOTSUPP;
}

int ibv_detach_mcast(ibv_qp* qp, const ibv_gid* gid, uint16_t lid) {
  if (!IsUrxe(qp->context)) return URXE_SYSTEM(ibv_detach_mcast, qp, gid, lid);
  return EOPNOTSUPP;
}

}  // extern "C"
