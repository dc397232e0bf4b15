#include "transport/urxe/engine/engine.h"

#include <errno.h>
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <new>

#include "transport/urxe/local/inbox.h"
#include "transport/urxe/settings.h"

namespace urxe {
namespace {

// Queue pair numbers 0 and 1 are the specification's special ones; low indices stay unused, so that
// a number of a test or of another device is unlikely to be one of ours.
constexpr uint32_t kFirstIndex = 16;
// A same-host peer that looked at a queue pair just before it went is done with it by then.
constexpr uint64_t kRetirement = 100'000'000;  // ns

uint32_t RoundUpToPowerOfTwo(uint32_t value) {
  uint32_t power = 1;
  while (power < value) power *= 2;
  return power;
}

}  // namespace

uint64_t Now() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<uint64_t>(time.tv_sec) * 1000000000u + static_cast<uint64_t>(time.tv_nsec);
}

Engine* Engine::Get() {
  // Never destroyed: its thread and the application's may still run while the process exits.
  static Engine* const engine = [] {
    Engine* made = new Engine();
    if (made->Start()) return made;
    delete made;
    return static_cast<Engine*>(nullptr);
  }();
  if (engine == nullptr) errno = ENODEV;
  return engine;
}

void Engine::Retire(void* block, size_t size) {
  const uint64_t now = Now();
  retired_.push_back({block, size, now});
  while (now - retired_.front().at > kRetirement) {
    arena_->Free(retired_.front().block, retired_.front().size);
    retired_.pop_front();
  }
}

int Engine::Add(QueuePair& qp) {
  if (used_indices_ < kFirstIndex) used_indices_ = kFirstIndex;
  uint32_t index;
  // The last number of the last slot would be the multicast one.
  if (used_indices_ < kMaxQueuePairs - 1) {
    index = used_indices_++;
  } else if (!free_indices_.empty()) {
    index = free_indices_.front();
    free_indices_.erase(free_indices_.begin());
  } else {
    return ENOMEM;
  }
  if (qp.shared != nullptr) {
    qp.ring = qp.shared->ring;
  } else {
    const size_t size = ReceiveRing::SizeFor(qp.cap.max_recv_wr, qp.cap.max_recv_sge);
    void* const memory = arena_->Allocate(size);
    if (memory == nullptr) {
      free_indices_.push_back(index);
      return ENOMEM;
    }
    qp.ring = ReceiveRing::Make(memory, qp.cap.max_recv_wr, qp.cap.max_recv_sge);
  }
  qp.cap.max_send_sge = std::max(qp.cap.max_send_sge, 1u);  // inline data take one piece
  const uint32_t slots = RoundUpToPowerOfTwo(std::max(qp.cap.max_send_wr, 1u));
  qp.requests.resize(slots);
  qp.pieces.resize(size_t{slots} * qp.cap.max_send_sge);
  qp.inline_data.resize(size_t{slots} * qp.cap.max_inline_data);

  qp.engine = this;
  qp.index = index;
  qp.qp_base.qp_num = slot() << kSlotShift | index;
  qp.entry = &arena_->header().queue_pairs[index];
  qp.entry->qpn = qp.qp_base.qp_num;
  qp.entry->pd = qp.pd_handle;
  qp.entry->receive_queue = arena_->OffsetOf(qp.ring);
  if (queue_pairs_.size() <= index) queue_pairs_.resize(index + 1);
  queue_pairs_[index] = &qp;
  SetState(qp, IBV_QPS_RESET);
  return 0;
}

void Engine::Remove(QueuePair& qp) {
  Reset(qp);
  for (auto* list : {&send_list_, &answer_list_, &timer_list_, &turn_}) {
    std::replace(list->begin(), list->end(), &qp, static_cast<QueuePair*>(nullptr));
  }
  qp.entry->qpn = 0;
  qp.entry->receive_queue = 0;
  queue_pairs_[qp.index] = nullptr;
  free_indices_.push_back(qp.index);
  if (qp.shared == nullptr) {
    Retire(qp.ring, ReceiveRing::SizeFor(qp.cap.max_recv_wr, qp.cap.max_recv_sge));
  }
  qp.ring = nullptr;
}

void Engine::SetState(QueuePair& qp, ibv_qp_state state) {
  qp.qp_base.state = state;
  qp.entry->access = qp.attr.qp_access_flags;
  qp.entry->rnr_timer = qp.attr.min_rnr_timer;
  qp.entry->dest_qpn = qp.attr.dest_qp_num;
  qp.entry->state.store(static_cast<uint32_t>(state), std::memory_order_release);
}

FlowWindow& Engine::WindowTo(const Gid& gid, uint32_t qpn) {
  FlowWindow& window = windows_[{gid, qpn >> kSlotShift}];
  if (window.limit == 0) window.limit = ProcessSettings().settings.window;
  return window;
}

Endpoint* Engine::EndpointOf(const Gid& gid, unsigned interface_index) {
  for (const auto& endpoint : endpoints_) {
    if (endpoint->address() == gid) return endpoint.get();
  }
  std::string problem;
  auto endpoint = Endpoint::Open(gid, interface_index, *slot_, problem);
  if (endpoint == nullptr) {
    const int error = errno;
    std::fprintf(stderr, "%s\n", problem.c_str());
    errno = error;
    return nullptr;
  }
  endpoints_.push_back(std::move(endpoint));
  AwaitSteering(*endpoints_.back());
  KickThread();  // it polls one more
  return endpoints_.back().get();
}

int Engine::Connect(QueuePair& qp) {
  qp.mtu = 128u << qp.attr.path_mtu;
  if (qp.qp_base.qp_type != IBV_QPT_UD) {
    const ibv_ah_attr& path = qp.attr.ah_attr;
    // RoCE has no subnet manager: an address without a GRH leads nowhere.
    if (path.is_global == 0) return EINVAL;
    Gid source;
    unsigned interface_index = 0;
    if (!SourceOf(qp.qp_base.context, path.grh.sgid_index, source, interface_index)) return EINVAL;
    qp.endpoint = EndpointOf(source, interface_index);
    if (qp.endpoint == nullptr) return errno;
    Gid remote;
    std::memcpy(remote.data(), path.grh.dgid.raw, remote.size());
    if (const int error = qp.endpoint->Resolve(remote, qp.destination); error != 0) return error;
    qp.destination.traffic_class = path.grh.traffic_class;
    qp.destination.hop_limit = path.grh.hop_limit == 0 ? 64 : path.grh.hop_limit;
    qp.window = &WindowTo(remote, qp.attr.dest_qp_num);
    if (const int error = ConnectLocally(qp, remote); error != 0) return error;
  } else {
    // Datagrams may come to any of the port's addresses.
    Gid source;
    unsigned interface_index = 0;
    for (int index = 0; SourceOf(qp.qp_base.context, index, source, interface_index); ++index) {
      if (EndpointOf(source, interface_index) == nullptr && index == 0) return errno;
    }
    ++packet_users_;
  }
  qp.responder = QueuePair::Responder();
  qp.responder.expected_psn = qp.attr.rq_psn & kPsnMask;
  qp.responder.resources.resize(qp.attr.max_dest_rd_atomic);
  SetState(qp, IBV_QPS_RTR);
  return 0;
}

// Decides whether requests take the same-host path. The peer decides for itself: what it sends by
// UDP is heard all the same.
int Engine::ConnectLocally(QueuePair& qp, const Gid& remote) {
  const PathChoice choice = ProcessSettings().settings.path;
  const bool candidate = choice != PathChoice::kUdp && qp.qp_base.qp_type == IBV_QPT_RC &&
                         (remote == qp.endpoint->address() || IsThisHost(remote));
  if (candidate) {
    if (qp.inbox == nullptr) {
      void* const memory = arena_->Allocate(sizeof(Inbox));
      if (memory == nullptr) return ENOMEM;
      qp.inbox = new (memory) Inbox();
      qp.entry->inbox = arena_->OffsetOf(memory);
    }
    const int slot = static_cast<int>(qp.attr.dest_qp_num >> kSlotShift);
    for (const auto& peer : local_peers_) {
      if (peer->slot() == slot && !peer->HasEnded()) qp.local = peer.get();
    }
    if (qp.local == nullptr) {
      if (auto peer = LocalPeer::Reach(slot, slot_->number(), *arena_)) {
        local_peers_.push_back(std::move(peer));
        qp.local = local_peers_.back().get();
        KickThread();  // it watches one more process
      } else if (errno != ESRCH) {
        Count(&urxe_counters::local_refusals);
      }
    }
  }
  if (qp.local == nullptr && choice == PathChoice::kLocal) {
    std::fprintf(
        stderr,
        "urxe: URXE_PATH=local, but the peer of queue pair 0x%06x cannot be reached on the "
        "same host: %s; set URXE_PATH=auto to use UDP then\n",
        qp.qp_base.qp_num, candidate ? std::strerror(errno) : "its address is another host's");
    return EHOSTUNREACH;
  }
  Count(qp.local != nullptr ? &urxe_counters::local_connections : &urxe_counters::udp_connections);
  if (qp.local == nullptr) ++packet_users_;
  return 0;
}

void Engine::StartSending(QueuePair& qp) {
  const bool resumed = qp.qp_base.state == IBV_QPS_SQD || qp.qp_base.state == IBV_QPS_SQE ||
                       qp.qp_base.state == IBV_QPS_RTS;
  qp.draining = false;
  if (!resumed) {
    auto& requester = qp.requester;
    requester = QueuePair::Requester();
    const uint32_t psn = qp.attr.sq_psn & kPsnMask;
    requester.next_psn = requester.send_psn = requester.unacked_psn = psn;
    requester.max_sent_psn = requester.recovery_psn = psn;
    requester.retries_left = qp.attr.retry_cnt;
    requester.rnr_retries_left = qp.attr.rnr_retry;
    requester.cursor = qp.next;
  }
  SetState(qp, IBV_QPS_RTS);
  if (resumed) WantToSend(qp);
}

void Engine::Reset(QueuePair& qp) {
  if (qp.window != nullptr) qp.window->in_flight -= qp.requester.in_flight;
  // Connected, and not by the same-host path.
  const bool connected = qp.endpoint != nullptr ||
                         (qp.qp_base.qp_type == IBV_QPT_UD && qp.qp_base.state >= IBV_QPS_RTR);
  if (connected && qp.local == nullptr) --packet_users_;
  qp.requester = QueuePair::Requester();
  qp.responder = QueuePair::Responder();
  if (qp.inbox != nullptr) {
    Retire(qp.inbox, sizeof(Inbox));
    qp.inbox = nullptr;
    qp.entry->inbox = 0;
  }
  qp.local_atomic = nullptr;
  qp.first = qp.next = qp.last = 0;
  qp.endpoint = nullptr;
  qp.window = nullptr;
  qp.local = nullptr;
  qp.peer_skips_icrc = false;
  qp.draining = qp.last_wqe_raised = false;
  if (qp.shared == nullptr && qp.ring != nullptr) {
    Receive dropped;
    while (qp.ring->Take(dropped)) {
    }
  }
  SetState(qp, IBV_QPS_RESET);
}

void Engine::Fail(QueuePair& qp) {
  if (qp.qp_base.state == IBV_QPS_ERR) return;
  // First the state, so that completing requests below does not come back here.
  SetState(qp, IBV_QPS_ERR);
  if (qp.window != nullptr) qp.window->in_flight -= qp.requester.in_flight;
  qp.requester.in_flight = 0;
  qp.local_atomic = nullptr;
  qp.requester.deadline = qp.requester.probe_at = qp.requester.rnr_until = 0;
  qp.responder.owed.clear();
  qp.responder.ack_owed = false;
  qp.responder.nak_owed = 0;
  while (qp.first != qp.last) CompleteSend(*this, qp, IBV_WC_WR_FLUSH_ERR);
  if (qp.responder.have_receive) CompleteReceive(qp, IBV_WC_WR_FLUSH_ERR, nullptr);
  if (qp.shared == nullptr) {
    while (qp.ring->Take(qp.responder.current)) {
      CompleteReceive(qp, IBV_WC_WR_FLUSH_ERR, nullptr);
    }
  } else if (!qp.last_wqe_raised) {
    qp.last_wqe_raised = true;
    RaiseEvent(qp, IBV_EVENT_QP_LAST_WQE_REACHED);
  }
}

void Engine::Drain(QueuePair& qp) {
  SetState(qp, IBV_QPS_SQD);
  qp.draining = qp.attr.en_sqd_async_notify != 0;
  WantToSend(qp);
  KickThread();
}

QueuePair* Engine::Find(uint32_t qpn) const {
  if (qpn >> kSlotShift != static_cast<uint32_t>(slot_->number())) return nullptr;
  const uint32_t index = qpn & ((1u << kSlotShift) - 1);
  return index < queue_pairs_.size() ? queue_pairs_[index] : nullptr;
}

void CompleteSend(Engine& engine, QueuePair& qp, ibv_wc_status status) {
  SendRequest& request = qp.requests[qp.first & (qp.requests.size() - 1)];
  const bool failed = status != IBV_WC_SUCCESS;
  // An unsignaled request that fails is reported all the same (IBTA 10.7.3.1).
  if (failed || (request.flags & IBV_SEND_SIGNALED) != 0) {
    Completion completion;
    ibv_wc& wc = completion.wc;
    wc.wr_id = request.wr_id;
    wc.status = status;
    wc.qp_num = qp.qp_base.qp_num;
    switch (request.opcode) {
      case IBV_WR_RDMA_WRITE:
      case IBV_WR_RDMA_WRITE_WITH_IMM:
        wc.opcode = IBV_WC_RDMA_WRITE;
        break;
      case IBV_WR_RDMA_READ:
        wc.opcode = IBV_WC_RDMA_READ;
        wc.byte_len = request.length;
        break;
      case IBV_WR_ATOMIC_CMP_AND_SWP:
        wc.opcode = IBV_WC_COMP_SWAP;
        wc.byte_len = 8;
        break;
      case IBV_WR_ATOMIC_FETCH_AND_ADD:
        wc.opcode = IBV_WC_FETCH_ADD;
        wc.byte_len = 8;
        break;
      default:
        wc.opcode = IBV_WC_SEND;
    }
    Push(*qp.send, completion);
  }
  if (qp.next == qp.first) ++qp.next;  // failed or flushed before it was started
  ++qp.first;
  if (!failed) return;
  if (qp.qp_base.qp_type == IBV_QPT_RC) {
    engine.Fail(qp);
  } else if (qp.qp_base.state == IBV_QPS_RTS) {
    // Unconnected and unacknowledged services only lose their send queue (IBTA 10.3.1.6).
    engine.SetState(qp, IBV_QPS_SQE);
    while (qp.first != qp.last) CompleteSend(engine, qp, IBV_WC_WR_FLUSH_ERR);
  }
}

namespace {

void FinishReceive(QueuePair& qp, const Completion& completion) {
  Push(*qp.receive, completion);
  SharedReceiveQueue* const shared = qp.shared;
  if (shared != nullptr && shared->limit != 0 && shared->ring->posted() < shared->limit) {
    shared->limit = 0;
    RaiseEvent(*shared, IBV_EVENT_SRQ_LIMIT_REACHED);
  }
}

}  // namespace

void CompleteReceive(QueuePair& qp, ibv_wc_status status, const Header* header) {
  auto& responder = qp.responder;
  responder.have_receive = false;
  Completion completion;
  ibv_wc& wc = completion.wc;
  wc.wr_id = responder.current.wr_id;
  wc.status = status;
  wc.qp_num = qp.qp_base.qp_num;
  wc.opcode = IBV_WC_RECV;
  if (header != nullptr) {
    const bool write = header->operation == Operation::kWriteOnlyImm ||
                       header->operation == Operation::kWriteLastImm;
    wc.opcode = write ? IBV_WC_RECV_RDMA_WITH_IMM : IBV_WC_RECV;
    wc.byte_len = responder.received;
    if (LayoutOf(header->service, header->operation).immediate) {
      wc.wc_flags |= IBV_WC_WITH_IMM;
      std::memcpy(&wc.imm_data, header->immediate.data(), 4);
    }
    wc.src_qp = header->service == Service::kUd ? header->src_qpn : qp.attr.dest_qp_num;
    if (header->service == Service::kUd) wc.wc_flags |= IBV_WC_GRH;
    completion.solicited = header->solicited;
  }
  FinishReceive(qp, completion);
}

void CompleteReceive(QueuePair& qp, const LocalMessage& message) {
  Completion completion;
  ibv_wc& wc = completion.wc;
  wc.wr_id = message.wr_id;
  wc.status = static_cast<ibv_wc_status>(message.status);
  wc.opcode = static_cast<ibv_wc_opcode>(message.opcode);
  wc.byte_len = message.byte_len;
  wc.qp_num = qp.qp_base.qp_num;
  wc.src_qp = qp.attr.dest_qp_num;
  if (message.has_immediate != 0) {
    wc.wc_flags |= IBV_WC_WITH_IMM;
    wc.imm_data = message.immediate;
  }
  completion.solicited = message.solicited != 0;
  FinishReceive(qp, completion);
}

}  // namespace urxe
