// The sending half of the requester (IBTA vol. 1, 9.7.3 and 9.7.2.1): cuts requests into packets,
// as many as the window, the peer's READ depth and fences allow.
#include <algorithm>

#include "transport/urxe/engine/requester.h"
#include "transport/urxe/settings.h"

namespace urxe {
namespace {

// A skb's book-keeping counts against the receiver's buffer like payload.
constexpr uint32_t kPacketOverhead = 512;  // bytes of window
// A READ is asked for in parts, so that its response cannot overrun our own socket buffer.
constexpr uint32_t kReadPart = 128 << 10;     // bytes
constexpr int32_t kMaxOutstanding = 1 << 22;  // packets; PSNs must stay within half their ring

// Whether the whole request's local memory may be used; a request that was cut short by a key that
// ended meanwhile is found by Gather.
bool LocalMemoryIsGood(Engine& engine, QueuePair& qp, uint32_t position) {
  const SendRequest& request = RequestAt(qp, position);
  iovec unused[kMaxSendSge];
  return Gather(engine, qp, position, 0, request.length,
                Fetches(request) ? IBV_ACCESS_LOCAL_WRITE : 0, unused) >= 0;
}

Operation OperationOf(const SendRequest& request, bool first, bool last) {
  const bool immediate =
      request.opcode == IBV_WR_SEND_WITH_IMM || request.opcode == IBV_WR_RDMA_WRITE_WITH_IMM;
  const bool write =
      request.opcode == IBV_WR_RDMA_WRITE || request.opcode == IBV_WR_RDMA_WRITE_WITH_IMM;
  Operation operation = Operation::kSendMiddle;
  if (first && last) {
    operation = immediate ? Operation::kSendOnlyImm : Operation::kSendOnly;
  } else if (first) {
    operation = Operation::kSendFirst;
  } else if (last) {
    operation = immediate ? Operation::kSendLastImm : Operation::kSendLast;
  }
  // The WRITE opcodes follow the SEND ones in the same order.
  const int shift = write ? static_cast<int>(Operation::kWriteFirst) : 0;
  return static_cast<Operation>(static_cast<int>(operation) + shift);
}

// Starts the next waiting request, if it may be. False when it may not yet.
bool StartNext(Engine& engine, QueuePair& qp) {
  auto& requester = qp.requester;
  if (qp.next == qp.last || qp.qp_base.state != IBV_QPS_RTS) return false;
  SendRequest& request = RequestAt(qp, qp.next);
  if ((request.flags & IBV_SEND_FENCE) != 0 && requester.reads > 0) return false;
  if (Fetches(request) && qp.attr.max_rd_atomic == 0) {
    // Those before it complete first.
    if (qp.first == qp.next) CompleteSend(engine, qp, IBV_WC_LOC_QP_OP_ERR);
    return false;
  }
  const uint32_t packets = std::max(1u, (request.length + qp.mtu - 1) / qp.mtu);
  if (PsnDistance(requester.next_psn, requester.unacked_psn) + static_cast<int32_t>(packets) >
      kMaxOutstanding) {
    return false;
  }
  if (!LocalMemoryIsGood(engine, qp, qp.next)) {
    if (qp.first == qp.next) CompleteSend(engine, qp, IBV_WC_LOC_PROT_ERR);
    return false;
  }
  request.started = true;
  request.first_psn = requester.next_psn;
  request.last_psn = (requester.next_psn + packets - 1) & kPsnMask;
  request.packet_cost = std::min(request.length, qp.mtu) + kPacketOverhead;
  requester.next_psn = (requester.next_psn + packets) & kPsnMask;
  requester.cursor = qp.next++;
  return true;
}

// Datagrams and unacknowledged messages are done once they are on their way.
void SendUnacknowledged(Engine& engine, QueuePair& qp) {
  while (qp.first != qp.last && qp.qp_base.state == IBV_QPS_RTS) {
    SendRequest& request = RequestAt(qp, qp.first);
    if (!LocalMemoryIsGood(engine, qp, qp.first)) {
      CompleteSend(engine, qp, IBV_WC_LOC_PROT_ERR);
      return;
    }
    auto& requester = qp.requester;
    const uint32_t packets = std::max(1u, (request.length + qp.mtu - 1) / qp.mtu);
    request.first_psn = requester.next_psn;
    request.last_psn = (requester.next_psn + packets - 1) & kPsnMask;
    Endpoint* endpoint = qp.endpoint;
    if (qp.qp_base.qp_type == IBV_QPT_UD) {
      endpoint = request.ah->endpoint;
      Header header;
      header.service = Service::kUd;
      header.operation =
          request.opcode == IBV_WR_SEND_WITH_IMM ? Operation::kSendOnlyImm : Operation::kSendOnly;
      header.solicited = (request.flags & IBV_SEND_SOLICITED) != 0;
      header.dest_qpn = request.remote_qpn;
      header.psn = requester.next_psn;
      // The upper bit asks for the queue pair's own key (IBTA 10.2.5).
      header.qkey = (request.remote_qkey & 0x80000000u) != 0 ? qp.attr.qkey : request.remote_qkey;
      header.src_qpn = qp.qp_base.qp_num;
      std::copy_n(reinterpret_cast<const uint8_t*>(&request.immediate), 4, header.immediate.data());
      iovec parts[kMaxSendSge];
      const int count = Gather(engine, qp, qp.first, 0, request.length, 0, parts);
      endpoint->Queue(request.ah->destination, header, {parts, static_cast<size_t>(count)},
                      request.length, true);
    } else {
      for (uint32_t i = 0; i < packets; ++i) {
        SendPacket(engine, qp, qp.first, (request.first_psn + i) & kPsnMask, 1, false);
      }
    }
    requester.next_psn = (requester.next_psn + packets) & kPsnMask;
    // Completing gives the buffers back to the application.
    endpoint->Flush();
    qp.next = qp.first + 1;
    CompleteSend(engine, qp, IBV_WC_SUCCESS);
  }
}

}  // namespace

int Gather(Engine& engine, QueuePair& qp, uint32_t position, uint32_t offset, uint32_t length,
           uint32_t access, iovec* out) {
  const SendRequest& request = RequestAt(qp, position);
  const Piece* piece =
      &qp.pieces[(position & (qp.requests.size() - 1)) * size_t{qp.cap.max_send_sge}];
  int count = 0;
  for (uint32_t i = 0; i < request.num_pieces && length > 0; ++i, ++piece) {
    if (offset >= piece->length) {
      offset -= piece->length;
      continue;
    }
    const uint32_t part = std::min(length, piece->length - offset);
    std::byte* bytes = reinterpret_cast<std::byte*>(piece->address + offset);
    if (!request.inlined) {
      bytes =
          engine.memory().Find(piece->lkey, qp.pd_handle, access, piece->address + offset, part);
      if (bytes == nullptr) return -1;
    }
    out[count++] = {bytes, part};
    length -= part;
    offset = 0;
  }
  return count;
}

bool SendPacket(Engine& engine, QueuePair& qp, uint32_t position, uint32_t psn, uint32_t packets,
                bool ask) {
  const SendRequest& request = RequestAt(qp, position);
  Header header;
  header.service = qp.qp_base.qp_type == IBV_QPT_UC ? Service::kUc : Service::kRc;
  header.dest_qpn = qp.attr.dest_qp_num;
  header.psn = psn;
  const bool no_icrc = !ProcessSettings().settings.icrc;
  if (no_icrc) header.hints = kHintIcrcDispensable;

  const uint32_t number = static_cast<uint32_t>(PsnDistance(psn, request.first_psn));
  const uint32_t offset = number * qp.mtu;
  uint32_t payload = 0;
  iovec parts[kMaxSendSge];
  int count = 0;
  if (IsRead(request)) {
    header.operation = Operation::kReadRequest;
    header.address = request.remote_address + offset;
    header.rkey = request.rkey;
    header.dma_length = std::min(request.length - offset, packets * qp.mtu);
  } else if (IsAtomic(request)) {
    const bool add = request.opcode == IBV_WR_ATOMIC_FETCH_AND_ADD;
    header.operation = add ? Operation::kFetchAdd : Operation::kCompareSwap;
    header.address = request.remote_address;
    header.rkey = request.rkey;
    header.swap_or_add = add ? request.compare_or_add : request.swap;
    header.compare = add ? 0 : request.compare_or_add;
  } else {
    payload = std::min(request.length - offset, qp.mtu);
    const bool first = psn == request.first_psn;
    const bool last = psn == request.last_psn;
    header.operation = OperationOf(request, first, last);
    header.address = request.remote_address;
    header.rkey = request.rkey;
    header.dma_length = request.length;
    std::copy_n(reinterpret_cast<const uint8_t*>(&request.immediate), 4, header.immediate.data());
    header.solicited = last && (request.flags & IBV_SEND_SOLICITED) != 0;
    header.ack_request = ask;
    count = Gather(engine, qp, position, offset, payload, 0, parts);
    if (count < 0) return false;
  }
  const bool with_icrc = !(no_icrc && qp.peer_skips_icrc);
  if (!with_icrc) header.hints |= kHintNoIcrc;
  qp.endpoint->Queue(qp.destination, header, {parts, static_cast<size_t>(count)}, payload,
                     with_icrc);
  auto& requester = qp.requester;
  if (PsnDistance(psn, requester.max_sent_psn) < 0) {
    Count(&urxe_counters::retransmits);
  } else {
    requester.max_sent_psn = (psn + packets) & kPsnMask;
  }
  return true;
}

void SendMore(Engine& engine, QueuePair& qp) {
  if (qp.qp_base.state != IBV_QPS_RTS && qp.qp_base.state != IBV_QPS_SQD) return;
  if (qp.local != nullptr) return SendLocally(engine, qp);
  if (qp.qp_base.qp_type != IBV_QPT_RC) return SendUnacknowledged(engine, qp);
  auto& requester = qp.requester;
  if (requester.rnr_until != 0) return;
  // A full window is left alone until there is room for a burst again: otherwise each ACK would let
  // a packet or two go, and segmentation offload would have nothing to join.
  if (qp.window->in_flight > qp.window->limit - qp.window->limit / 6) {
    engine.WantToSend(qp);
    return;
  }
  const bool idle = requester.send_psn == requester.unacked_psn;
  for (;;) {
    if (requester.send_psn == requester.next_psn && !StartNext(engine, qp)) break;
    SendRequest& request = RequestAt(qp, requester.cursor);
    const uint32_t left =
        static_cast<uint32_t>(PsnDistance(request.last_psn, requester.send_psn)) + 1;
    uint32_t packets = 1;
    if (Fetches(request)) {
      if (requester.reads >= std::min<uint32_t>(qp.attr.max_rd_atomic, kMaxInitiatorDepth)) break;
      if (IsRead(request)) packets = std::min(left, std::max(1u, kReadPart / qp.mtu));
    }
    const uint32_t cost = packets * request.packet_cost;
    // A window that is empty takes any packet: nothing else would ever open it.
    if (qp.window->in_flight != 0 && qp.window->in_flight + cost > qp.window->limit) {
      engine.WantToSend(qp);
      break;
    }
    requester.since_ack_request += cost;
    const bool last_of_all = left == 1 && qp.last == requester.cursor + 1;
    const bool ask = (left == 1 && (request.flags & IBV_SEND_SIGNALED) != 0) || last_of_all ||
                     requester.since_ack_request >= qp.window->limit / 4;
    if (!SendPacket(engine, qp, requester.cursor, requester.send_psn, packets, ask)) {
      if (requester.cursor == qp.first) CompleteSend(engine, qp, IBV_WC_LOC_PROT_ERR);
      break;
    }
    if (ask || Fetches(request)) requester.since_ack_request = 0;
    requester.in_flight += cost;
    qp.window->in_flight += cost;
    requester.send_psn = (requester.send_psn + packets) & kPsnMask;
    if (Fetches(request)) {
      requester.read_ends[requester.reads++] = (requester.send_psn - 1) & kPsnMask;
    }
    if (left == packets) ++requester.cursor;
  }
  if (idle && requester.send_psn != requester.unacked_psn && requester.deadline == 0 &&
      requester.probe_at == 0) {
    Arm(engine, qp);
  }
  if (qp.draining && qp.first == qp.next) {
    qp.draining = false;
    RaiseEvent(qp, IBV_EVENT_SQ_DRAINED);
  }
}

}  // namespace urxe
