// Queue pairs, with their states and attributes, and shared receive queues: libibverbs' functions
// to create, modify, query and destroy them.
#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <deque>
#include <iterator>
#include <memory>

#include "tests/support/fake_calls.h"
#include "tests/support/fake_fabric.h"

namespace gradwire::test {
namespace {

constexpr uint32_t kMax24Bits = (1u << 24) - 1;

// The attributes that each transition of a reliable connection needs and those that it allows
// beside them: ibv_modify_qp(3).
struct Transition {
  ibv_qp_state from;
  ibv_qp_state to;
  int needed;
  int allowed;
};
constexpr Transition kTransitions[] = {
    {IBV_QPS_RESET, IBV_QPS_INIT, IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS, 0},
    {IBV_QPS_INIT, IBV_QPS_INIT, 0, IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS},
    {IBV_QPS_INIT, IBV_QPS_RTR,
     IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC |
         IBV_QP_MIN_RNR_TIMER,
     IBV_QP_PKEY_INDEX | IBV_QP_ACCESS_FLAGS | IBV_QP_ALT_PATH},
    {IBV_QPS_RTR, IBV_QPS_RTS,
     IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC,
     IBV_QP_ACCESS_FLAGS | IBV_QP_MIN_RNR_TIMER | IBV_QP_ALT_PATH | IBV_QP_PATH_MIG_STATE},
    {IBV_QPS_RTS, IBV_QPS_RTS, 0, IBV_QP_ACCESS_FLAGS | IBV_QP_MIN_RNR_TIMER},
};

bool Allowed(ibv_qp_state from, ibv_qp_state to, int mask) {
  const int others = mask & ~(IBV_QP_STATE | IBV_QP_CUR_STATE);
  if (to == IBV_QPS_RESET || to == IBV_QPS_ERR) return others == 0;
  return std::any_of(std::begin(kTransitions), std::end(kTransitions), [&](const auto& row) {
    return row.from == from && row.to == to && (others & row.needed) == row.needed &&
           (others & ~(row.needed | row.allowed)) == 0;
  });
}

// Whether the values that `mask` names are ones that this device takes.
bool ValuesFit(ibv_context* context, const ibv_qp_attr& now, const ibv_qp_attr& next, int mask) {
  const uint8_t number = (mask & IBV_QP_PORT) != 0 ? next.port_num : now.port_num;
  const FakePort* port = FindPort(context, number);
  if (port == nullptr) return false;
  if ((mask & IBV_QP_AV) != 0) {
    const ibv_ah_attr& address = next.ah_attr;
    if (address.port_num != number || (port->ethernet && address.is_global == 0)) return false;
    const auto has_index = [&](const FakeGid& gid) { return gid.index == address.grh.sgid_index; };
    if (address.is_global != 0 && std::none_of(port->gids.begin(), port->gids.end(), has_index)) {
      return false;
    }
  }
  if ((mask & IBV_QP_PATH_MTU) != 0 && (next.path_mtu < IBV_MTU_256 || next.path_mtu > port->mtu)) {
    return false;
  }
  return ((mask & IBV_QP_DEST_QPN) == 0 || next.dest_qp_num <= kMax24Bits) &&
         ((mask & IBV_QP_RQ_PSN) == 0 || next.rq_psn <= kMax24Bits) &&
         ((mask & IBV_QP_SQ_PSN) == 0 || next.sq_psn <= kMax24Bits) &&
         ((mask & IBV_QP_TIMEOUT) == 0 || next.timeout <= 31) &&
         ((mask & IBV_QP_RETRY_CNT) == 0 || next.retry_cnt <= 7) &&
         ((mask & IBV_QP_RNR_RETRY) == 0 || next.rnr_retry <= 7) &&
         ((mask & IBV_QP_MIN_RNR_TIMER) == 0 || next.min_rnr_timer <= 31) &&
         ((mask & IBV_QP_MAX_QP_RD_ATOMIC) == 0 || next.max_rd_atomic <= kMaxReads) &&
         ((mask & IBV_QP_MAX_DEST_RD_ATOMIC) == 0 || next.max_dest_rd_atomic <= kMaxReads);
}

void Apply(ibv_qp_attr& now, const ibv_qp_attr& next, int mask) {
  if ((mask & IBV_QP_PKEY_INDEX) != 0) now.pkey_index = next.pkey_index;
  if ((mask & IBV_QP_PORT) != 0) now.port_num = next.port_num;
  if ((mask & IBV_QP_ACCESS_FLAGS) != 0) now.qp_access_flags = next.qp_access_flags;
  if ((mask & IBV_QP_AV) != 0) now.ah_attr = next.ah_attr;
  if ((mask & IBV_QP_PATH_MTU) != 0) now.path_mtu = next.path_mtu;
  if ((mask & IBV_QP_DEST_QPN) != 0) now.dest_qp_num = next.dest_qp_num;
  if ((mask & IBV_QP_RQ_PSN) != 0) now.rq_psn = next.rq_psn;
  if ((mask & IBV_QP_SQ_PSN) != 0) now.sq_psn = next.sq_psn;
  if ((mask & IBV_QP_TIMEOUT) != 0) now.timeout = next.timeout;
  if ((mask & IBV_QP_RETRY_CNT) != 0) now.retry_cnt = next.retry_cnt;
  if ((mask & IBV_QP_RNR_RETRY) != 0) now.rnr_retry = next.rnr_retry;
  if ((mask & IBV_QP_MIN_RNR_TIMER) != 0) now.min_rnr_timer = next.min_rnr_timer;
  if ((mask & IBV_QP_MAX_QP_RD_ATOMIC) != 0) now.max_rd_atomic = next.max_rd_atomic;
  if ((mask & IBV_QP_MAX_DEST_RD_ATOMIC) != 0) now.max_dest_rd_atomic = next.max_dest_rd_atomic;
}

bool IsQueuePairEvent(ibv_event_type type) {
  switch (type) {
    case IBV_EVENT_QP_FATAL:
    case IBV_EVENT_QP_REQ_ERR:
    case IBV_EVENT_QP_ACCESS_ERR:
    case IBV_EVENT_COMM_EST:
    case IBV_EVENT_SQ_DRAINED:
    case IBV_EVENT_QP_LAST_WQE_REACHED:
      return true;
    default:
      return false;
  }
}

}  // namespace

}  // namespace gradwire::test

using namespace gradwire::test;  // NOLINT: the functions below belong to no namespace

extern "C" {

ibv_srq* ibv_create_srq(ibv_pd* domain, ibv_srq_init_attr* attributes) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  if (const int error = fabric.TakeFailure("ibv_create_srq"); error != 0) return Null(error);
  const FakeDevice& device = static_cast<Context*>(domain->context)->object().description;
  if (!device.has_shared_receive_queues) return Null(EOPNOTSUPP);
  const ibv_srq_attr& wanted = attributes->attr;
  if (wanted.max_wr < 1 || wanted.max_wr > static_cast<uint32_t>(device.max_requests) ||
      wanted.max_sge > kMaxPieces) {
    return Null(EINVAL);
  }
  auto queue = std::make_unique<SharedReceiveObject>();
  queue->context = domain->context;
  queue->pd = domain;
  queue->max_requests = wanted.max_wr;
  queue->max_pieces = wanted.max_sge;
  ++static_cast<Domain*>(domain)->children;
  ++fabric.counters.alive.shared_receive_queues;
  return fabric.Keep(std::move(queue));
}

int ibv_destroy_srq(ibv_srq* queue) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  FAKE_FAIL_IF_ARMED("ibv_destroy_srq");
  auto* object = static_cast<SharedReceiveObject*>(queue);
  if (object->children > 0) return EBUSY;
  --static_cast<Domain*>(queue->pd)->children;
  --fabric.counters.alive.shared_receive_queues;
  fabric.Drop(object);
  return 0;
}

ibv_qp* ibv_create_qp(ibv_pd* domain, ibv_qp_init_attr* initial) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  if (const int error = fabric.TakeFailure("ibv_create_qp"); error != 0) return Null(error);
  const FakeDevice& device = static_cast<Context*>(domain->context)->object().description;
  const ibv_qp_cap& cap = initial->cap;
  const auto most = static_cast<uint32_t>(device.max_requests);
  if (initial->qp_type != IBV_QPT_RC || initial->send_cq == nullptr ||
      initial->recv_cq == nullptr || cap.max_send_wr > most || cap.max_recv_wr > most ||
      cap.max_send_sge > kMaxPieces || cap.max_recv_sge > kMaxPieces ||
      cap.max_inline_data > static_cast<uint32_t>(device.max_inline_bytes)) {
    return Null(EINVAL);
  }
  auto queue_pair = std::make_unique<QueuePairObject>();
  queue_pair->context = domain->context;
  queue_pair->qp_context = initial->qp_context;
  queue_pair->pd = domain;
  queue_pair->send_cq = initial->send_cq;
  queue_pair->recv_cq = initial->recv_cq;
  queue_pair->srq = initial->srq;
  queue_pair->qp_num = fabric.next_number++ & kMax24Bits;
  queue_pair->state = IBV_QPS_RESET;
  queue_pair->qp_type = IBV_QPT_RC;
  queue_pair->initial = *initial;
  ++static_cast<Domain*>(domain)->children;
  ++queue_pair->sends().children;
  ++queue_pair->arrivals().children;
  if (initial->srq != nullptr) ++static_cast<SharedReceiveObject*>(initial->srq)->children;
  fabric.queue_pairs[queue_pair->qp_num] = queue_pair.get();
  ++fabric.counters.alive.queue_pairs;
  return fabric.Keep(std::move(queue_pair));
}

int ibv_modify_qp(ibv_qp* queue_pair, ibv_qp_attr* attributes, int mask) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  FAKE_FAIL_IF_ARMED("ibv_modify_qp");
  auto& object = *static_cast<QueuePairObject*>(queue_pair);
  const ibv_qp_state next = (mask & IBV_QP_STATE) != 0 ? attributes->qp_state : object.state;
  if ((mask & IBV_QP_CUR_STATE) != 0 && attributes->cur_qp_state != object.state) return EINVAL;
  if (!Allowed(object.state, next, mask)) return EINVAL;
  if (next == IBV_QPS_ERR) {
    fabric.Break(object);
    return 0;
  }
  if (next == IBV_QPS_RESET) {
    fabric.Clear(object);
    object.attributes = {};
    object.state = IBV_QPS_RESET;
    return 0;
  }
  if (!ValuesFit(object.context, object.attributes, *attributes, mask)) return EINVAL;
  Apply(object.attributes, *attributes, mask);
  object.state = next;
  if (next == IBV_QPS_RTR) fabric.DeliverTo(object);
  return 0;
}

int ibv_query_qp(ibv_qp* queue_pair, ibv_qp_attr* attributes, int, ibv_qp_init_attr* initial) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  FAKE_FAIL_IF_ARMED("ibv_query_qp");
  auto& object = *static_cast<QueuePairObject*>(queue_pair);
  *attributes = object.attributes;
  attributes->qp_state = attributes->cur_qp_state = object.state;
  attributes->cap = object.initial.cap;
  *initial = object.initial;
  return 0;
}

int ibv_destroy_qp(ibv_qp* queue_pair) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  FAKE_FAIL_IF_ARMED("ibv_destroy_qp");
  auto* object = static_cast<QueuePairObject*>(queue_pair);
  fabric.Clear(*object);
  fabric.queue_pairs.erase(object->qp_num);
  fabric.DeliverTo(*object);  // who still sends to it learns that it is gone
  // Events about it go with it.
  std::erase_if(static_cast<Context*>(object->context)->events, [&](const ibv_async_event& event) {
    return IsQueuePairEvent(event.event_type) && event.element.qp == queue_pair;
  });
  --static_cast<Domain*>(object->pd)->children;
  --object->sends().children;
  --object->arrivals().children;
  if (object->srq != nullptr) --static_cast<SharedReceiveObject*>(object->srq)->children;
  --fabric.counters.alive.queue_pairs;
  fabric.Drop(object);
  return 0;
}

}  // extern "C"
