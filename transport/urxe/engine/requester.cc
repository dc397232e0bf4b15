// The requester of a queue pair: cuts requests into packets, keeps them until they are acknowledged
// and goes back when some are lost (IBTA vol. 1, 9.7.3, 9.7.5.1 and 9.7.6).
//
// PSNs: unacked <= send <= next. Packets in [unacked, send) are in flight; [send, next) belong to
// started requests and are to be sent, again after going back. Requests retire in order.
#include <algorithm>

#include "transport/urxe/engine/engine.h"
#include "transport/urxe/settings.h"

namespace urxe {
namespace {

// A skb's book-keeping counts against the receiver's buffer like payload.
constexpr uint32_t kPacketOverhead = 512;  // bytes of window
// A READ is asked for in parts, so that its response cannot overrun our own socket buffer.
constexpr uint32_t kReadPart = 128 << 10;  // bytes
// An early retransmission of one packet finds a lost tail (or a lost NAK) sooner than the local ACK
// timeout; it costs a packet when the peer was merely busy, hence the growing distance.
constexpr uint64_t kProbeInterval = 2'000'000;  // ns
constexpr uint32_t kMaxProbeBackoff = 6;
// More than one response may be missing of one loss; one re-request serves them all.
constexpr uint64_t kGoBackPause = 1'000'000;  // ns
constexpr uint32_t kMinWindow = 64 << 10;     // bytes
constexpr int32_t kMaxOutstanding = 1 << 22;  // packets; PSNs must stay within half their ring

SendRequest& RequestAt(QueuePair& qp, uint32_t position) {
  return qp.requests[position & (qp.requests.size() - 1)];
}

bool IsAtomic(const SendRequest& request) {
  return request.opcode == IBV_WR_ATOMIC_CMP_AND_SWP ||
         request.opcode == IBV_WR_ATOMIC_FETCH_AND_ADD;
}

bool IsRead(const SendRequest& request) { return request.opcode == IBV_WR_RDMA_READ; }
// Completed by a response rather than by an ACK.
bool Fetches(const SendRequest& request) { return IsRead(request) || IsAtomic(request); }

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

// Puts the packet of `psn`, of the request at `position`, into the endpoint's burst; for a READ the
// request of `packets` responses. False when local memory is not ours to use any more.
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

// Sets the timers after progress: the oldest packet in flight is young again.
void Rearm(Engine& engine, QueuePair& qp) {
  auto& requester = qp.requester;
  requester.retries_left = qp.attr.retry_cnt;
  requester.probe_backoff = 0;
  requester.deadline = requester.probe_at = 0;
  if (requester.send_psn == requester.unacked_psn) return;
  const uint64_t timeout = AckTimeout(qp.attr.timeout);
  if (timeout != 0) requester.deadline = engine.now() + timeout;
  requester.probe_at = engine.now() + kProbeInterval;
  engine.WantTimer(qp, requester.deadline == 0 ? requester.probe_at
                                               : std::min(requester.deadline, requester.probe_at));
}

// Everything from the oldest unacknowledged packet on is to be sent again.
void GoBack(Engine& engine, QueuePair& qp) {
  auto& requester = qp.requester;
  qp.window->in_flight -= requester.in_flight;
  requester.in_flight = 0;
  requester.send_psn = requester.unacked_psn;
  requester.cursor = qp.first;
  requester.reads = 0;
  requester.since_ack_request = 0;
  requester.probing = false;
  requester.went_back_at = engine.now();
  engine.WantToSend(qp);
}

// Loss halves the window, once for all that was in flight when it happened.
void Shrink(QueuePair& qp) {
  auto& requester = qp.requester;
  if (PsnDistance(requester.unacked_psn, requester.recovery_psn) < 0) return;
  requester.recovery_psn = requester.max_sent_psn;
  qp.window->limit = std::max(qp.window->limit / 2, kMinWindow);
}

// All packets before `psn` are acknowledged. Stops at a READ or atomic without its response.
void Advance(Engine& engine, QueuePair& qp, uint32_t psn) {
  auto& requester = qp.requester;
  const uint32_t before = requester.unacked_psn;
  while (PsnDistance(psn, requester.unacked_psn) > 0) {
    SendRequest& request = RequestAt(qp, qp.first);
    if (Fetches(request) && !request.done) break;
    const uint32_t after_request = (request.last_psn + 1) & kPsnMask;
    const bool whole = PsnDistance(psn, after_request) >= 0;
    const uint32_t end = whole ? after_request : psn;
    const int32_t packets = PsnDistance(end, requester.unacked_psn);
    const int32_t sent =
        std::clamp(PsnDistance(requester.send_psn, requester.unacked_psn), 0, packets);
    const uint32_t bytes = static_cast<uint32_t>(sent) * request.packet_cost;
    requester.in_flight -= bytes;
    qp.window->in_flight -= bytes;
    requester.unacked_psn = end;
    if (whole) CompleteSend(engine, qp, IBV_WC_SUCCESS);
  }
  if (requester.unacked_psn == before) return;
  // An ACK may come for packets that were to be sent again.
  if (PsnDistance(requester.unacked_psn, requester.send_psn) > 0) {
    requester.send_psn = requester.unacked_psn;
    requester.cursor = qp.first;
  }
  requester.rnr_retries_left = qp.attr.rnr_retry;
  const uint32_t limit = ProcessSettings().settings.window;
  if (qp.window->limit < limit) {
    qp.window->limit = std::min(limit, qp.window->limit + qp.mtu);
  }
  Rearm(engine, qp);
  engine.WantToSend(qp);
}

// The oldest request failed at the responder.
void FailFirst(Engine& engine, QueuePair& qp, ibv_wc_status status) {
  if (qp.first == qp.next) return;
  CompleteSend(engine, qp, status);
}

// Takes response packet `psn`, which is the oldest one missing; its request is the first.
void TakeReadResponse(Engine& engine, QueuePair& qp, const Arrival& arrival) {
  auto& requester = qp.requester;
  SendRequest& request = RequestAt(qp, qp.first);
  const uint32_t number = static_cast<uint32_t>(PsnDistance(arrival.header.psn, request.first_psn));
  const uint32_t offset = number * qp.mtu;
  const uint32_t length = std::min(request.length - offset, qp.mtu);
  if (arrival.payload.size() != length) {
    FailFirst(engine, qp, IBV_WC_BAD_RESP_ERR);
    return;
  }
  iovec parts[kMaxSendSge];
  const int count = Gather(engine, qp, qp.first, offset, length, IBV_ACCESS_LOCAL_WRITE, parts);
  if (count < 0) {
    FailFirst(engine, qp, IBV_WC_LOC_PROT_ERR);
    return;
  }
  const std::byte* from = arrival.payload.data();
  for (int i = 0; i < count; ++i) {
    std::copy_n(from, parts[i].iov_len, static_cast<std::byte*>(parts[i].iov_base));
    from += parts[i].iov_len;
  }
  if (requester.reads > 0 && requester.read_ends[0] == arrival.header.psn) {
    std::copy(requester.read_ends.begin() + 1, requester.read_ends.begin() + requester.reads,
              requester.read_ends.begin());
    --requester.reads;
  }
  // `done` lets Advance pass this packet; only the last one ends the request.
  request.done = true;
  const uint32_t position = qp.first;
  const bool last = arrival.header.psn == request.last_psn;
  Advance(engine, qp, (arrival.header.psn + 1) & kPsnMask);
  if (!last && qp.first == position) RequestAt(qp, position).done = false;
}

void TakeAtomicResponse(Engine& engine, QueuePair& qp, const Arrival& arrival) {
  auto& requester = qp.requester;
  SendRequest& request = RequestAt(qp, qp.first);
  iovec parts[kMaxSendSge];
  const int count = Gather(engine, qp, qp.first, 0, 8, IBV_ACCESS_LOCAL_WRITE, parts);
  if (count < 0) {
    FailFirst(engine, qp, IBV_WC_LOC_PROT_ERR);
    return;
  }
  const auto* from = reinterpret_cast<const std::byte*>(&arrival.header.original);
  for (int i = 0; i < count; ++i) {
    std::copy_n(from, parts[i].iov_len, static_cast<std::byte*>(parts[i].iov_base));
    from += parts[i].iov_len;
  }
  if (requester.reads > 0) {
    std::copy(requester.read_ends.begin() + 1, requester.read_ends.begin() + requester.reads,
              requester.read_ends.begin());
    --requester.reads;
  }
  request.done = true;
  Advance(engine, qp, (arrival.header.psn + 1) & kPsnMask);
}

void OnNak(Engine& engine, QueuePair& qp, const Header& header) {
  auto& requester = qp.requester;
  switch (header.syndrome) {
    case kNakSequence:
      Count(&urxe_counters::naks_received);
      Shrink(qp);
      GoBack(engine, qp);
      return;
    case kNakInvalidRequest:
      Count(&urxe_counters::error_naks_received);
      FailFirst(engine, qp, IBV_WC_REM_INV_REQ_ERR);
      return;
    case kNakRemoteAccess:
      Count(&urxe_counters::error_naks_received);
      FailFirst(engine, qp, IBV_WC_REM_ACCESS_ERR);
      return;
    case kNakRemoteOperation:
      Count(&urxe_counters::error_naks_received);
      FailFirst(engine, qp, IBV_WC_REM_OP_ERR);
      return;
    default:
      break;
  }
  if ((header.syndrome & 0xE0) != kRnrNak) return;
  Count(&urxe_counters::rnr_naks_received);
  // Seven means for ever (IBTA 9.7.5.2.8).
  if (qp.attr.rnr_retry != 7) {
    if (requester.rnr_retries_left == 0) {
      FailFirst(engine, qp, IBV_WC_RNR_RETRY_EXC_ERR);
      return;
    }
    --requester.rnr_retries_left;
  }
  GoBack(engine, qp);
  requester.deadline = requester.probe_at = 0;
  requester.rnr_until = engine.now() + RnrDelay(header.syndrome);
  engine.WantTimer(qp, requester.rnr_until);
}

// Starts the next waiting request, if it may be. False when it may not yet.
bool StartNext(Engine& engine, QueuePair& qp) {
  auto& requester = qp.requester;
  if (qp.next == qp.last || qp.qp_base.state != IBV_QPS_RTS) return false;
  SendRequest& request = RequestAt(qp, qp.next);
  if ((request.flags & IBV_SEND_FENCE) != 0 && requester.reads > 0) return false;
  const uint32_t packets = std::max(1u, (request.length + qp.mtu - 1) / qp.mtu);
  if (PsnDistance(requester.next_psn, requester.unacked_psn) + static_cast<int32_t>(packets) >
      kMaxOutstanding) {
    return false;
  }
  if (!LocalMemoryIsGood(engine, qp, qp.next)) {
    // Those before it complete first.
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

// IBTA 9.7.6.1.3: the local ACK timeout of an exponent.
uint64_t AckTimeout(uint8_t exponent) {
  return exponent == 0 ? 0 : uint64_t{4096} << (exponent & 31);
}

// IBTA table 46: RNR timer codes, in units of 10 us.
uint64_t RnrDelay(uint8_t code) {
  static constexpr uint16_t kHundredths[32] = {
      65535, 1,    2,    3,    4,    6,     8,     12,    16,    24,   32,
      48,    64,   96,   128,  192,  256,   384,   512,   768,   1024, 1536,
      2048,  3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 49152};
  return kHundredths[code & 31] * uint64_t{10'000};
}

// The bytes [offset, offset + length) of the request's local memory as iovecs. -1 when a key does
// not cover them: registration may end at any time.
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

void SendMore(Engine& engine, QueuePair& qp) {
  if (qp.qp_base.state != IBV_QPS_RTS && qp.qp_base.state != IBV_QPS_SQD) return;
  if (qp.local != nullptr) return SendLocally(engine, qp);
  if (qp.qp_base.qp_type != IBV_QPT_RC) return SendUnacknowledged(engine, qp);
  auto& requester = qp.requester;
  if (requester.rnr_until != 0) return;
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
    const uint32_t retries = requester.retries_left;
    Rearm(engine, qp);
    requester.retries_left = retries;  // sending is not progress
  }
  if (qp.draining && qp.first == qp.next) {
    qp.draining = false;
    RaiseEvent(qp, IBV_EVENT_SQ_DRAINED);
  }
}

void OnResponse(Engine& engine, QueuePair& qp, const Arrival& arrival) {
  const Header& header = arrival.header;
  auto& requester = qp.requester;
  if (qp.qp_base.state != IBV_QPS_RTS && qp.qp_base.state != IBV_QPS_SQD) return;
  const bool acknowledge = header.operation == Operation::kAcknowledge;
  if (acknowledge) Count(&urxe_counters::acks_received);
  // Nothing is acknowledged that was never sent, nor twice. A NAK names the PSN it expects.
  const bool positive = !acknowledge || (header.syndrome & 0xE0) == 0;
  const int32_t ahead = PsnDistance(header.psn, requester.unacked_psn);
  if (PsnDistance(header.psn, requester.max_sent_psn) >= (positive ? 0 : 1)) return;
  if (ahead < 0) return;

  if (!acknowledge) {
    // A response acknowledges all requests before its own.
    Advance(engine, qp, header.psn);
    if (qp.first == qp.next) return;
    const SendRequest& request = RequestAt(qp, qp.first);
    const bool atomic = header.operation == Operation::kAtomicAcknowledge;
    if (requester.unacked_psn != header.psn) {
      // A response in between is missing.
      Count(&urxe_counters::out_of_sequence);
      if (engine.now() - requester.went_back_at > kGoBackPause) {
        Shrink(qp);
        GoBack(engine, qp);
      }
      return;
    }
    if (atomic && IsAtomic(request)) {
      TakeAtomicResponse(engine, qp, arrival);
    } else if (!atomic && IsRead(request)) {
      TakeReadResponse(engine, qp, arrival);
    } else {
      FailFirst(engine, qp, IBV_WC_BAD_RESP_ERR);
    }
    return;
  }

  if (!positive) {
    Advance(engine, qp, header.psn);
    // The responder goes on from a later packet than we know done: READ responses were lost.
    if (requester.unacked_psn != header.psn && (header.syndrome & 0xE0) == 0x60 &&
        header.syndrome != kNakSequence) {
      GoBack(engine, qp);
      return;
    }
    if (qp.first != qp.next) OnNak(engine, qp, header);
    return;
  }
  const uint32_t after = (header.psn + 1) & kPsnMask;
  Advance(engine, qp, after);
  if (PsnDistance(after, requester.unacked_psn) > 0) {
    // An ACK past a READ whose response did not come: it was lost (IBTA 9.7.5.1.1).
    if (engine.now() - requester.went_back_at > kGoBackPause) {
      Shrink(qp);
      GoBack(engine, qp);
    }
  } else if (requester.probing && header.psn == requester.probe_psn) {
    requester.probing = false;
    // The peer had only waited for that one packet: what followed it was dropped.
    if (requester.send_psn != requester.unacked_psn) {
      Shrink(qp);
      GoBack(engine, qp);
    }
  } else {
    requester.probing = false;
  }
}

void OnRequesterTimer(Engine& engine, QueuePair& qp) {
  auto& requester = qp.requester;
  if (qp.qp_base.state != IBV_QPS_RTS && qp.qp_base.state != IBV_QPS_SQD) return;
  const uint64_t now = engine.now();
  if (requester.rnr_until != 0 && now >= requester.rnr_until) {
    requester.rnr_until = 0;
    engine.WantToSend(qp);
  }
  if (qp.local != nullptr) {
    if (requester.rnr_until != 0) engine.WantTimer(qp, requester.rnr_until);
    engine.WantToSend(qp);
    return;
  }
  if (requester.deadline != 0 && now >= requester.deadline) {
    Count(&urxe_counters::timeouts);
    if (requester.retries_left == 0) {
      FailFirst(engine, qp, IBV_WC_RETRY_EXC_ERR);
      return;
    }
    const uint32_t retries = requester.retries_left - 1;
    Shrink(qp);
    GoBack(engine, qp);
    requester.deadline = requester.probe_at = 0;  // sending arms them again
    requester.retries_left = retries;
  } else if (requester.probe_at != 0 && now >= requester.probe_at) {
    requester.probe_at = 0;
    if (qp.first != qp.next && requester.send_psn != requester.unacked_psn &&
        !Fetches(RequestAt(qp, qp.first))) {
      Count(&urxe_counters::probes);
      requester.probing = true;
      requester.probe_psn = requester.unacked_psn;
      if (!SendPacket(engine, qp, qp.first, requester.unacked_psn, 1, true)) {
        CompleteSend(engine, qp, IBV_WC_LOC_PROT_ERR);
        return;
      }
      requester.probe_backoff = std::min(requester.probe_backoff + 1, kMaxProbeBackoff);
      requester.probe_at = now + (kProbeInterval << requester.probe_backoff);
    }
  }
  uint64_t due = UINT64_MAX;
  for (const uint64_t at : {requester.deadline, requester.probe_at, requester.rnr_until}) {
    if (at != 0) due = std::min(due, at);
  }
  if (due != UINT64_MAX) engine.WantTimer(qp, due);
}

}  // namespace urxe
