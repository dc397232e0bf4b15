// What an application holds of a urxe device: the context and the objects that only the ABI knows.
#pragma once

#include <infiniband/verbs.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "transport/urxe/engine/engine.h"
#include "transport/urxe/engine/event_queue.h"
#include "transport/urxe/verbs/device.h"

namespace urxe {

struct Context : verbs_context {
  Device* device = nullptr;
  Engine* engine = nullptr;
  std::atomic<uint32_t> users{1};      // objects made of it, and the program until it closes it
  EventQueue<ibv_async_event> events;  // async_fd is its descriptor
};

// A protection domain, or a parent domain of one: both have the handle that keys are checked by.
struct ProtectionDomain : ibv_pd {
  ProtectionDomain* parent_of = nullptr;  // what a parent domain was made of
  std::atomic<uint32_t> users{0};         // regions, queues, address handles, parent domains
};

// True for contexts that ibv_open_device made of a urxe device.
bool IsUrxe(const ibv_context* context);
inline Context& Urxe(ibv_context* context) {
  std::byte* outer = reinterpret_cast<std::byte*>(context) - offsetof(verbs_context, context);
  return *static_cast<Context*>(reinterpret_cast<verbs_context*>(outer));
}
inline const Context& Urxe(const ibv_context* context) {
  return Urxe(const_cast<ibv_context*>(context));
}
inline ProtectionDomain& Urxe(ibv_pd* pd) { return *static_cast<ProtectionDomain*>(pd); }
inline CompletionQueue& Urxe(ibv_cq* cq) {
  return *static_cast<CompletionQueue*>(reinterpret_cast<ibv_cq_ex*>(cq));
}
inline CompletionQueue& Urxe(ibv_cq_ex* cq) { return *static_cast<CompletionQueue*>(cq); }
inline QueuePair& Urxe(ibv_qp* qp) {
  return *static_cast<QueuePair*>(reinterpret_cast<ibv_qp_ex*>(qp));
}
inline QueuePair& Urxe(ibv_qp_ex* qp) { return *static_cast<QueuePair*>(qp); }
inline SharedReceiveQueue& Urxe(ibv_srq* srq) { return *static_cast<SharedReceiveQueue*>(srq); }

// An object of the context is gone, or the context is closed: the last one destroys it.
void Release(ibv_context* context);

// Waits until an object's events were acknowledged (ibv_destroy_* must, IBTA has no such rule but
// programs rely on it): `completed` is counted under the object's own mutex.
void AwaitAcknowledged(pthread_mutex_t& mutex, pthread_cond_t& changed, const uint32_t& completed,
                       uint32_t taken);
// Drops the events of an object that nobody took; returns how many were taken, by `taken`.
uint32_t DropEvents(ibv_context* context, const void* object, const uint32_t& taken);

// Counters are written at exit (URXE_COUNTERS) by processes that opened a device.
void NoteOpened();

// The parts of a context's operations, each beside what it does.
void SetDeviceOperations(Context& context);
void SetMemoryOperations(Context& context);
void SetCompletionOperations(Context& context);
void SetSharedReceiveOperations(Context& context);
void SetQueuePairOperations(Context& context);

// start_poll, read_* and the rest of ibv_cq_ex.
void SetPolling(CompletionQueue& cq);

}  // namespace urxe
