// Completion channels and queues (IBTA vol. 1, 11.2.7 and 11.4.2).
#include <algorithm>
#include <bit>
#include <cerrno>
#include <memory>

#include "transport/urxe/verbs/context.h"
#include "transport/urxe/verbs/system.h"

namespace urxe {
namespace {

constexpr uint64_t kWcFlags = uint64_t{IBV_WC_STANDARD_FLAGS} |
                              IBV_WC_EX_WITH_COMPLETION_TIMESTAMP |
                              IBV_WC_EX_WITH_COMPLETION_TIMESTAMP_WALLCLOCK;
constexpr uint32_t kCreateFlags = IBV_CREATE_CQ_ATTR_SINGLE_THREADED;

// One entry more than reported stays free, so that cqe is what devices report too: 2^n - 1.
size_t RingFor(uint32_t cqe) { return std::bit_ceil(cqe + 1); }

CompletionQueue* MakeQueue(ibv_context* context, const ibv_cq_init_attr_ex& attributes) {
  const uint32_t cqe = attributes.cqe;
  if (cqe == 0 || cqe > kMaxCqe ||
      attributes.comp_vector >= static_cast<uint32_t>(context->num_comp_vectors) ||
      (attributes.channel != nullptr && attributes.channel->context != context)) {
    errno = EINVAL;
    return nullptr;
  }
  auto cq = std::unique_ptr<CompletionQueue>(new CompletionQueue());
  cq->context = context;
  cq->channel = attributes.channel;
  cq->cq_context = attributes.cq_context;
  cq->ring.resize(RingFor(cqe));
  cq->cqe = static_cast<int>(cq->ring.size() - 1);
  cq->engine = Urxe(context).engine;
  pthread_mutex_init(&cq->mutex, nullptr);
  pthread_cond_init(&cq->cond, nullptr);
  if (cq->channel != nullptr) {
    pthread_mutex_lock(&context->mutex);
    ++cq->channel->refcnt;
    pthread_mutex_unlock(&context->mutex);
  }
  ++Urxe(context).users;
  return cq.release();
}

ibv_cq_ex* CreateEx(ibv_context* context, ibv_cq_init_attr_ex* attributes) {
  constexpr uint32_t kMask = IBV_CQ_INIT_ATTR_MASK_FLAGS | IBV_CQ_INIT_ATTR_MASK_PD;
  const uint32_t mask = attributes->comp_mask;
  const uint32_t flags = (mask & IBV_CQ_INIT_ATTR_MASK_FLAGS) != 0 ? attributes->flags : 0;
  if ((attributes->wc_flags & ~kWcFlags) != 0 || (mask & ~kMask) != 0 ||
      (flags & ~kCreateFlags) != 0) {
    errno = EOPNOTSUPP;
    return nullptr;
  }
  if ((mask & IBV_CQ_INIT_ATTR_MASK_PD) != 0 &&
      (attributes->parent_domain == nullptr ||
       Urxe(attributes->parent_domain).parent_of == nullptr)) {
    errno = EINVAL;
    return nullptr;
  }
  CompletionQueue* cq = MakeQueue(context, *attributes);
  if (cq == nullptr) return nullptr;
  cq->single_threaded = (flags & IBV_CREATE_CQ_ATTR_SINGLE_THREADED) != 0;
  cq->timestamps = (attributes->wc_flags & ~uint64_t{IBV_WC_STANDARD_FLAGS}) != 0;
  SetPolling(*cq);
  return cq;
}

int PollOperation(ibv_cq* cq, int count, ibv_wc* wc) { return Poll(Urxe(cq), count, wc); }

int RequestNotify(ibv_cq* cq, int solicited_only) {
  Arm(Urxe(cq), solicited_only != 0);
  return 0;
}

int Modify(ibv_cq* cq, ibv_modify_cq_attr* attributes) {
  if ((attributes->attr_mask & ~uint32_t{IBV_CQ_ATTR_MODERATE}) != 0) return EINVAL;
  if (attributes->attr_mask == 0) return 0;
  CompletionQueue& queue = Urxe(cq);
  const std::lock_guard guard(queue.lock);
  queue.moderation_count = attributes->moderate.cq_count;
  queue.moderation_period = attributes->moderate.cq_period;
  return 0;
}

int Resize(CompletionQueue& cq, int cqe) {
  if (cqe <= 0 || static_cast<uint32_t>(cqe) > kMaxCqe) return EINVAL;
  const std::lock_guard guard(cq.lock);
  const uint32_t waiting = cq.tail - cq.head;
  if (waiting > static_cast<uint32_t>(cqe)) return EINVAL;
  std::vector<Completion> ring(RingFor(static_cast<uint32_t>(cqe)));
  for (uint32_t i = 0; i < waiting; ++i) ring[i] = cq.ring[(cq.head + i) & (cq.ring.size() - 1)];
  cq.ring = std::move(ring);
  cq.head = 0;
  cq.tail = waiting;
  cq.cqe = static_cast<int>(cq.ring.size() - 1);
  return 0;
}

int Destroy(CompletionQueue& cq) {
  if (cq.users != 0) return EBUSY;
  ibv_context* context = cq.context;
  ForgetModerated(cq);
  if (cq.channel != nullptr) {
    auto* channel = static_cast<CompletionChannel*>(cq.channel);
    const uint32_t taken = channel->events.Remove(
        [&](const CompletionQueue* queue) { return queue == &cq; }, cq.events_taken);
    AwaitAcknowledged(cq.mutex, cq.cond, cq.comp_events_completed, taken);
    pthread_mutex_lock(&context->mutex);
    --channel->refcnt;
    pthread_mutex_unlock(&context->mutex);
  }
  AwaitAcknowledged(cq.mutex, cq.cond, cq.async_events_completed,
                    DropEvents(context, &cq, cq.async_events_taken));
  pthread_cond_destroy(&cq.cond);
  pthread_mutex_destroy(&cq.mutex);
  Release(context);
  delete &cq;
  return 0;
}

}  // namespace

bool IsUrxe(const ibv_context* context) {
  return context != nullptr && context->ops.poll_cq == PollOperation;
}

void SetCompletionOperations(Context& context) {
  context.context.ops.poll_cq = PollOperation;
  context.context.ops.req_notify_cq = RequestNotify;
  context.create_cq_ex = CreateEx;
  context.modify_cq = Modify;
}

}  // namespace urxe

using namespace urxe;

extern "C" {

ibv_comp_channel* ibv_create_comp_channel(ibv_context* context) {
  if (!IsUrxe(context)) return URXE_SYSTEM(ibv_create_comp_channel, context);
  auto channel = std::unique_ptr<CompletionChannel>(new CompletionChannel());
  channel->context = context;
  channel->fd = channel->events.Open();
  if (channel->fd < 0) return nullptr;
  ++Urxe(context).users;
  return channel.release();
}

int ibv_destroy_comp_channel(ibv_comp_channel* channel) {
  ibv_context* context = channel->context;
  if (!IsUrxe(context)) return URXE_SYSTEM(ibv_destroy_comp_channel, channel);
  pthread_mutex_lock(&context->mutex);
  const bool used = channel->refcnt != 0;
  pthread_mutex_unlock(&context->mutex);
  if (used) return EBUSY;
  Release(context);
  delete static_cast<CompletionChannel*>(channel);
  return 0;
}

ibv_cq* ibv_create_cq(ibv_context* context, int cqe, void* cq_context, ibv_comp_channel* channel,
                      int comp_vector) {
  if (!IsUrxe(context)) {
    return URXE_SYSTEM(ibv_create_cq, context, cqe, cq_context, channel, comp_vector);
  }
  ibv_cq_init_attr_ex attributes = {};
  attributes.cqe = static_cast<uint32_t>(std::max(cqe, 0));
  attributes.cq_context = cq_context;
  attributes.channel = channel;
  attributes.comp_vector = static_cast<uint32_t>(comp_vector);
  CompletionQueue* cq = MakeQueue(context, attributes);
  return cq == nullptr ? nullptr : ibv_cq_ex_to_cq(cq);
}

int ibv_resize_cq(ibv_cq* cq, int cqe) {
  if (!IsUrxe(cq->context)) return URXE_SYSTEM(ibv_resize_cq, cq, cqe);
  return Resize(Urxe(cq), cqe);
}

int ibv_destroy_cq(ibv_cq* cq) {
  if (!IsUrxe(cq->context)) return URXE_SYSTEM(ibv_destroy_cq, cq);
  return Destroy(Urxe(cq));
}

int ibv_get_cq_event(ibv_comp_channel* channel, ibv_cq** cq, void** cq_context) {
  if (!IsUrxe(channel->context)) return URXE_SYSTEM(ibv_get_cq_event, channel, cq, cq_context);
  const int error =
      static_cast<CompletionChannel*>(channel)->events.Take([&](CompletionQueue* queue) {
        ++queue->events_taken;
        *cq = ibv_cq_ex_to_cq(queue);
        *cq_context = queue->cq_context;
      });
  if (error == 0) return 0;
  errno = error;
  return -1;
}

void ibv_ack_cq_events(ibv_cq* cq, unsigned int count) {
  if (!IsUrxe(cq->context)) return URXE_SYSTEM(ibv_ack_cq_events, cq, count);
  pthread_mutex_lock(&cq->mutex);
  cq->comp_events_completed += count;
  pthread_cond_signal(&cq->cond);
  pthread_mutex_unlock(&cq->mutex);
}

}  // extern "C"
