// The protocol engine of a process: one lock, one progress thread, all devices' queue pairs.
//
// Who drives it: a caller of post_send sends what windows allow; a caller of poll_cq that finds
// nothing drives a turn of Progress; the progress thread does when nobody else does, so that a
// peer's one-sided writes land while this process only computes. It sleeps when nothing is due.
#pragma once

#include <infiniband/verbs.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "transport/urxe/engine/arena.h"
#include "transport/urxe/engine/memory_table.h"
#include "transport/urxe/engine/queue_pair.h"
#include "transport/urxe/wire/process_slot.h"

namespace urxe {

uint64_t Now();  // ns, CLOCK_MONOTONIC

class Engine {
 public:
  // The one engine of this process, made at the first ibv_open_device of a urxe device. Null and
  // errno, with a line on stderr, when it cannot be had. It lasts as long as the process.
  static Engine* Get();

  std::mutex lock;
  // All below: under the lock, unless said otherwise.

  Arena& arena() { return *arena_; }
  MemoryTable& memory() { return *memory_; }
  uint32_t slot() const { return static_cast<uint32_t>(slot_->number()); }

  // Gives the queue pair an index and number, its arena entry and the memory of its queues, from
  // qp.cap and qp.shared. 0 or errno. Remove undoes it; the queue pair is in RESET or ERR.
  int Add(QueuePair& qp);
  void Remove(QueuePair& qp);

  // State transitions, after the caller checked them and stored the attributes in qp.attr.
  int Connect(QueuePair& qp);        // to RTR: finds the path. errno: EHOSTUNREACH, EADDRINUSE, ...
  void StartSending(QueuePair& qp);  // to RTS
  void Reset(QueuePair& qp);         // forgets queues and protocol state
  void Fail(QueuePair& qp);          // to ERR: flushes both queues
  void Drain(QueuePair& qp);         // to SQD: IBV_EVENT_SQ_DRAINED once nothing is outstanding

  // Posting takes the lock itself. As ibv_post_send and ibv_post_recv.
  int PostSend(QueuePair& qp, ibv_send_wr* wr, ibv_send_wr** bad);
  int PostReceive(QueuePair& qp, ibv_recv_wr* wr, ibv_recv_wr** bad);
  int PostSharedReceive(SharedReceiveQueue& srq, ibv_recv_wr* wr, ibv_recv_wr** bad);

  // An endpoint on this device's address, opened when first asked for. Null and errno.
  Endpoint* EndpointOf(const Gid& gid, unsigned interface_index);

  // One turn: takes what arrived, answers, sends what windows allow, fires timers. True when
  // something was done. Without the lock: TryProgress takes it if free.
  bool Progress();
  bool TryProgress();

 private:
  Engine() = default;
};

// Raises an asynchronous event at the object's context (verbs/async.cc). Any lock may be held.
void RaiseEvent(QueuePair& qp, ibv_event_type type);
void RaiseEvent(CompletionQueue& cq, ibv_event_type type);
void RaiseEvent(SharedReceiveQueue& srq, ibv_event_type type);

}  // namespace urxe
