// Shared receive queues (IBTA vol. 1, 11.2.3).
#include <cerrno>
#include <memory>

#include "transport/urxe/verbs/context.h"
#include "transport/urxe/verbs/system.h"

namespace urxe {
namespace {

std::atomic<uint32_t> next_number{1};

ibv_srq* Create(ibv_pd* pd, void* srq_context, ibv_srq_attr& attributes) {
  if (attributes.max_wr == 0 || attributes.max_wr > kMaxSrqWr || attributes.max_sge > kMaxSge ||
      attributes.srq_limit > attributes.max_wr) {
    errno = EINVAL;
    return nullptr;
  }
  ibv_context* context = pd->context;
  Engine& engine = *Urxe(context).engine;
  auto srq = std::unique_ptr<SharedReceiveQueue>(new SharedReceiveQueue());
  {
    const std::lock_guard guard(engine.lock);
    void* memory =
        engine.arena().Allocate(ReceiveRing::SizeFor(attributes.max_wr, attributes.max_sge));
    if (memory == nullptr) {
      errno = ENOMEM;
      return nullptr;
    }
    srq->ring = ReceiveRing::Make(memory, attributes.max_wr, attributes.max_sge);
  }
  srq->context = context;
  srq->srq_context = srq_context;
  srq->ibv_srq::pd = pd;
  srq->engine = &engine;
  srq->pd = pd->handle;
  srq->number = next_number++;
  srq->handle = srq->number;
  pthread_mutex_init(&srq->mutex, nullptr);
  pthread_cond_init(&srq->cond, nullptr);
  ++Urxe(pd).users;
  ++Urxe(context).users;
  return srq.release();
}

ibv_srq* CreateEx(ibv_context* context, ibv_srq_init_attr_ex* attributes) {
  // verbs.h itself turns basic queues with a domain into ibv_create_srq.
  const bool basic = (attributes->comp_mask & IBV_SRQ_INIT_ATTR_TYPE) == 0 ||
                     attributes->srq_type == IBV_SRQT_BASIC;
  if (!basic) {
    errno = EOPNOTSUPP;
    return nullptr;
  }
  if ((attributes->comp_mask & IBV_SRQ_INIT_ATTR_PD) == 0 || attributes->pd == nullptr ||
      attributes->pd->context != context) {
    errno = EINVAL;
    return nullptr;
  }
  return Create(attributes->pd, attributes->srq_context, attributes->attr);
}

int Modify(SharedReceiveQueue& srq, const ibv_srq_attr& attributes, int mask) {
  // Its ring is where same-host peers take from: it keeps its size, as device_cap_flags say.
  if ((mask & IBV_SRQ_MAX_WR) != 0) return EOPNOTSUPP;
  if ((mask & ~IBV_SRQ_LIMIT) != 0) return EINVAL;
  if ((mask & IBV_SRQ_LIMIT) == 0) return 0;
  const std::lock_guard guard(srq.engine->lock);
  if (attributes.srq_limit > srq.ring->max_wr()) return EINVAL;
  srq.limit = attributes.srq_limit;
  return 0;
}

int Destroy(SharedReceiveQueue& srq) {
  if (srq.users != 0) return EBUSY;
  AwaitAcknowledged(srq.mutex, srq.cond, srq.events_completed,
                    DropEvents(srq.context, &srq, srq.events_taken));
  {
    const std::lock_guard guard(srq.engine->lock);
    srq.engine->arena().Free(srq.ring,
                             ReceiveRing::SizeFor(srq.ring->max_wr(), srq.ring->max_sge()));
  }
  pthread_cond_destroy(&srq.cond);
  pthread_mutex_destroy(&srq.mutex);
  --Urxe(srq.ibv_srq::pd).users;
  Release(srq.context);
  delete &srq;
  return 0;
}

int PostOperation(ibv_srq* srq, ibv_recv_wr* request, ibv_recv_wr** bad) {
  SharedReceiveQueue& queue = Urxe(srq);
  return queue.engine->PostSharedReceive(queue, request, bad);
}

int NumberOf(ibv_srq* srq, uint32_t* number) {
  *number = Urxe(srq).number;
  return 0;
}

}  // namespace

void SetSharedReceiveOperations(Context& context) {
  context.context.ops.post_srq_recv = PostOperation;
  context.create_srq_ex = CreateEx;
  context.get_srq_num = NumberOf;
}

}  // namespace urxe

using namespace urxe;

extern "C" {

ibv_srq* ibv_create_srq(ibv_pd* pd, ibv_srq_init_attr* attributes) {
  if (!IsUrxe(pd->context)) return URXE_SYSTEM(ibv_create_srq, pd, attributes);
  return Create(pd, attributes->srq_context, attributes->attr);
}

int ibv_modify_srq(ibv_srq* srq, ibv_srq_attr* attributes, int mask) {
  if (!IsUrxe(srq->context)) return URXE_SYSTEM(ibv_modify_srq, srq, attributes, mask);
  return Modify(Urxe(srq), *attributes, mask);
}

int ibv_query_srq(ibv_srq* srq, ibv_srq_attr* attributes) {
  if (!IsUrxe(srq->context)) return URXE_SYSTEM(ibv_query_srq, srq, attributes);
  SharedReceiveQueue& queue = Urxe(srq);
  const std::lock_guard guard(queue.engine->lock);
  attributes->max_wr = queue.ring->max_wr();
  attributes->max_sge = queue.ring->max_sge();
  attributes->srq_limit = queue.limit;
  return 0;
}

int ibv_destroy_srq(ibv_srq* srq) {
  if (!IsUrxe(srq->context)) return URXE_SYSTEM(ibv_destroy_srq, srq);
  return Destroy(Urxe(srq));
}

}  // extern "C"
