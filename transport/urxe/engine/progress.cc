// Turns of the engine, and the thread that drives them when no caller of poll_cq does.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdio>
#include <thread>

#include "transport/urxe/engine/engine.h"
#include "transport/urxe/settings.h"
#include "transport/urxe/wire/mailroom.h"

namespace urxe {
namespace {

// Joined datagrams taken before answers go out: enough to share an ACK, few enough that the peer's
// window does not run dry meanwhile.
constexpr int kReceivesPerAnswer = 2;
constexpr int kReceivesPerTurn = 16;
// The thread, once awake, looks again for this long before it sleeps: the next packet of a
// conversation usually follows soon.
constexpr uint64_t kSpin = 10'000;  // ns
// A new endpoint gets no packets before the kernel steers them to it: datagrams and the first
// packets of a connection would be lost, or wait for a timeout.
constexpr uint64_t kSteeringPatience = 100'000'000;  // ns
// Waking up in vain this often in a row shows that a caller of poll_cq is faster; the thread then
// naps, and looks after each nap whether that caller still polls.
constexpr int kIdleWakeups = 8;
constexpr uint64_t kNap = 1'000'000;         // ns
constexpr uint64_t kPollerIsGone = 200'000;  // ns since its last turn

// The thread runs for microseconds and should then run at once, also where the program spins on
// every core: a task that asks for a short slice preempts one with a longer one (EEVDF, Linux 6.12;
// older kernels take the request and ignore it).
void AskForShortSlices() {
  struct {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
  } attributes = {};
  attributes.size = sizeof(attributes);
  attributes.policy = SCHED_OTHER;
  attributes.nice = getpriority(PRIO_PROCESS, 0);
  attributes.runtime = 100'000;  // ns, the shortest there is
  syscall(SYS_sched_setattr, 0, &attributes, 0);
}

}  // namespace

bool Engine::Start() {
  std::string problem;
  slot_ = ProcessSlot::Claim(problem);
  if (slot_ == nullptr) {
    std::fprintf(stderr, "%s\n", problem.c_str());
    return false;
  }
  arena_ = Arena::Create(static_cast<uint32_t>(slot_->number()));
  if (arena_ == nullptr) {
    std::perror("urxe: the memory shared with peers of this host cannot be made");
    return false;
  }
  memory_ = std::make_unique<MemoryTable>(*arena_);
  arena_->header().accepts_local = ProcessSettings().settings.path != PathChoice::kUdp;
  wake_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake_fd_ < 0) {
    std::perror("urxe: eventfd");
    return false;
  }
  // Signals are the application's: its handlers must not run on a thread that it does not know.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread([this] { Run(); }).detach();
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return true;
}

void Engine::WantToSend(QueuePair& qp) {
  if (qp.in_send_list) return;
  qp.in_send_list = true;
  send_list_.push_back(&qp);
}

void Engine::WantToAnswer(QueuePair& qp) {
  if (qp.in_answer_list) return;
  qp.in_answer_list = true;
  answer_list_.push_back(&qp);
}

void Engine::WantTimer(QueuePair& qp, uint64_t deadline) {
  if (!qp.in_timer_list) {
    qp.in_timer_list = true;
    timer_list_.push_back(&qp);
  }
  if (deadline >= next_deadline_) return;
  next_deadline_ = deadline;
  WakeBy(deadline);
}

void Engine::WakeBy(uint64_t deadline) {
  if (deadline < sleeping_until_.load(std::memory_order_relaxed)) KickThread();
}

void Engine::KickThread() {
  sleeping_until_.store(0, std::memory_order_relaxed);
  eventfd_write(wake_fd_, 1);
}

void Engine::WakePeer(LocalPeer& peer, uint32_t index) {
  ArenaHeader& header = peer.header();
  header.ready[index / 64].fetch_or(uint64_t{1} << index % 64, std::memory_order_release);
  header.doorbell.fetch_add(1, std::memory_order_seq_cst);
  // Its thread announces its sleep before it looks at the doorbell a last time: one of us sees the
  // other.
  if (header.asleep.load(std::memory_order_seq_cst) != 0 &&
      header.asleep.exchange(0, std::memory_order_seq_cst) != 0) {
    slot_->Wake(peer.slot());
  }
}

bool Engine::TakeLocal() {
  ArenaHeader& header = arena_->header();
  const uint32_t doorbell = header.doorbell.load(std::memory_order_acquire);
  if (doorbell == doorbell_seen_) return false;
  doorbell_seen_ = doorbell;
  for (uint32_t word = 0; word <= used_indices_ / 64; ++word) {
    if (header.ready[word].load(std::memory_order_relaxed) == 0) continue;
    uint64_t bits = header.ready[word].exchange(0, std::memory_order_acquire);
    for (; bits != 0; bits &= bits - 1) {
      const uint32_t index = word * 64 + static_cast<uint32_t>(std::countr_zero(bits));
      QueuePair* const qp = index < queue_pairs_.size() ? queue_pairs_[index] : nullptr;
      if (qp != nullptr && qp->inbox != nullptr) TakeInbox(*this, *qp);
    }
  }
  return true;
}

// Gives the packets of the endpoint's last datagram to their queue pairs.
void Engine::Dispatch(Endpoint& endpoint) {
  for (const Arrival& arrival : endpoint.Arrivals()) {
    const Header& header = arrival.header;
    QueuePair* const qp = Find(header.dest_qpn);
    const bool ours = qp != nullptr && (header.pkey & 0x7FFF) == 0x7FFF;
    const bool datagram = header.service == Service::kUd;
    // A connected queue pair hears its peer's address and its own kind of packet only.
    const ibv_qp_type type = datagram                         ? IBV_QPT_UD
                             : header.service == Service::kUc ? IBV_QPT_UC
                                                              : IBV_QPT_RC;
    if (!ours || qp->qp_base.qp_type != type ||
        (!datagram &&
         (qp->endpoint != &endpoint || qp->destination.flow.destination != arrival.source))) {
      Count(&urxe_counters::unknown_queue_pairs);
      continue;
    }
    Count(&urxe_counters::packets_received);
    if ((header.hints & kHintIcrcDispensable) != 0) qp->peer_skips_icrc = true;
    const Operation operation = header.operation;
    const bool response =
        operation >= Operation::kReadResponseFirst && operation <= Operation::kAtomicAcknowledge;
    if (response) {
      OnResponse(*this, *qp, arrival);
    } else {
      OnRequest(*this, *qp, arrival, endpoint.address());
    }
  }
}

void Engine::AwaitSteering(Endpoint& endpoint) {
  const uint64_t end = Now() + kSteeringPatience;
  for (;;) {
    now_ = Now();
    const uint64_t due = std::min(endpoint.RunTimers(now_), end);
    if (due == end) return;  // steered, or out of patience
    pollfd fds[] = {{slot_->relay_fd(), POLLIN, 0}, {endpoint.fd(), POLLIN, 0}};
    const uint64_t wait = due > now_ ? due - now_ : 0;
    const timespec timeout = {0, static_cast<long>(wait)};
    ppoll(fds, 2, &timeout, nullptr);
    while (endpoint.Receive() > 0) Dispatch(endpoint);
    TakeRelayed();
  }
}

void Engine::TakeRelayed() {
  now_ = Now();
  std::vector<Endpoint*> all;
  for (const auto& endpoint : endpoints_) all.push_back(endpoint.get());
  Endpoint* arrived = nullptr;
  while (TakeMail(*slot_, all, arrived)) {
    if (arrived != nullptr) Dispatch(*arrived);
  }
}

void Engine::AnswerAll() {
  if (answer_list_.empty()) return;
  turn_.swap(answer_list_);
  for (size_t i = 0; i < turn_.size(); ++i) {
    QueuePair* const qp = turn_[i];
    if (qp == nullptr) continue;
    qp->in_answer_list = false;
    if (!Answer(*this, *qp)) WantToAnswer(*qp);
  }
  turn_.clear();
}

void Engine::FireTimers() {
  if (now_ < next_deadline_) return;
  next_deadline_ = UINT64_MAX;
  turn_.swap(timer_list_);
  for (size_t i = 0; i < turn_.size(); ++i) {
    QueuePair* const qp = turn_[i];
    if (qp == nullptr) continue;
    qp->in_timer_list = false;
    OnRequesterTimer(*this, *qp);
  }
  turn_.clear();
}

bool Engine::Progress() {
  now_ = Now();
  bool did = TakeLocal();
  // Where all peers are on this host and copy, packets are rare: a system call at each turn to look
  // for them would cost more than the turn.
  const bool listen = packet_users_ != 0 || turns_++ % 32 == 0;
  for (size_t i = 0; listen && i < endpoints_.size(); ++i) {
    Endpoint& endpoint = *endpoints_[i];
    for (int taken = 0; taken < kReceivesPerTurn; ++taken) {
      if (endpoint.Receive() == 0) break;
      did = true;
      Dispatch(endpoint);
      if (taken % kReceivesPerAnswer == kReceivesPerAnswer - 1) {
        AnswerAll();
        endpoint.Flush();
      }
    }
    next_deadline_ = std::min(next_deadline_, endpoint.RunTimers(now_));
  }
  AnswerAll();
  FireTimers();
  if (!send_list_.empty()) {
    turn_.swap(send_list_);
    for (size_t i = 0; i < turn_.size(); ++i) {
      QueuePair* const qp = turn_[i];
      if (qp == nullptr) continue;
      qp->in_send_list = false;
      SendMore(*this, *qp);
    }
    turn_.clear();
  }
  for (const auto& endpoint : endpoints_) endpoint->Flush();
  return did;
}

bool Engine::TryProgress() {
  std::unique_lock guard(lock, std::try_to_lock);
  if (!guard.owns_lock()) return false;
  const bool did = Progress();
  last_poll_.store(now_, std::memory_order_relaxed);
  // What is left over would wait for the next poll, which may never come.
  if (!answer_list_.empty()) KickThread();
  return did;
}

void Engine::Run() {
  pthread_setname_np(pthread_self(), "urxe");
  AskForShortSlices();
  // Retransmission and moderation timers are microseconds apart; the default slack is 50 us.
  prctl(PR_SET_TIMERSLACK, 1);
  for (;;) {
    uint64_t until = Now();
    bool did = false;
    for (;;) {
      bool busy;
      {
        const std::lock_guard guard(lock);
        busy = Progress() || !answer_list_.empty();
        if (busy) until = now_ + kSpin;
        if (now_ >= until) break;
      }
      did |= busy;
      // To those who wait for the lock, or to whoever is to send the next packet.
      if (!busy || lock.contended()) std::this_thread::yield();
    }
    idle_wakeups_ = did ? 0 : idle_wakeups_ + 1;
    // While a caller polls and is faster, nothing is left to do but to see when that ends.
    do {
      Sleep();
    } while (idle_wakeups_ >= kIdleWakeups && Polled());
    if (idle_wakeups_ >= kIdleWakeups) idle_wakeups_ = 0;
  }
}

bool Engine::Polled() const {
  return Now() - last_poll_.load(std::memory_order_relaxed) < kPollerIsGone;
}

void Engine::Sleep() {
  std::vector<pollfd>& fds = poll_fds_;
  uint64_t due;
  bool nap;
  std::atomic<uint32_t>& asleep = arena_->header().asleep;
  {
    const std::lock_guard guard(lock);
    const uint64_t now = Now();
    due = std::min(next_deadline_, FireModerated(now));
    nap = idle_wakeups_ >= kIdleWakeups && Polled();
    fds.assign(
        {{wake_fd_, POLLIN, 0}, {slot_->relay_fd(), POLLIN, 0}, {slot_->listen_fd(), POLLIN, 0}});
    for (const auto& peer : local_peers_) {
      fds.push_back({peer->dead() ? -1 : peer->pidfd(), POLLIN, 0});
    }
    if (nap) {
      // The poller takes what comes to endpoints and inboxes and fires the timers.
      due = now + kNap;
    } else {
      for (const auto& endpoint : endpoints_) fds.push_back({endpoint->fd(), POLLIN, 0});
      asleep.store(1, std::memory_order_seq_cst);
      if (arena_->header().doorbell.load(std::memory_order_seq_cst) != doorbell_seen_) due = now;
    }
    sleeping_until_.store(due, std::memory_order_relaxed);
  }
  const uint64_t now = Now();
  timespec timeout = {};
  if (due > now && due != UINT64_MAX) {
    timeout.tv_sec = static_cast<time_t>((due - now) / 1'000'000'000u);
    timeout.tv_nsec = static_cast<long>((due - now) % 1'000'000'000u);
  }
  ppoll(fds.data(), fds.size(), due == UINT64_MAX ? nullptr : &timeout, nullptr);
  asleep.store(0, std::memory_order_relaxed);
  sleeping_until_.store(0, std::memory_order_relaxed);
  Count(&urxe_counters::wakeups);
  eventfd_t value;
  if ((fds[0].revents & POLLIN) != 0) eventfd_read(wake_fd_, &value);
  if ((fds[1].revents & POLLIN) != 0) {
    const std::lock_guard guard(lock);
    TakeRelayed();
  }
  if ((fds[2].revents & POLLIN) != 0) slot_->AnswerCallers();
  const std::lock_guard guard(lock);
  // Peers are only ever added: those polled are the first ones.
  for (size_t i = 3; i < fds.size() && i - 3 < local_peers_.size(); ++i) {
    if (fds[i].fd == local_peers_[i - 3]->pidfd() && (fds[i].revents & POLLIN) != 0) {
      local_peers_[i - 3]->SetDead();
    }
  }
}

}  // namespace urxe
