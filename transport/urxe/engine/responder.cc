// The responder of a queue pair: checks each request packet, places its bytes, consumes receives
// and owes answers (IBTA vol. 1, 9.7.4, 9.7.5.2, 9.8). Nothing is placed before the key, the
// permission and the bounds were checked.
#include <algorithm>
#include <cstring>

#include "transport/urxe/engine/engine.h"
#include "transport/urxe/settings.h"

namespace urxe {
namespace {

// Response packets sent before others get their turn.
constexpr int kAnswerBurst = 64;
constexpr uint32_t kGrhSize = 40;  // bytes before a datagram in its receive buffer

bool IsWrite(Operation operation) {
  return operation >= Operation::kWriteFirst && operation <= Operation::kWriteOnlyImm;
}
bool IsSend(Operation operation) { return operation <= Operation::kSendOnlyImm; }
bool TakesReceive(Operation operation) {
  return IsSend(operation) || operation == Operation::kWriteLastImm ||
         operation == Operation::kWriteOnlyImm;
}

// Answers with `syndrome` once what is owed before it is sent; then nothing until `expected_psn`.
void OweNak(Engine& engine, QueuePair& qp, uint8_t syndrome) {
  qp.responder.nak_sent = true;
  qp.responder.nak_owed = syndrome;
  engine.WantToAnswer(qp);
}

Header AnswerHeader(const QueuePair& qp, Operation operation, uint32_t psn, uint32_t msn) {
  Header header;
  header.operation = operation;
  header.dest_qpn = qp.attr.dest_qp_num;
  header.psn = psn;
  header.syndrome = kAckNoCredits;
  header.msn = msn;
  if (!ProcessSettings().settings.icrc) {
    header.hints = kHintIcrcDispensable | (qp.peer_skips_icrc ? kHintNoIcrc : 0);
  }
  return header;
}

void QueueAnswer(QueuePair& qp, Header& header, std::span<const iovec> payload = {},
                 size_t length = 0) {
  qp.endpoint->Queue(qp.destination, header, payload, length, (header.hints & kHintNoIcrc) == 0);
}

// Tells the requester of an error at once: Fail() forgets what is owed. Unreliable services cannot.
void SendErrorNak(QueuePair& qp, uint8_t syndrome) {
  if (qp.qp_base.qp_type != IBV_QPT_RC) return;
  Count(&urxe_counters::error_naks_sent);
  Header header =
      AnswerHeader(qp, Operation::kAcknowledge, qp.responder.expected_psn, qp.responder.msn);
  header.syndrome = syndrome;
  QueueAnswer(qp, header);
  qp.endpoint->Flush();
}

// A request that must not be: the requester is told, and the connection ends.
void Refuse(Engine& engine, QueuePair& qp, uint8_t syndrome) {
  SendErrorNak(qp, syndrome);
  RaiseEvent(qp, syndrome == kNakRemoteAccess ? IBV_EVENT_QP_ACCESS_ERR : IBV_EVENT_QP_REQ_ERR);
  engine.Fail(qp);
}

// A receive that could not take the message completes with `status`; then as above.
void FailReceive(Engine& engine, QueuePair& qp, ibv_wc_status status, uint8_t syndrome) {
  CompleteReceive(qp, status, nullptr);
  SendErrorNak(qp, syndrome);
  engine.Fail(qp);
}

// Puts `bytes` at `offset` into the buffers of `receive`.
ibv_wc_status Scatter(Engine& engine, const QueuePair& qp, const Receive& receive, uint64_t offset,
                      std::span<const std::byte> bytes) {
  uint64_t room = 0;
  for (uint32_t i = 0; i < receive.num_sge; ++i) room += receive.sge[i].length;
  if (offset + bytes.size() > room) return IBV_WC_LOC_LEN_ERR;
  for (uint32_t i = 0; i < receive.num_sge && !bytes.empty(); ++i) {
    const ibv_sge& sge = receive.sge[i];
    if (offset >= sge.length) {
      offset -= sge.length;
      continue;
    }
    const size_t part = std::min<size_t>(bytes.size(), sge.length - offset);
    std::byte* const to = engine.memory().Find(sge.lkey, qp.pd_handle, IBV_ACCESS_LOCAL_WRITE,
                                               sge.addr + offset, part);
    if (to == nullptr) return IBV_WC_LOC_PROT_ERR;
    std::memcpy(to, bytes.data(), part);
    Count(&urxe_counters::placed_bytes, part);
    bytes = bytes.subspan(part);
    offset = 0;
  }
  return IBV_WC_SUCCESS;
}

void Owe(Engine& engine, QueuePair& qp, const ResponderResource& resource, uint32_t psn) {
  qp.responder.owed.push_back({resource, psn});
  engine.WantToAnswer(qp);
}

void Remember(QueuePair& qp, const ResponderResource& resource) {
  auto& responder = qp.responder;
  responder.resources[responder.next_resource] = resource;
  responder.resources[responder.next_resource].used = true;
  responder.next_resource =
      (responder.next_resource + 1) % static_cast<uint32_t>(responder.resources.size());
}

uint32_t ResponsePackets(const QueuePair& qp, uint32_t length) {
  return std::max(1u, (length + qp.mtu - 1) / qp.mtu);
}

// The eight bytes of an atomic; null when the key does not permit it.
std::byte* AtomicTarget(Engine& engine, const QueuePair& qp, const Header& header) {
  return engine.memory().Find(header.rkey, qp.pd_handle, IBV_ACCESS_REMOTE_ATOMIC, header.address,
                              8);
}

void OnRead(Engine& engine, QueuePair& qp, const Header& header) {
  auto& responder = qp.responder;
  if (responder.resources.empty()) return Refuse(engine, qp, kNakInvalidRequest);
  if ((qp.attr.qp_access_flags & IBV_ACCESS_REMOTE_READ) == 0 || header.dma_length > kMaxMessage ||
      (header.dma_length != 0 &&
       engine.memory().Find(header.rkey, qp.pd_handle, IBV_ACCESS_REMOTE_READ, header.address,
                            header.dma_length) == nullptr)) {
    return Refuse(engine, qp, kNakRemoteAccess);
  }
  ResponderResource resource;
  resource.first_psn = header.psn;
  resource.last_psn = (header.psn + ResponsePackets(qp, header.dma_length) - 1) & kPsnMask;
  resource.address = header.address;
  resource.rkey = header.rkey;
  resource.length = header.dma_length;
  responder.msn = (responder.msn + 1) & kPsnMask;
  resource.msn = responder.msn;
  responder.expected_psn = (resource.last_psn + 1) & kPsnMask;
  Remember(qp, resource);
  Owe(engine, qp, resource, resource.first_psn);
}

void OnAtomic(Engine& engine, QueuePair& qp, const Header& header) {
  auto& responder = qp.responder;
  if (responder.resources.empty() || header.address % 8 != 0) {
    return Refuse(engine, qp, kNakInvalidRequest);
  }
  std::byte* const target = AtomicTarget(engine, qp, header);
  if ((qp.attr.qp_access_flags & IBV_ACCESS_REMOTE_ATOMIC) == 0 || target == nullptr) {
    return Refuse(engine, qp, kNakRemoteAccess);
  }
  // The engine's lock makes it atomic among this device's; the CPU instruction towards the program.
  std::atomic_ref<uint64_t> value(*reinterpret_cast<uint64_t*>(target));
  ResponderResource resource;
  resource.atomic = true;
  resource.first_psn = resource.last_psn = header.psn;
  if (header.operation == Operation::kFetchAdd) {
    resource.original = value.fetch_add(header.swap_or_add);
  } else {
    resource.original = header.compare;
    value.compare_exchange_strong(resource.original, header.swap_or_add);
  }
  responder.msn = (responder.msn + 1) & kPsnMask;
  resource.msn = responder.msn;
  responder.expected_psn = (header.psn + 1) & kPsnMask;
  Remember(qp, resource);
  Owe(engine, qp, resource, header.psn);
}

// A request that was carried out before (IBTA 9.7.5.1.4). SENDs and WRITEs are only acknowledged;
// READs are read again, atomics answered from memory.
void OnDuplicate(Engine& engine, QueuePair& qp, const Header& header) {
  auto& responder = qp.responder;
  Count(&urxe_counters::duplicates);
  const bool atomic =
      header.operation == Operation::kFetchAdd || header.operation == Operation::kCompareSwap;
  if (header.operation != Operation::kReadRequest && !atomic) {
    responder.ack_owed = true;
    engine.WantToAnswer(qp);
    return;
  }
  for (ResponderResource& resource : responder.resources) {
    const int32_t into = PsnDistance(header.psn, resource.first_psn);
    if (!resource.used || resource.atomic != atomic || into < 0 ||
        PsnDistance(resource.last_psn, header.psn) < 0) {
      continue;
    }
    ResponderResource again = resource;
    if (!atomic) {
      // The rest of the same READ, or a part of it: never anything beyond what was asked first.
      const uint64_t skipped = static_cast<uint64_t>(into) * qp.mtu;
      if (header.rkey != resource.rkey || header.address != resource.address + skipped ||
          header.dma_length > resource.length - skipped) {
        return;
      }
      again.first_psn = header.psn;
      again.address = header.address;
      again.length = header.dma_length;
      again.last_psn = (header.psn + ResponsePackets(qp, header.dma_length) - 1) & kPsnMask;
    }
    // The requester went back: what is owed from there on, it will ask for again.
    std::erase_if(responder.owed, [&](const OwedResponse& owed) {
      return PsnDistance(owed.resource.last_psn, header.psn) >= 0;
    });
    Owe(engine, qp, again, again.first_psn);
    return;
  }
  // Too old to be remembered: the requester has its response, or gives up.
}

// False when the packet cannot follow what came before, or has a length it must not have.
bool Follows(const QueuePair& qp, const Header& header, const Layout& layout, size_t payload) {
  const auto& responder = qp.responder;
  if (layout.first == responder.in_message) return false;
  if (!layout.first && IsWrite(header.operation) != IsWrite(responder.operation)) return false;
  return layout.last ? payload <= qp.mtu : payload == qp.mtu;
}

// A SEND or WRITE packet in its place. False when the message ends the connection or must wait.
bool Place(Engine& engine, QueuePair& qp, const Header& header, const Layout& layout,
           std::span<const std::byte> payload) {
  auto& responder = qp.responder;
  const bool write = IsWrite(header.operation);
  const bool rc = qp.qp_base.qp_type == IBV_QPT_RC;
  if (layout.first && write) {
    if ((qp.attr.qp_access_flags & IBV_ACCESS_REMOTE_WRITE) == 0 ||
        header.dma_length > kMaxMessage ||
        (header.dma_length != 0 &&
         engine.memory().Find(header.rkey, qp.pd_handle, IBV_ACCESS_REMOTE_WRITE, header.address,
                              header.dma_length) == nullptr)) {
      Refuse(engine, qp, kNakRemoteAccess);
      return false;
    }
  }
  // The receive first: a message without one is repeated, and must not have had an effect.
  const bool wants_receive = write ? TakesReceive(header.operation) : layout.first;
  if (wants_receive && !responder.have_receive) {
    if (!qp.ring->Take(responder.current)) {
      if (rc) {
        Count(&urxe_counters::rnr_naks_sent);
        OweNak(engine, qp, kRnrNak | (qp.attr.min_rnr_timer & 31));
      }
      return false;
    }
    responder.have_receive = true;
  }
  if (layout.first) {
    responder.operation = header.operation;
    responder.received = 0;
    responder.address = header.address;
    responder.rkey = header.rkey;
    responder.remaining = header.dma_length;
  }
  if (write) {
    const bool right =
        layout.last ? payload.size() == responder.remaining : payload.size() < responder.remaining;
    if (!right) {
      Refuse(engine, qp, kNakInvalidRequest);
      return false;
    }
    if (!payload.empty()) {
      std::byte* const to = engine.memory().Find(
          responder.rkey, qp.pd_handle, IBV_ACCESS_REMOTE_WRITE, responder.address, payload.size());
      if (to == nullptr) {
        Refuse(engine, qp, kNakRemoteAccess);
        return false;
      }
      std::memcpy(to, payload.data(), payload.size());
      Count(&urxe_counters::placed_bytes, payload.size());
    }
    responder.address += payload.size();
    responder.remaining -= static_cast<uint32_t>(payload.size());
  } else {
    const ibv_wc_status status =
        Scatter(engine, qp, responder.current, responder.received, payload);
    if (status != IBV_WC_SUCCESS) {
      FailReceive(engine, qp, status,
                  status == IBV_WC_LOC_LEN_ERR ? kNakInvalidRequest : kNakRemoteOperation);
      return false;
    }
  }
  responder.received += static_cast<uint32_t>(payload.size());
  responder.in_message = !layout.last;
  return true;
}

void Establish(QueuePair& qp) {
  if (qp.responder.established || qp.qp_base.state != IBV_QPS_RTR) return;
  qp.responder.established = true;
  RaiseEvent(qp, IBV_EVENT_COMM_EST);
}

// Unreliable connection: a gap ends the message under way; the next FIRST begins anew (9.8.3).
void OnUnreliable(Engine& engine, QueuePair& qp, const Arrival& arrival, const Layout& layout) {
  auto& responder = qp.responder;
  const Header& header = arrival.header;
  if (header.psn != responder.expected_psn) {
    Count(&urxe_counters::out_of_sequence);
    responder.in_message = false;
  }
  responder.expected_psn = (header.psn + 1) & kPsnMask;
  if (layout.first) responder.in_message = false;
  if (!Follows(qp, header, layout, arrival.payload.size())) return;
  Establish(qp);
  if (Place(engine, qp, header, layout, arrival.payload) && layout.last &&
      TakesReceive(header.operation)) {
    CompleteReceive(qp, IBV_WC_SUCCESS, &header);
  }
}

// The IPv4 header of a datagram takes the last 20 bytes of the GRH's place (annex A17.4.5.1).
void WriteGrh(const Arrival& arrival, const Gid& own, std::byte* grh) {
  std::memset(grh, 0, kGrhSize);
  auto* bytes = reinterpret_cast<uint8_t*>(grh);
  const size_t length = 8 + kBthSize + 8 + arrival.payload.size() + kIcrcSize;
  const bool ipv4 = std::all_of(arrival.source.begin(), arrival.source.begin() + 10,
                                [](uint8_t byte) { return byte == 0; }) &&
                    arrival.source[10] == 0xFF;
  if (ipv4) {
    uint8_t* ip = bytes + 20;
    ip[0] = 0x45;
    ip[1] = arrival.traffic_class;
    ip[2] = static_cast<uint8_t>((length + 20) >> 8);
    ip[3] = static_cast<uint8_t>(length + 20);
    ip[6] = 0x40;
    ip[8] = 64;
    ip[9] = 17;
    std::memcpy(ip + 12, arrival.source.data() + 12, 4);
    std::memcpy(ip + 16, own.data() + 12, 4);
    uint32_t sum = 0;
    for (int i = 0; i < 20; i += 2) sum += static_cast<uint32_t>(ip[i] << 8 | ip[i + 1]);
    sum = (sum & 0xFFFF) + (sum >> 16);
    sum = ~((sum & 0xFFFF) + (sum >> 16)) & 0xFFFF;
    ip[10] = static_cast<uint8_t>(sum >> 8);
    ip[11] = static_cast<uint8_t>(sum);
  } else {
    bytes[0] = static_cast<uint8_t>(0x60 | arrival.traffic_class >> 4);
    bytes[1] = static_cast<uint8_t>(arrival.traffic_class << 4);
    bytes[4] = static_cast<uint8_t>(length >> 8);
    bytes[5] = static_cast<uint8_t>(length);
    bytes[6] = 17;
    bytes[7] = 64;
    std::memcpy(bytes + 8, arrival.source.data(), 16);
    std::memcpy(bytes + 24, own.data(), 16);
  }
}

void OnDatagram(Engine& engine, QueuePair& qp, const Arrival& arrival, const Gid& own) {
  auto& responder = qp.responder;
  if (arrival.header.qkey != qp.attr.qkey) {
    Count(&urxe_counters::malformed);
    return;
  }
  // Without a receive a datagram is lost.
  if (!qp.ring->Take(responder.current)) return;
  responder.have_receive = true;
  Establish(qp);
  std::byte grh[kGrhSize];
  WriteGrh(arrival, own, grh);
  ibv_wc_status status = Scatter(engine, qp, responder.current, 0, grh);
  if (status == IBV_WC_SUCCESS) {
    status = Scatter(engine, qp, responder.current, kGrhSize, arrival.payload);
  }
  responder.received = kGrhSize + static_cast<uint32_t>(arrival.payload.size());
  CompleteReceive(qp, status, &arrival.header);
  if (status != IBV_WC_SUCCESS) engine.Fail(qp);
}

// Sends packets of a READ response; `left` counts the burst. False when memory was withdrawn.
bool SendReadResponse(Engine& engine, QueuePair& qp, OwedResponse& owed, int& left) {
  const ResponderResource& read = owed.resource;
  while (left > 0 && PsnDistance(read.last_psn, owed.next_psn) >= 0) {
    const uint64_t offset =
        static_cast<uint64_t>(PsnDistance(owed.next_psn, read.first_psn)) * qp.mtu;
    const uint32_t length = static_cast<uint32_t>(std::min<uint64_t>(read.length - offset, qp.mtu));
    std::byte* bytes = nullptr;
    if (length != 0) {
      bytes = engine.memory().Find(read.rkey, qp.pd_handle, IBV_ACCESS_REMOTE_READ,
                                   read.address + offset, length);
      if (bytes == nullptr) return false;
    }
    const bool first = owed.next_psn == read.first_psn;
    const bool last = owed.next_psn == read.last_psn;
    const Operation operation = first && last ? Operation::kReadResponseOnly
                                : first       ? Operation::kReadResponseFirst
                                : last        ? Operation::kReadResponseLast
                                              : Operation::kReadResponseMiddle;
    Header header = AnswerHeader(qp, operation, owed.next_psn, read.msn);
    const iovec part = {bytes, length};
    QueueAnswer(qp, header, {&part, length == 0 ? size_t{0} : size_t{1}}, length);
    owed.next_psn = (owed.next_psn + 1) & kPsnMask;
    --left;
  }
  return true;
}

}  // namespace

bool Answer(Engine& engine, QueuePair& qp) {
  auto& responder = qp.responder;
  if (qp.endpoint == nullptr) return true;
  int left = kAnswerBurst;
  while (!responder.owed.empty()) {
    OwedResponse& owed = responder.owed.front();
    if (owed.resource.atomic) {
      Header header = AnswerHeader(qp, Operation::kAtomicAcknowledge, owed.resource.first_psn,
                                   owed.resource.msn);
      header.original = owed.resource.original;
      QueueAnswer(qp, header);
      --left;
    } else {
      if (!SendReadResponse(engine, qp, owed, left)) {
        Refuse(engine, qp, kNakRemoteAccess);
        return true;
      }
      if (PsnDistance(owed.resource.last_psn, owed.next_psn) >= 0) return false;
    }
    responder.owed.pop_front();
    if (left <= 0 && !responder.owed.empty()) return false;
  }
  if (responder.nak_owed != 0) {
    Header header =
        AnswerHeader(qp, Operation::kAcknowledge, responder.expected_psn, responder.msn);
    header.syndrome = responder.nak_owed;
    QueueAnswer(qp, header);
    if (responder.nak_owed == kNakSequence) Count(&urxe_counters::naks_sent);
  } else if (responder.ack_owed) {
    Header header = AnswerHeader(qp, Operation::kAcknowledge,
                                 (responder.expected_psn - 1) & kPsnMask, responder.msn);
    QueueAnswer(qp, header);
    Count(&urxe_counters::acks_sent);
  }
  responder.nak_owed = 0;
  responder.ack_owed = false;
  return true;
}

void OnRequest(Engine& engine, QueuePair& qp, const Arrival& arrival, const Gid& own) {
  const Header& header = arrival.header;
  auto& responder = qp.responder;
  const ibv_qp_state state = qp.qp_base.state;
  if (state != IBV_QPS_RTR && state != IBV_QPS_RTS && state != IBV_QPS_SQD &&
      state != IBV_QPS_SQE) {
    return;
  }
  const Layout layout = LayoutOf(header.service, header.operation);
  if (qp.qp_base.qp_type == IBV_QPT_UD) return OnDatagram(engine, qp, arrival, own);
  if (qp.qp_base.qp_type == IBV_QPT_UC) return OnUnreliable(engine, qp, arrival, layout);

  const int32_t ahead = PsnDistance(header.psn, responder.expected_psn);
  if (ahead > 0) {
    Count(&urxe_counters::out_of_sequence);
    if (!responder.nak_sent) OweNak(engine, qp, kNakSequence);
    return;
  }
  if (ahead < 0) return OnDuplicate(engine, qp, header);
  responder.nak_sent = false;
  responder.nak_owed = 0;
  Establish(qp);

  if (IsSend(header.operation) || IsWrite(header.operation)) {
    if (!Follows(qp, header, layout, arrival.payload.size())) {
      return Refuse(engine, qp, kNakInvalidRequest);
    }
    if (!Place(engine, qp, header, layout, arrival.payload)) return;
    responder.expected_psn = (responder.expected_psn + 1) & kPsnMask;
    if (layout.last) {
      responder.msn = (responder.msn + 1) & kPsnMask;
      if (TakesReceive(header.operation)) CompleteReceive(qp, IBV_WC_SUCCESS, &header);
    }
    if (header.ack_request) {
      responder.ack_owed = true;
      engine.WantToAnswer(qp);
    }
    return;
  }
  if (responder.in_message) return Refuse(engine, qp, kNakInvalidRequest);
  if (header.operation == Operation::kReadRequest) return OnRead(engine, qp, header);
  OnAtomic(engine, qp, header);
}

}  // namespace urxe
