// Completion queues and their channels (IBTA vol. 1, 11.4.2).
#pragma once

#include <infiniband/verbs.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

namespace urxe {

class Engine;

// A work completion as it waits to be polled.
struct Completion {
  ibv_wc wc = {};
  bool solicited = false;  // counts for IBV_NOTIFY solicited_only; errors always do
  uint64_t timestamp = 0;  // ns, CLOCK_MONOTONIC; set only for queues that asked for it
};

struct CompletionChannel : ibv_comp_channel {
  // fd is the read end of a pipe that carries one CompletionQueue* per event, so that poll(), the
  // blocking read of ibv_get_cq_event and O_NONBLOCK all work as they do on a device file.
  int write_fd = -1;
};

struct CompletionQueue : ibv_cq_ex {
  Engine* engine = nullptr;
  std::mutex lock;  // guards the ring and `armed`; taken after the engine's lock, never before

  std::vector<Completion> ring;  // capacity: a power of two above cqe
  uint32_t head = 0;             // next to poll
  uint32_t tail = 0;             // next to fill
  std::atomic<uint32_t> waiting{0};  // tail - head, readable without the lock
  bool overrun = false;

  enum class Armed : uint8_t { kNo, kSolicited, kAny } armed = Armed::kNo;
  bool extended = false;   // made by ibv_create_cq_ex: polled by start_poll
  bool timestamps = false;
  uint64_t wc_flags = 0;   // what may be read, IBV_WC_EX_*
  Completion current;      // of start_poll and next_poll
  uint32_t events_sent = 0;  // to the channel: ibv_destroy_cq waits until all are acknowledged
  uint16_t moderation_count = 0;   // ibv_modify_cq: events only after so many completions, or
  uint16_t moderation_period = 0;  // microseconds after the first
};

// Adds a completion and fires the channel when armed. A full queue becomes overrun: the completion
// is lost, IBV_EVENT_CQ_ERR is raised once.
void Push(CompletionQueue& cq, const Completion& completion);

// Takes up to `count`; never makes progress by itself. Returns how many; -1 after an overrun.
int Take(CompletionQueue& cq, int count, ibv_wc* wc);

// ibv_poll_cq: takes what waits; when nothing does, makes progress once and takes again.
int Poll(CompletionQueue& cq, int count, ibv_wc* wc);

}  // namespace urxe
