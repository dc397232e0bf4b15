// The same-host path: the initiator checks key, permission and bounds in the peer's table and
// copies straight into the peer's memory, takes the peer's receives itself and leaves a message for
// what the peer must complete. What RDMA promises holds: nothing is placed unchecked, requests take
// effect in order, and a message is published after the bytes it speaks of.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "transport/urxe/engine/requester.h"
#include "transport/urxe/local/inbox.h"

namespace urxe {
namespace {

// A full inbox or an atomic's answer is looked for again after this, if nothing else drives a turn.
constexpr uint64_t kLookAgain = 50'000;  // ns
// A peer that is not ready to receive is looked at this often until the ACK timeouts are used up.
constexpr uint64_t kLookForPeer = 500'000;  // ns

enum class Outcome {
  kDone,
  kWait,    // nothing happened; a timer is set
  kFailed,  // the queue pair is in error
};

// The peer's queue pair, if it is connected to ours.
SharedQueuePair* PeerQueuePair(QueuePair& qp) {
  ArenaHeader& header = qp.local->header();
  SharedQueuePair& peer = header.queue_pairs[qp.attr.dest_qp_num & ((1u << kSlotShift) - 1)];
  const uint32_t state = peer.state.load(std::memory_order_acquire);
  const bool listening = state == IBV_QPS_RTR || state == IBV_QPS_RTS || state == IBV_QPS_SQD;
  if (!listening || peer.qpn != qp.attr.dest_qp_num || peer.dest_qpn != qp.qp_base.qp_num) {
    return nullptr;
  }
  return &peer;
}

Outcome FailRequest(Engine& engine, QueuePair& qp, ibv_wc_status status) {
  CompleteSend(engine, qp, status);
  return Outcome::kFailed;
}

Outcome WaitUntil(Engine& engine, QueuePair& qp, uint64_t until) {
  qp.requester.rnr_until = until;
  engine.WantTimer(qp, until);
  return Outcome::kWait;
}

// Tried again at every turn, and by the timer when nothing else drives one.
Outcome LookAgain(Engine& engine, QueuePair& qp) {
  engine.WantToSend(qp);
  engine.WantTimer(qp, engine.now() + kLookAgain);
  return Outcome::kWait;
}

// As if packets had been lost: retried until the retries are used up.
Outcome WaitForPeer(Engine& engine, QueuePair& qp) {
  auto& requester = qp.requester;
  const uint64_t timeout = AckTimeout(qp.attr.timeout);
  const bool dead = qp.local->dead();
  if (requester.deadline == 0 && timeout != 0) {
    requester.deadline = engine.now() + timeout * (qp.attr.retry_cnt + 1u);
  }
  if (dead || (requester.deadline != 0 && engine.now() >= requester.deadline)) {
    Count(&urxe_counters::timeouts);
    return FailRequest(engine, qp, IBV_WC_RETRY_EXC_ERR);
  }
  return WaitUntil(engine, qp, engine.now() + kLookForPeer);
}

void Leave(Engine& engine, QueuePair& qp, Inbox& inbox) {
  inbox.Publish();
  engine.WakePeer(*qp.local, qp.attr.dest_qp_num & ((1u << kSlotShift) - 1));
}

Inbox* InboxOf(QueuePair& qp, const SharedQueuePair& peer) {
  return static_cast<Inbox*>(qp.local->arena().At(peer.inbox, sizeof(Inbox)));
}

// The peer must know that a request broke the rules: its connection ends, as ours does.
Outcome Refused(Engine& engine, QueuePair& qp, const SharedQueuePair& peer, uint8_t syndrome,
                ibv_wc_status status) {
  if (Inbox* const inbox = InboxOf(qp, peer); inbox != nullptr) {
    if (LocalMessage* const message = inbox->Claim(); message != nullptr) {
      *message = LocalMessage();
      message->kind = LocalMessage::Kind::kRefused;
      message->status = syndrome;
      Leave(engine, qp, *inbox);
    }
  }
  return FailRequest(engine, qp, status);
}

ibv_wc_status StatusOfCopy(int error) {
  return error == ESRCH ? IBV_WC_RETRY_EXC_ERR : IBV_WC_REM_OP_ERR;
}

// Copies `length` bytes of our pieces into the buffers of the peer's receive. 0, or an AETH
// syndrome.
uint8_t FillReceive(QueuePair& qp, const SharedQueuePair& peer, const Receive& receive,
                    const iovec* pieces, int count, size_t length, int& error) {
  uint64_t room = 0;
  for (uint32_t i = 0; i < receive.num_sge; ++i) room += receive.sge[i].length;
  if (length > room) return kNakInvalidRequest;
  int piece = 0;
  size_t used = 0;  // of that piece
  for (uint32_t i = 0; i < receive.num_sge && length > 0; ++i) {
    size_t part = std::min<size_t>(receive.sge[i].length, length);
    if (part == 0) continue;
    uint64_t to = qp.local->Find(receive.sge[i].lkey, peer.pd, IBV_ACCESS_LOCAL_WRITE,
                                 receive.sge[i].addr, part);
    if (to == 0) return kNakRemoteOperation;
    length -= part;
    while (part > 0 && piece < count) {
      const size_t bytes = std::min(part, pieces[piece].iov_len - used);
      const iovec from = {static_cast<std::byte*>(pieces[piece].iov_base) + used, bytes};
      error = qp.local->Write(receive.sge[i].lkey, to, &from, 1, bytes);
      if (error != 0) return kNakRemoteOperation;
      to += bytes;
      part -= bytes;
      used += bytes;
      if (used == pieces[piece].iov_len) {
        ++piece;
        used = 0;
      }
    }
  }
  return 0;
}

Outcome NotReady(Engine& engine, QueuePair& qp, const SharedQueuePair& peer) {
  auto& requester = qp.requester;
  Count(&urxe_counters::rnr_naks_received);
  if (qp.attr.rnr_retry != 7) {
    if (requester.rnr_retries_left == 0) {
      return FailRequest(engine, qp, IBV_WC_RNR_RETRY_EXC_ERR);
    }
    --requester.rnr_retries_left;
  }
  return WaitUntil(engine, qp, engine.now() + RnrDelay(static_cast<uint8_t>(peer.rnr_timer & 31)));
}

// SEND and WRITE, with or without an immediate.
Outcome Deliver(Engine& engine, QueuePair& qp, const SendRequest& request, SharedQueuePair& peer) {
  const bool write =
      request.opcode == IBV_WR_RDMA_WRITE || request.opcode == IBV_WR_RDMA_WRITE_WITH_IMM;
  const bool immediate =
      request.opcode == IBV_WR_RDMA_WRITE_WITH_IMM || request.opcode == IBV_WR_SEND_WITH_IMM;
  iovec pieces[kMaxSendSge];
  const int count = Gather(engine, qp, qp.first, 0, request.length, 0, pieces);
  if (count < 0) return FailRequest(engine, qp, IBV_WC_LOC_PROT_ERR);
  uint64_t to = 0;
  if (write) {
    if ((peer.access & IBV_ACCESS_REMOTE_WRITE) == 0) {
      return Refused(engine, qp, peer, kNakRemoteAccess, IBV_WC_REM_ACCESS_ERR);
    }
    if (request.length != 0) {
      to = qp.local->Find(request.rkey, peer.pd, IBV_ACCESS_REMOTE_WRITE, request.remote_address,
                          request.length);
      if (to == 0) return Refused(engine, qp, peer, kNakRemoteAccess, IBV_WC_REM_ACCESS_ERR);
    }
  }
  Inbox* inbox = nullptr;
  LocalMessage* message = nullptr;
  Receive receive;
  if (immediate || !write) {
    inbox = InboxOf(qp, peer);
    if (inbox == nullptr) return WaitForPeer(engine, qp);
    message = inbox->Claim();
    if (message == nullptr) return LookAgain(engine, qp);
    // The receive before the data: a request that has to wait must not have had an effect.
    auto* const ring =
        static_cast<ReceiveRing*>(qp.local->arena().At(peer.receive_queue, sizeof(ReceiveRing)));
    if (ring == nullptr || !ring->FitsIn(qp.local->arena().BytesFrom(peer.receive_queue))) {
      return Refused(engine, qp, peer, kNakRemoteOperation, IBV_WC_REM_OP_ERR);
    }
    if (!ring->Take(receive)) return NotReady(engine, qp, peer);
    qp.requester.rnr_retries_left = qp.attr.rnr_retry;
  }
  int error = 0;
  uint8_t syndrome = 0;
  if (write) {
    if (request.length != 0) {
      error = qp.local->Write(request.rkey, to, pieces, count, request.length);
    }
  } else {
    syndrome = FillReceive(qp, peer, receive, pieces, count, request.length, error);
  }
  if (write && message == nullptr) {
    return error == 0 ? Outcome::kDone : FailRequest(engine, qp, StatusOfCopy(error));
  }
  const bool failed = error != 0 || syndrome != 0;
  *message = LocalMessage();
  message->wr_id = receive.wr_id;
  message->opcode = static_cast<uint8_t>(write ? IBV_WC_RECV_RDMA_WITH_IMM : IBV_WC_RECV);
  message->byte_len = request.length;
  message->immediate = request.immediate;
  message->has_immediate = immediate;
  message->solicited = (request.flags & IBV_SEND_SOLICITED) != 0;
  message->status = !failed                          ? IBV_WC_SUCCESS
                    : syndrome == kNakInvalidRequest ? IBV_WC_LOC_LEN_ERR
                                                     : IBV_WC_LOC_PROT_ERR;
  Leave(engine, qp, *inbox);
  if (!failed) return Outcome::kDone;
  return FailRequest(engine, qp,
                     syndrome == kNakInvalidRequest ? IBV_WC_REM_INV_REQ_ERR
                     : error == ESRCH               ? IBV_WC_RETRY_EXC_ERR
                                                    : IBV_WC_REM_OP_ERR);
}

Outcome Fetch(Engine& engine, QueuePair& qp, const SendRequest& request, SharedQueuePair& peer) {
  iovec pieces[kMaxSendSge];
  const int count = Gather(engine, qp, qp.first, 0, request.length, IBV_ACCESS_LOCAL_WRITE, pieces);
  if (count < 0) return FailRequest(engine, qp, IBV_WC_LOC_PROT_ERR);
  if (request.length == 0) return Outcome::kDone;
  const uint64_t from = (peer.access & IBV_ACCESS_REMOTE_READ) == 0
                            ? 0
                            : qp.local->Find(request.rkey, peer.pd, IBV_ACCESS_REMOTE_READ,
                                             request.remote_address, request.length);
  if (from == 0) return Refused(engine, qp, peer, kNakRemoteAccess, IBV_WC_REM_ACCESS_ERR);
  const int error = qp.local->Read(request.rkey, from, pieces, count, request.length);
  return error == 0 ? Outcome::kDone : FailRequest(engine, qp, StatusOfCopy(error));
}

Outcome PlaceOriginal(Engine& engine, QueuePair& qp, uint64_t original) {
  iovec pieces[kMaxSendSge];
  const int count = Gather(engine, qp, qp.first, 0, 8, IBV_ACCESS_LOCAL_WRITE, pieces);
  if (count < 0) return FailRequest(engine, qp, IBV_WC_LOC_PROT_ERR);
  const auto* bytes = reinterpret_cast<const std::byte*>(&original);
  for (int i = 0; i < count; ++i) {
    std::memcpy(pieces[i].iov_base, bytes, pieces[i].iov_len);
    bytes += pieces[i].iov_len;
  }
  return Outcome::kDone;
}

// Atomics are the owner's to carry out: only there are they atomic among all its peers' (those that
// come by UDP among them), with memory that need not be mapped here.
Outcome Atomic(Engine& engine, QueuePair& qp, const SendRequest& request, SharedQueuePair& peer) {
  if (qp.local_atomic != nullptr) {
    LocalMessage& message = *qp.local_atomic;
    switch (message.Answer().load(std::memory_order_acquire)) {
      case LocalMessage::kWaiting:
        if (qp.local->dead()) return FailRequest(engine, qp, IBV_WC_RETRY_EXC_ERR);
        return LookAgain(engine, qp);
      case LocalMessage::kAnswered: {
        const uint64_t original = message.original;
        qp.local_atomic = nullptr;
        return PlaceOriginal(engine, qp, original);
      }
      default:
        qp.local_atomic = nullptr;
        return FailRequest(engine, qp, IBV_WC_REM_ACCESS_ERR);
    }
  }
  if (request.remote_address % 8 != 0) {
    return Refused(engine, qp, peer, kNakInvalidRequest, IBV_WC_REM_INV_REQ_ERR);
  }
  Inbox* const inbox = InboxOf(qp, peer);
  if (inbox == nullptr) return WaitForPeer(engine, qp);
  LocalMessage* const message = inbox->Claim();
  if (message == nullptr) return LookAgain(engine, qp);
  *message = LocalMessage();
  message->kind = LocalMessage::Kind::kAtomic;
  message->add = request.opcode == IBV_WR_ATOMIC_FETCH_AND_ADD;
  message->rkey = request.rkey;
  message->address = request.remote_address;
  message->operand = message->add ? request.compare_or_add : request.swap;
  message->compare = request.compare_or_add;
  qp.local_atomic = message;
  Leave(engine, qp, *inbox);
  return LookAgain(engine, qp);
}

void AnswerAtomic(Engine& engine, QueuePair& qp, LocalMessage& message) {
  const uint64_t address = message.address;
  std::byte* const target =
      (qp.attr.qp_access_flags & IBV_ACCESS_REMOTE_ATOMIC) == 0 || address % 8 != 0
          ? nullptr
          : engine.memory().Find(message.rkey, qp.pd_handle, IBV_ACCESS_REMOTE_ATOMIC, address, 8);
  if (target == nullptr) {
    message.Answer().store(LocalMessage::kDenied, std::memory_order_release);
    RaiseEvent(qp, IBV_EVENT_QP_ACCESS_ERR);
    engine.Fail(qp);
    return;
  }
  std::atomic_ref<uint64_t> value(*reinterpret_cast<uint64_t*>(target));
  uint64_t original = message.compare;
  if (message.add != 0) {
    original = value.fetch_add(message.operand);
  } else {
    value.compare_exchange_strong(original, message.operand);
  }
  message.original = original;
  message.Answer().store(LocalMessage::kAnswered, std::memory_order_release);
}

}  // namespace

void SendLocally(Engine& engine, QueuePair& qp) {
  auto& requester = qp.requester;
  while (qp.first != qp.last && requester.rnr_until == 0) {
    if (qp.qp_base.state != IBV_QPS_RTS &&
        (qp.qp_base.state != IBV_QPS_SQD || qp.local_atomic == nullptr)) {
      break;
    }
    // What the peer's table says was checked by no one else: it is looked at once per request.
    SharedQueuePair* const peer = qp.local->dead() ? nullptr : PeerQueuePair(qp);
    const SendRequest request = qp.requests[qp.first & (qp.requests.size() - 1)];
    qp.next = qp.first + 1;
    Outcome outcome;
    if (Fetches(request) && qp.attr.max_rd_atomic == 0) {
      outcome = FailRequest(engine, qp, IBV_WC_LOC_QP_OP_ERR);
    } else if (peer == nullptr) {
      outcome = WaitForPeer(engine, qp);
    } else {
      requester.deadline = 0;
      switch (request.opcode) {
        case IBV_WR_RDMA_READ:
          outcome = Fetch(engine, qp, request, *peer);
          break;
        case IBV_WR_ATOMIC_CMP_AND_SWP:
        case IBV_WR_ATOMIC_FETCH_AND_ADD:
          outcome = Atomic(engine, qp, request, *peer);
          break;
        default:
          outcome = Deliver(engine, qp, request, *peer);
      }
    }
    if (outcome == Outcome::kWait && qp.local_atomic == nullptr) qp.next = qp.first;  // not begun
    if (outcome != Outcome::kDone) return;
    Count(&urxe_counters::local_operations);
    Count(&urxe_counters::local_bytes, request.length);
    CompleteSend(engine, qp, IBV_WC_SUCCESS);
  }
  if (qp.draining && qp.first == qp.next) {
    qp.draining = false;
    RaiseEvent(qp, IBV_EVENT_SQ_DRAINED);
  }
}

const std::byte* MapForReading(QueuePair& qp, uint32_t rkey, uint64_t address, size_t length) {
  if (qp.local == nullptr || qp.local->dead()) return nullptr;
  // Connected or not yet: the protection domain is known from the start.
  const SharedQueuePair& peer =
      qp.local->header().queue_pairs[qp.attr.dest_qp_num & ((1u << kSlotShift) - 1)];
  if (peer.qpn != qp.attr.dest_qp_num) return nullptr;
  const uint64_t there = qp.local->Find(rkey, peer.pd, IBV_ACCESS_REMOTE_READ, address, length);
  return there == 0 ? nullptr : qp.local->Map(rkey, there, length);
}

void TakeInbox(Engine& engine, QueuePair& qp) {
  auto& responder = qp.responder;
  while (LocalMessage* const message = qp.inbox->Front()) {
    const ibv_qp_state state = qp.qp_base.state;
    const bool alive = state == IBV_QPS_RTR || state == IBV_QPS_RTS || state == IBV_QPS_SQD;
    if (alive && !responder.established && state == IBV_QPS_RTR) {
      responder.established = true;
      RaiseEvent(qp, IBV_EVENT_COMM_EST);
    }
    switch (message->kind) {
      case LocalMessage::Kind::kReceived:
        // A receive that was taken is completed whatever happened since.
        CompleteReceive(qp, *message);
        if (alive && message->status != IBV_WC_SUCCESS) engine.Fail(qp);
        break;
      case LocalMessage::Kind::kAtomic:
        if (alive) {
          AnswerAtomic(engine, qp, *message);
        } else {
          message->Answer().store(LocalMessage::kDenied, std::memory_order_release);
        }
        break;
      case LocalMessage::Kind::kRefused:
        if (!alive) break;
        RaiseEvent(qp, message->status == kNakRemoteAccess ? IBV_EVENT_QP_ACCESS_ERR
                                                           : IBV_EVENT_QP_REQ_ERR);
        engine.Fail(qp);
        break;
    }
    qp.inbox->Pop();
  }
}

}  // namespace urxe
