// The receiving half of the requester: takes ACKs, NAKs and responses, retires requests and goes
// back when packets were lost (IBTA vol. 1, 9.7.5.1 and 9.7.6).
#include "transport/urxe/engine/requester.h"

#include <algorithm>

#include "transport/urxe/settings.h"

namespace urxe {
namespace {

// An early retransmission of one packet finds a lost tail (or a lost NAK) sooner than the local ACK
// timeout; it costs a packet when the peer was merely busy, hence the growing distance.
constexpr uint64_t kProbeInterval = 2'000'000;  // ns
constexpr uint32_t kMaxProbeBackoff = 6;
// More than one response may be missing of one loss; one re-request serves them all.
constexpr uint64_t kGoBackPause = 1'000'000;  // ns
constexpr uint32_t kLeastWindow = 64 << 10;   // bytes, unless less is all there may be

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
  const uint32_t least = std::min(kLeastWindow, ProcessSettings().settings.window);
  qp.window->limit = std::max(qp.window->limit / 2, least);
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
  requester.retries_left = qp.attr.retry_cnt;
  Arm(engine, qp);
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

}  // namespace

void Arm(Engine& engine, QueuePair& qp) {
  auto& requester = qp.requester;
  requester.probe_backoff = 0;
  requester.deadline = requester.probe_at = 0;
  if (requester.send_psn == requester.unacked_psn) return;
  const uint64_t timeout = AckTimeout(qp.attr.timeout);
  // The interval may be up to four times what was set (IBTA 9.7.6.1.3). From one retry to the next
  // it grows to that: a peer whose processor is taken for a while has not gone.
  const uint32_t retries = qp.attr.retry_cnt - requester.retries_left;
  if (timeout != 0) requester.deadline = engine.now() + (timeout << std::min(retries, 2u));
  requester.probe_at = engine.now() + kProbeInterval;
  engine.WantTimer(qp, requester.deadline == 0 ? requester.probe_at
                                               : std::min(requester.deadline, requester.probe_at));
}

uint64_t AckTimeout(uint8_t exponent) {
  return exponent == 0 ? 0 : uint64_t{4096} << (exponent & 31);
}

uint64_t RnrDelay(uint8_t code) {
  static constexpr uint16_t kHundredths[32] = {
      65535, 1,    2,    3,    4,    6,     8,     12,    16,    24,   32,
      48,    64,   96,   128,  192,  256,   384,   512,   768,   1024, 1536,
      2048,  3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 49152};
  return kHundredths[code & 31] * uint64_t{10'000};
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
