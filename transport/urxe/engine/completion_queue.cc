#include "transport/urxe/engine/completion_queue.h"

#include <sched.h>

#include <algorithm>

#include "transport/urxe/engine/engine.h"

namespace urxe {
namespace {

// Queues with an event held back. Its lock is taken after a queue's.
struct Moderated {
  std::mutex lock;
  std::vector<CompletionQueue*> queues;
  std::atomic<uint64_t> next{UINT64_MAX};  // no period is over before; readable without the lock
};
Moderated& ModeratedQueues() {
  static auto* const moderated = new Moderated;  // outlives every thread
  return *moderated;
}

// The queue's lock is held.
void Fire(CompletionQueue& cq) {
  cq.armed = CompletionQueue::Armed::kNo;
  cq.held_until = 0;
  cq.held_completions = 0;
  static_cast<CompletionChannel*>(cq.channel)->events.Push(&cq);
}

void HoldBack(CompletionQueue& cq) {
  cq.held_until = Now() + cq.moderation_period * uint64_t{1000};
  Moderated& moderated = ModeratedQueues();
  std::lock_guard guard(moderated.lock);
  moderated.queues.push_back(&cq);
  moderated.next = std::min(moderated.next.load(), cq.held_until);
  if (cq.engine != nullptr) cq.engine->WakeBy(cq.held_until);
}

void Notify(CompletionQueue& cq, const Completion& completion) {
  using Armed = CompletionQueue::Armed;
  if (cq.armed == Armed::kNo || cq.channel == nullptr) return;
  const bool counts =
      cq.armed == Armed::kAny || completion.solicited || completion.wc.status != IBV_WC_SUCCESS;
  if (!counts) return;
  const bool moderate = cq.moderation_count != 1 && cq.moderation_period > 0;
  if (!moderate || ++cq.held_completions == cq.moderation_count) {
    if (cq.held_until != 0) ForgetModerated(cq);
    Fire(cq);
  } else if (cq.held_until == 0) {
    HoldBack(cq);
  }
}

}  // namespace

void Push(CompletionQueue& cq, const Completion& completion) {
  std::unique_lock guard(cq.lock);
  if (cq.tail - cq.head >= static_cast<uint32_t>(cq.cqe)) {
    if (!cq.overrun.exchange(true)) RaiseEvent(cq, IBV_EVENT_CQ_ERR);
    return;
  }
  Completion& entry = cq.ring[cq.tail & (cq.ring.size() - 1)];
  entry = completion;
  if (cq.timestamps) entry.timestamp = Now();
  ++cq.tail;
  cq.waiting.store(cq.tail - cq.head, std::memory_order_release);
  Notify(cq, completion);
}

int Take(CompletionQueue& cq, int count, Completion* completions) {
  std::lock_guard guard(cq.lock);
  int taken = 0;
  for (; taken < count && cq.head != cq.tail; ++taken) {
    completions[taken] = cq.ring[cq.head++ & (cq.ring.size() - 1)];
  }
  cq.waiting.store(cq.tail - cq.head, std::memory_order_release);
  return taken == 0 && cq.overrun ? -1 : taken;
}

void YieldAtTimes() {
  constexpr unsigned kFruitlessPolls = 64;
  static thread_local unsigned polls = 0;
  if (++polls % kFruitlessPolls == 0) sched_yield();
}

int Poll(CompletionQueue& cq, int count, ibv_wc* wc) {
  if (cq.waiting.load(std::memory_order_acquire) == 0) {
    cq.engine->TryProgress();
    if (cq.waiting.load(std::memory_order_acquire) == 0) {
      YieldAtTimes();
      return cq.overrun ? -1 : 0;
    }
  }
  std::lock_guard guard(cq.lock);
  int taken = 0;
  for (; taken < count && cq.head != cq.tail; ++taken) {
    wc[taken] = cq.ring[cq.head++ & (cq.ring.size() - 1)].wc;
  }
  cq.waiting.store(cq.tail - cq.head, std::memory_order_release);
  return taken;
}

void Forget(CompletionQueue& cq, uint32_t qp_num) {
  const std::lock_guard guard(cq.lock);
  const size_t mask = cq.ring.size() - 1;
  uint32_t kept = cq.head;
  for (uint32_t at = cq.head; at != cq.tail; ++at) {
    if (cq.ring[at & mask].wc.qp_num != qp_num) cq.ring[kept++ & mask] = cq.ring[at & mask];
  }
  cq.tail = kept;
  cq.waiting.store(cq.tail - cq.head, std::memory_order_release);
}

void Arm(CompletionQueue& cq, bool solicited_only) {
  using Armed = CompletionQueue::Armed;
  std::lock_guard guard(cq.lock);
  // A queue armed for any completion stays so: the stronger request holds (IBTA 11.4.2.2).
  if (cq.armed != Armed::kAny) cq.armed = solicited_only ? Armed::kSolicited : Armed::kAny;
}

uint64_t FireModerated(uint64_t now) {
  Moderated& moderated = ModeratedQueues();
  if (now < moderated.next.load(std::memory_order_acquire)) return moderated.next;
  // Elsewhere a queue's lock is taken before the list's: a queue that is busy is tried again.
  std::lock_guard guard(moderated.lock);
  uint64_t next = UINT64_MAX;
  auto& queues = moderated.queues;
  for (size_t i = 0; i < queues.size();) {
    CompletionQueue& cq = *queues[i];
    std::unique_lock queue(cq.lock, std::try_to_lock);
    if (!queue.owns_lock() || cq.held_until > now) {
      next = std::min(next, queue.owns_lock() ? cq.held_until : now);
      ++i;
      continue;
    }
    queues[i] = queues.back();
    queues.pop_back();
    Fire(cq);
  }
  moderated.next.store(next, std::memory_order_release);
  return next;
}

void ForgetModerated(CompletionQueue& cq) {
  Moderated& moderated = ModeratedQueues();
  std::lock_guard guard(moderated.lock);
  std::erase(moderated.queues, &cq);
}

}  // namespace urxe
