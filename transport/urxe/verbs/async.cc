// Asynchronous events (IBTA vol. 1, 11.6.3).
#include <cerrno>

#include "transport/urxe/verbs/context.h"
#include "transport/urxe/verbs/system.h"

namespace urxe {
namespace {

enum class Element { kNone, kQueuePair, kCompletionQueue, kSharedReceiveQueue };

Element ElementOf(ibv_event_type type) {
  switch (type) {
    case IBV_EVENT_QP_FATAL:
    case IBV_EVENT_QP_REQ_ERR:
    case IBV_EVENT_QP_ACCESS_ERR:
    case IBV_EVENT_COMM_EST:
    case IBV_EVENT_SQ_DRAINED:
    case IBV_EVENT_PATH_MIG:
    case IBV_EVENT_PATH_MIG_ERR:
    case IBV_EVENT_QP_LAST_WQE_REACHED:
      return Element::kQueuePair;
    case IBV_EVENT_CQ_ERR:
      return Element::kCompletionQueue;
    case IBV_EVENT_SRQ_ERR:
    case IBV_EVENT_SRQ_LIMIT_REACHED:
      return Element::kSharedReceiveQueue;
    default:
      return Element::kNone;
  }
}

const void* ObjectOf(const ibv_async_event& event) {
  return ElementOf(event.event_type) == Element::kNone ? nullptr : event.element.qp;
}

void CountTaken(const ibv_async_event& event) {
  switch (ElementOf(event.event_type)) {
    case Element::kQueuePair:
      ++Urxe(event.element.qp).events_taken;
      break;
    case Element::kCompletionQueue:
      ++Urxe(event.element.cq).async_events_taken;
      break;
    case Element::kSharedReceiveQueue:
      ++Urxe(event.element.srq).events_taken;
      break;
    case Element::kNone:
      break;
  }
}

void Acknowledge(pthread_mutex_t& mutex, pthread_cond_t& changed, uint32_t& completed) {
  pthread_mutex_lock(&mutex);
  ++completed;
  pthread_cond_signal(&changed);
  pthread_mutex_unlock(&mutex);
}

}  // namespace

void RaiseEvent(QueuePair& qp, ibv_event_type type) {
  ibv_async_event event = {};
  event.event_type = type;
  event.element.qp = &qp.qp_base;
  Urxe(qp.qp_base.context).events.Push(event);
}

void RaiseEvent(CompletionQueue& cq, ibv_event_type type) {
  ibv_async_event event = {};
  event.event_type = type;
  event.element.cq = ibv_cq_ex_to_cq(&cq);
  Urxe(cq.context).events.Push(event);
}

void RaiseEvent(SharedReceiveQueue& srq, ibv_event_type type) {
  ibv_async_event event = {};
  event.event_type = type;
  event.element.srq = &srq;
  Urxe(srq.context).events.Push(event);
}

uint32_t DropEvents(ibv_context* context, const void* object, const uint32_t& taken) {
  return Urxe(context).events.Remove(
      [&](const ibv_async_event& event) { return ObjectOf(event) == object; }, taken);
}

void AwaitAcknowledged(pthread_mutex_t& mutex, pthread_cond_t& changed, const uint32_t& completed,
                       uint32_t taken) {
  pthread_mutex_lock(&mutex);
  while (completed != taken) pthread_cond_wait(&changed, &mutex);
  pthread_mutex_unlock(&mutex);
}

}  // namespace urxe

using namespace urxe;

extern "C" {

int ibv_get_async_event(ibv_context* context, ibv_async_event* event) {
  if (!IsUrxe(context)) return URXE_SYSTEM(ibv_get_async_event, context, event);
  const int error = Urxe(context).events.Take([&](const ibv_async_event& taken) {
    *event = taken;
    CountTaken(taken);
  });
  if (error == 0) return 0;
  errno = error;
  return -1;
}

void ibv_ack_async_event(ibv_async_event* event) {
  switch (ElementOf(event->event_type)) {
    case Element::kQueuePair: {
      ibv_qp* qp = event->element.qp;
      if (!IsUrxe(qp->context)) break;
      return Acknowledge(qp->mutex, qp->cond, qp->events_completed);
    }
    case Element::kCompletionQueue: {
      ibv_cq* cq = event->element.cq;
      if (!IsUrxe(cq->context)) break;
      return Acknowledge(cq->mutex, cq->cond, cq->async_events_completed);
    }
    case Element::kSharedReceiveQueue: {
      ibv_srq* srq = event->element.srq;
      if (!IsUrxe(srq->context)) break;
      return Acknowledge(srq->mutex, srq->cond, srq->events_completed);
    }
    case Element::kNone:
      break;
  }
  // The system acknowledges what is its own; for events of a port or a device that is nothing.
  URXE_SYSTEM(ibv_ack_async_event, event);
}

}  // extern "C"
