// Completion queues and their channels (IBTA vol. 1, 11.4.2).
#pragma once

#include <infiniband/verbs.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

#include "transport/urxe/engine/event_queue.h"

namespace urxe {

class Engine;
struct CompletionQueue;

// A work completion as it waits to be polled.
struct Completion {
  ibv_wc wc = {};
  bool solicited = false;  // counts for IBV_NOTIFY solicited_only; errors always do
  uint64_t timestamp = 0;  // ns, CLOCK_MONOTONIC; set by Push for queues that asked for it
};

struct CompletionChannel : ibv_comp_channel {
  EventQueue<CompletionQueue*> events;  // fd is its descriptor
};

struct CompletionQueue : ibv_cq_ex {
  Engine* engine = nullptr;
  std::mutex lock;  // guards the ring and `armed`; taken after the engine's lock, never before

  std::vector<Completion> ring;      // a power of two, cqe + 1
  uint32_t head = 0;                 // next to poll
  uint32_t tail = 0;                 // next to fill
  std::atomic<uint32_t> waiting{0};  // tail - head, readable without the lock
  std::atomic<bool> overrun{false};

  enum class Armed : uint8_t { kNo, kSolicited, kAny } armed = Armed::kNo;
  bool timestamps = false;

  // Moderation (ibv_modify_cq): once armed, the event is held back until so many completions came
  // that it is for, or so many microseconds passed since the first. Count 0: by time alone; period
  // 0: at once.
  uint16_t moderation_count = 0;
  uint16_t moderation_period = 0;
  uint32_t held_completions = 0;  // since the event was first held back
  uint64_t held_until = 0;        // ns, CLOCK_MONOTONIC; 0: no event is held back

  // start_poll to end_poll: one thread at a time.
  std::mutex polling;
  bool single_threaded = false;  // IBV_CREATE_CQ_ATTR_SINGLE_THREADED: `polling` is not used
  Completion current;

  std::atomic<uint32_t> users{0};  // queue pairs that complete here
  // Handed out by ibv_get_cq_event and ibv_get_async_event: ibv_destroy_cq waits for their acks.
  uint32_t events_taken = 0;
  uint32_t async_events_taken = 0;
};

// Adds a completion and fires the channel when armed. A full queue becomes overrun: the completion
// is lost, IBV_EVENT_CQ_ERR is raised once.
void Push(CompletionQueue& cq, const Completion& completion);

// Takes up to `count`; never makes progress by itself. Returns how many; -1 once an overrun queue
// is empty.
int Take(CompletionQueue& cq, int count, Completion* completions);

// A poll found nothing. Programs poll in a loop. Where they outnumber the cores, whoever is to send
// what they wait for gets one only when their time slice, milliseconds, is over: they give it up
// now and then. With a core for everyone this costs a hundredth of a poll.
void YieldAtTimes();

// ibv_poll_cq: takes what waits; when nothing does, makes progress once and takes again.
int Poll(CompletionQueue& cq, int count, ibv_wc* wc);

// Removes the completions of a queue pair that goes to RESET or is destroyed.
void Forget(CompletionQueue& cq, uint32_t qp_num);

// ibv_req_notify_cq: the next completion (that is solicited or an error) fires the channel. What
// waits already does not: callers poll once more after arming.
void Arm(CompletionQueue& cq, bool solicited_only);

// Fires the channels whose moderation period is over. Returns when the next one is, in ns of
// CLOCK_MONOTONIC; UINT64_MAX when none is held back.
uint64_t FireModerated(uint64_t now);

// Makes the event of `cq`, if one is held back, no longer fire: before the queue is destroyed.
void ForgetModerated(CompletionQueue& cq);

}  // namespace urxe
