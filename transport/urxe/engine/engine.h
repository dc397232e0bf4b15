// The protocol engine of a process: one lock, one progress thread, all devices' queue pairs.
//
// Who drives it: a caller of post_send sends what windows allow; a caller of poll_cq that finds
// nothing drives a turn of Progress; the progress thread does when nobody else does, so that a
// peer's one-sided writes land while this process only computes. It sleeps when nothing is due.
#pragma once

#include <infiniband/verbs.h>
#include <poll.h>

#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "transport/urxe/engine/arena.h"
#include "transport/urxe/engine/lock.h"
#include "transport/urxe/engine/memory_table.h"
#include "transport/urxe/engine/queue_pair.h"
#include "transport/urxe/local/peer.h"
#include "transport/urxe/wire/process_slot.h"

namespace urxe {

uint64_t Now();  // ns, CLOCK_MONOTONIC

class Engine {
 public:
  // The one engine of this process, made at the first ibv_open_device of a urxe device. Null and
  // errno, with a line on stderr, when it cannot be had. It lasts as long as the process.
  static Engine* Get();

  Lock lock;
  // All below: under the lock, unless said otherwise.

  Arena& arena() { return *arena_; }
  MemoryTable& memory() { return *memory_; }
  uint32_t slot() const { return static_cast<uint32_t>(slot_->number()); }
  uint64_t now() const { return now_; }  // ns, of this turn

  // Gives the queue pair an index and number, its arena entry and the memory of its queues, from
  // qp.cap and qp.shared. 0 or errno. Remove undoes it, whatever the state.
  int Add(QueuePair& qp);
  void Remove(QueuePair& qp);

  // State transitions, after the caller checked them and stored the attributes in qp.attr; they set
  // qp.state.
  int Connect(QueuePair& qp);        // to RTR: finds the path. errno: EHOSTUNREACH, EADDRINUSE, ...
  void StartSending(QueuePair& qp);  // to RTS
  void Reset(QueuePair& qp);         // forgets queues and protocol state
  void Fail(QueuePair& qp);          // to ERR: flushes both queues
  void Drain(QueuePair& qp);         // to SQD: IBV_EVENT_SQ_DRAINED once nothing is outstanding
  void SetState(QueuePair& qp, ibv_qp_state state);  // and nothing else

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

  // For requester, responder and the same-host path.
  void WakePeer(LocalPeer& peer, uint32_t index);  // queue pair `index` there has a message
  QueuePair* Find(uint32_t qpn) const;
  void WantToSend(QueuePair& qp);                    // has packets for which there may be room now
  void WantToAnswer(QueuePair& qp);                  // owes responses
  void WantTimer(QueuePair& qp, uint64_t deadline);  // a deadline of qp is at `deadline` (ns)
  void WakeBy(uint64_t deadline);  // the progress thread has something to do then (ns)

 private:
  Engine() = default;
  bool Start();
  void Run();  // the progress thread
  void Sleep();
  bool Polled() const;  // a caller of poll_cq drove a turn just now
  void AwaitSteering(Endpoint& endpoint);
  void TakeRelayed();  // packets that reached another process first
  void Dispatch(Endpoint& endpoint);
  void AnswerAll();
  void FireTimers();
  void KickThread();
  FlowWindow& WindowTo(const Gid& gid, uint32_t qpn);
  void Retire(void* block, size_t size);
  int ConnectLocally(QueuePair& qp, const Gid& remote);
  bool TakeLocal();  // what same-host peers left in inboxes

  std::unique_ptr<ProcessSlot> slot_;
  std::unique_ptr<Arena> arena_;
  std::unique_ptr<MemoryTable> memory_;
  std::vector<QueuePair*> queue_pairs_;  // by index
  std::vector<uint32_t> free_indices_;   // given back, oldest first, so that numbers return late
  uint32_t used_indices_ = 1;
  std::vector<std::unique_ptr<Endpoint>> endpoints_;
  std::map<std::pair<Gid, uint32_t>, FlowWindow> windows_;  // by address and slot
  std::vector<std::unique_ptr<LocalPeer>> local_peers_;  // never freed: queue pairs point to them
  // What queue pairs of late gave back: a same-host peer may be about to use it, hence the delay.
  struct Retired {
    void* block;
    size_t size;
    uint64_t at;  // ns
  };
  std::deque<Retired> retired_;
  uint32_t doorbell_seen_ = 0;
  uint32_t packet_users_ = 0;  // queue pairs that may hear from their peer by UDP only
  uint32_t turns_ = 0;

  std::vector<QueuePair*> send_list_, answer_list_, timer_list_;
  std::vector<QueuePair*> turn_;  // a list while it is worked on
  uint64_t next_deadline_ = UINT64_MAX;
  uint64_t now_ = 0;

  // The progress thread.
  int wake_fd_ = -1;
  std::atomic<uint64_t> sleeping_until_{0};  // ns; 0: awake
  std::atomic<uint64_t> last_poll_{0};       // ns: a caller of poll_cq drove a turn
  std::vector<pollfd> poll_fds_;             // the thread's own
  int idle_wakeups_ = 0;                     // in a row, that found nothing: callers were faster
};

// The requester (IBTA vol. 1, 9.7.3, 9.7.5.1, 9.7.6) and the responder (9.7.4, 9.7.5.2).
void SendMore(Engine& engine, QueuePair& qp);
void OnResponse(Engine& engine, QueuePair& qp, const Arrival& arrival);
void OnRequesterTimer(Engine& engine, QueuePair& qp);
// `own` is the address the packet came to.
void OnRequest(Engine& engine, QueuePair& qp, const Arrival& arrival, const Gid& own);
// Sends what is owed, at most a burst. True when nothing is owed any more.
bool Answer(Engine& engine, QueuePair& qp);

// The requester of a queue pair whose peer is on this host (local/path.cc): carries out what waits.
void SendLocally(Engine& engine, QueuePair& qp);
// Memory that qp's same-host peer permits to read, mapped here; null when it cannot be.
const std::byte* MapForReading(QueuePair& qp, uint32_t rkey, uint64_t address, size_t length);
// Takes what the peer left in qp.inbox.
void TakeInbox(Engine& engine, QueuePair& qp);
// Completes the oldest send request and retires it. A failing status moves the queue pair to ERR.
void CompleteSend(Engine& engine, QueuePair& qp, ibv_wc_status status);
// Completes qp.responder.current; `header` is its last packet's, null when it failed.
void CompleteReceive(QueuePair& qp, ibv_wc_status status, const Header* header);
// Completes a receive that a same-host peer took and filled.
void CompleteReceive(QueuePair& qp, const LocalMessage& message);

// Raises an asynchronous event at the object's context (verbs/async.cc). Any lock may be held.
void RaiseEvent(QueuePair& qp, ibv_event_type type);
void RaiseEvent(CompletionQueue& cq, ibv_event_type type);
void RaiseEvent(SharedReceiveQueue& srq, ibv_event_type type);

// The address that entry `gid_index` of a context's device stands for, and the interface it is on
// (verbs/devices.cc). False when there is none.
bool SourceOf(const ibv_context* context, int gid_index, Gid& gid, unsigned& interface_index);

}  // namespace urxe
