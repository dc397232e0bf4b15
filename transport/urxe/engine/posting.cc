// ibv_post_send and the posting of receives: checks that need no wire (IBTA vol. 1, 11.4.1).
#include <errno.h>

#include <cstring>

#include "transport/urxe/engine/engine.h"

namespace urxe {
namespace {

bool MaySend(const QueuePair& qp) {
  switch (qp.qp_base.state) {
    case IBV_QPS_RTS:
    case IBV_QPS_SQD:
    case IBV_QPS_SQE:
    case IBV_QPS_ERR:
      return true;
    default:
      return false;
  }
}

bool OpcodeFits(ibv_qp_type type, ibv_wr_opcode opcode) {
  switch (opcode) {
    case IBV_WR_SEND:
    case IBV_WR_SEND_WITH_IMM:
      return true;
    case IBV_WR_RDMA_WRITE:
    case IBV_WR_RDMA_WRITE_WITH_IMM:
      return type != IBV_QPT_UD;
    case IBV_WR_RDMA_READ:
    case IBV_WR_ATOMIC_CMP_AND_SWP:
    case IBV_WR_ATOMIC_FETCH_AND_ADD:
      return type == IBV_QPT_RC;
    default:
      return false;
  }
}

// Copies `wr` into the next slot of the send queue. 0 or errno, and then nothing has changed.
int Store(QueuePair& qp, const ibv_send_wr& wr) {
  if (qp.last - qp.first >= qp.cap.max_send_wr) return ENOMEM;
  if (!OpcodeFits(qp.qp_base.qp_type, wr.opcode)) return EINVAL;
  if (wr.num_sge < 0 || static_cast<uint32_t>(wr.num_sge) > qp.cap.max_send_sge) return EINVAL;

  const uint32_t slot = qp.last & static_cast<uint32_t>(qp.requests.size() - 1);
  SendRequest& request = qp.requests[slot];
  Piece* const pieces = &qp.pieces[size_t{slot} * qp.cap.max_send_sge];
  uint64_t length = 0;
  for (int i = 0; i < wr.num_sge; ++i) length += wr.sg_list[i].length;
  const bool atomic =
      wr.opcode == IBV_WR_ATOMIC_CMP_AND_SWP || wr.opcode == IBV_WR_ATOMIC_FETCH_AND_ADD;
  const bool fetches = atomic || wr.opcode == IBV_WR_RDMA_READ;
  if (length > kMaxMessage || (atomic && length != 8)) return EINVAL;
  const bool inlined = (wr.send_flags & IBV_SEND_INLINE) != 0;
  if (inlined && (fetches || length > qp.cap.max_inline_data)) return EINVAL;
  if (qp.qp_base.qp_type == IBV_QPT_UD) {
    if (wr.wr.ud.ah == nullptr || length > qp.mtu) return EINVAL;
  }

  request = SendRequest();
  request.wr_id = wr.wr_id;
  request.opcode = wr.opcode;
  request.flags = wr.send_flags;
  if (qp.signal_all) request.flags |= IBV_SEND_SIGNALED;
  request.immediate = wr.imm_data;
  request.length = static_cast<uint32_t>(length);
  if (atomic) {
    request.remote_address = wr.wr.atomic.remote_addr;
    request.rkey = wr.wr.atomic.rkey;
    request.compare_or_add = wr.wr.atomic.compare_add;
    request.swap = wr.wr.atomic.swap;
  } else if (qp.qp_base.qp_type == IBV_QPT_UD) {
    request.ah = static_cast<AddressHandle*>(wr.wr.ud.ah);
    request.remote_qpn = wr.wr.ud.remote_qpn & 0xFFFFFF;
    request.remote_qkey = wr.wr.ud.remote_qkey;
  } else {
    request.remote_address = wr.wr.rdma.remote_addr;
    request.rkey = wr.wr.rdma.rkey;
  }
  if (inlined) {
    std::byte* to = &qp.inline_data[size_t{slot} * qp.cap.max_inline_data];
    pieces[0] = {reinterpret_cast<uint64_t>(to), request.length, 0};
    request.num_pieces = length == 0 ? 0 : 1;
    request.inlined = true;
    for (int i = 0; i < wr.num_sge; ++i) {
      std::memcpy(to, reinterpret_cast<const void*>(wr.sg_list[i].addr), wr.sg_list[i].length);
      to += wr.sg_list[i].length;
    }
  } else {
    for (int i = 0; i < wr.num_sge; ++i) {
      if (wr.sg_list[i].length == 0) continue;
      pieces[request.num_pieces++] = {wr.sg_list[i].addr, wr.sg_list[i].length, wr.sg_list[i].lkey};
    }
  }
  ++qp.last;
  return 0;
}

}  // namespace

int Engine::PostSend(QueuePair& qp, ibv_send_wr* wr, ibv_send_wr** bad) {
  Count(&urxe_counters::doorbells);
  const std::lock_guard guard(lock);
  int error = 0;
  for (; wr != nullptr && error == 0; wr = wr->next) {
    error = MaySend(qp) ? Store(qp, *wr) : EINVAL;
    if (error != 0) {
      *bad = wr;
      break;
    }
  }
  if (qp.qp_base.state == IBV_QPS_ERR || qp.qp_base.state == IBV_QPS_SQE) {
    while (qp.first != qp.last) CompleteSend(*this, qp, IBV_WC_WR_FLUSH_ERR);
  } else if (qp.first != qp.last) {
    now_ = Now();
    SendMore(*this, qp);
    if (qp.endpoint != nullptr) qp.endpoint->Flush();
  }
  return error;
}

int Engine::PostReceive(QueuePair& qp, ibv_recv_wr* wr, ibv_recv_wr** bad) {
  const std::lock_guard guard(lock);
  int error = 0;
  for (; wr != nullptr; wr = wr->next) {
    error = qp.shared != nullptr || qp.qp_base.state == IBV_QPS_RESET ? EINVAL : qp.ring->Post(*wr);
    if (error != 0) {
      *bad = wr;
      break;
    }
  }
  if (qp.qp_base.state == IBV_QPS_ERR && qp.shared == nullptr) {
    while (qp.ring->Take(qp.responder.current)) {
      CompleteReceive(qp, IBV_WC_WR_FLUSH_ERR, nullptr);
    }
  }
  return error;
}

int Engine::PostSharedReceive(SharedReceiveQueue& srq, ibv_recv_wr* wr, ibv_recv_wr** bad) {
  const std::lock_guard guard(lock);
  for (; wr != nullptr; wr = wr->next) {
    if (const int error = srq.ring->Post(*wr); error != 0) {
      *bad = wr;
      return error;
    }
  }
  return 0;
}

}  // namespace urxe
