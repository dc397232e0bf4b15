// What the two halves of the requester share: sending.cc makes packets of requests, requester.cc
// takes what comes back.
//
// PSNs: unacked <= send <= next. Packets in [unacked, send) are in flight; [send, next) belong to
// started requests and are to be sent, again after going back. Requests retire in order.
#pragma once

#include "transport/urxe/engine/engine.h"

namespace urxe {

inline SendRequest& RequestAt(QueuePair& qp, uint32_t position) {
  return qp.requests[position & (qp.requests.size() - 1)];
}
inline bool IsRead(const SendRequest& request) { return request.opcode == IBV_WR_RDMA_READ; }
inline bool IsAtomic(const SendRequest& request) {
  return request.opcode == IBV_WR_ATOMIC_CMP_AND_SWP ||
         request.opcode == IBV_WR_ATOMIC_FETCH_AND_ADD;
}
// Completed by a response rather than by an ACK.
inline bool Fetches(const SendRequest& request) { return IsRead(request) || IsAtomic(request); }

// The bytes [offset, offset + length) of a request's local memory as iovecs, kMaxSendSge of them at
// most. Returns how many; -1 when a key does not cover them: registration may end at any time.
int Gather(Engine& engine, QueuePair& qp, uint32_t position, uint32_t offset, uint32_t length,
           uint32_t access, iovec* out);

// Puts the packet of `psn`, of the request at `position`, into the endpoint's burst; for a READ the
// request of `packets` responses. False when local memory is not ours to use any more.
bool SendPacket(Engine& engine, QueuePair& qp, uint32_t position, uint32_t psn, uint32_t packets,
                bool ask);

// Sets the timers: the oldest packet in flight is young again.
void Arm(Engine& engine, QueuePair& qp);

uint64_t AckTimeout(uint8_t exponent);  // ns (IBTA 9.7.6.1.3); 0: none
uint64_t RnrDelay(uint8_t code);        // ns (IBTA table 46)

}  // namespace urxe
