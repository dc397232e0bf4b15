#include "transport/urxe/verbs/work_requests.h"

#include <cerrno>

#include "transport/urxe/verbs/context.h"

namespace urxe {
namespace {

VerbsQueuePair& Building(ibv_qp_ex* qp) { return static_cast<VerbsQueuePair&>(Urxe(qp)); }

ibv_send_wr& Add(ibv_qp_ex* base, ibv_wr_opcode opcode) {
  VerbsQueuePair& qp = Building(base);
  ibv_send_wr& request = qp.requests_built.emplace_back();
  request.wr_id = base->wr_id;
  request.opcode = opcode;
  request.send_flags = base->wr_flags & ~unsigned{IBV_SEND_INLINE};  // setters say what is inline
  return request;
}

// The request that setters are for; without one, an error that wr_complete returns.
ibv_send_wr* Last(VerbsQueuePair& qp) {
  if (!qp.requests_built.empty()) return &qp.requests_built.back();
  qp.build_error = EINVAL;
  return nullptr;
}

void AddUnsupported(ibv_qp_ex* base) { Building(base).build_error = EOPNOTSUPP; }

void AddRdma(ibv_qp_ex* base, ibv_wr_opcode opcode, uint32_t rkey, uint64_t address) {
  ibv_send_wr& request = Add(base, opcode);
  request.wr.rdma.remote_addr = address;
  request.wr.rdma.rkey = rkey;
}

void AddAtomic(ibv_qp_ex* base, ibv_wr_opcode opcode, uint32_t rkey, uint64_t address,
               uint64_t compare_add, uint64_t swap) {
  ibv_send_wr& request = Add(base, opcode);
  request.wr.atomic.remote_addr = address;
  request.wr.atomic.rkey = rkey;
  request.wr.atomic.compare_add = compare_add;
  request.wr.atomic.swap = swap;
}

void SetSgeList(ibv_qp_ex* base, size_t count, const ibv_sge* list) {
  VerbsQueuePair& qp = Building(base);
  ibv_send_wr* request = Last(qp);
  if (request == nullptr) return;
  if (request->num_sge != 0 || count > qp.cap.max_send_sge) {
    qp.build_error = EINVAL;
    return;
  }
  request->num_sge = static_cast<int>(count);
  qp.elements.insert(qp.elements.end(), list, list + count);
}

void SetInlineDataList(ibv_qp_ex* base, size_t count, const ibv_data_buf* list) {
  VerbsQueuePair& qp = Building(base);
  ibv_send_wr* request = Last(qp);
  if (request == nullptr) return;
  size_t length = 0;
  for (size_t i = 0; i < count; ++i) length += list[i].length;
  if (request->num_sge != 0 || length > qp.cap.max_inline_data) {
    qp.build_error = EINVAL;
    return;
  }
  request->num_sge = 1;
  request->send_flags |= IBV_SEND_INLINE;
  qp.elements.push_back({qp.inline_bytes.size(), static_cast<uint32_t>(length), 0});
  for (size_t i = 0; i < count; ++i) {
    const auto* bytes = static_cast<const std::byte*>(list[i].addr);
    qp.inline_bytes.insert(qp.inline_bytes.end(), bytes, bytes + list[i].length);
  }
}

void SetUdAddress(ibv_qp_ex* base, ibv_ah* ah, uint32_t remote_qpn, uint32_t remote_qkey) {
  ibv_send_wr* request = Last(Building(base));
  if (request == nullptr) return;
  request->wr.ud.ah = ah;
  request->wr.ud.remote_qpn = remote_qpn;
  request->wr.ud.remote_qkey = remote_qkey;
}

void Clear(VerbsQueuePair& qp) {
  qp.requests_built.clear();
  qp.elements.clear();
  qp.inline_bytes.clear();
  qp.build_error = 0;
}

void Start(ibv_qp_ex* base) {
  VerbsQueuePair& qp = Building(base);
  qp.building.lock();
  Clear(qp);
}

void Abort(ibv_qp_ex* base) { Building(base).building.unlock(); }

// All or nothing: room for all is made sure of first.
int Post(VerbsQueuePair& qp) {
  if (qp.build_error != 0) return qp.build_error;
  if (qp.requests_built.empty()) return 0;
  ibv_sge* element = qp.elements.data();
  ibv_send_wr* next = nullptr;
  for (ibv_send_wr& request : qp.requests_built) {
    request.sg_list = element;
    element += request.num_sge;
    if ((request.send_flags & IBV_SEND_INLINE) != 0) {
      request.sg_list->addr += reinterpret_cast<uint64_t>(qp.inline_bytes.data());
    }
  }
  for (auto request = qp.requests_built.rbegin(); request != qp.requests_built.rend(); ++request) {
    request->next = next;
    next = &*request;
  }
  {
    const std::lock_guard guard(qp.engine->lock);
    if (qp.last - qp.first + qp.requests_built.size() > qp.cap.max_send_wr) return ENOMEM;
  }
  ibv_send_wr* bad = nullptr;
  return qp.engine->PostSend(qp, qp.requests_built.data(), &bad);
}

int Complete(ibv_qp_ex* base) {
  VerbsQueuePair& qp = Building(base);
  const int error = Post(qp);
  qp.building.unlock();
  return error;
}

// rdma-core 41 added an operation; headers before it have no place for it.
template <typename Base>
void SetAtomicWrite(Base& qp) {
  if constexpr (requires { qp.wr_atomic_write; }) {
    qp.wr_atomic_write = [](Base* base, uint32_t, uint64_t, const void*) { AddUnsupported(base); };
  }
}

}  // namespace

void SetWorkRequests(QueuePair& qp) {
  qp.extended = true;
  qp.wr_start = Start;
  qp.wr_complete = Complete;
  qp.wr_abort = Abort;

  qp.wr_send = [](ibv_qp_ex* base) { Add(base, IBV_WR_SEND); };
  qp.wr_send_imm = [](ibv_qp_ex* base, __be32 immediate) {
    Add(base, IBV_WR_SEND_WITH_IMM).imm_data = immediate;
  };
  qp.wr_rdma_write = [](ibv_qp_ex* base, uint32_t rkey, uint64_t address) {
    AddRdma(base, IBV_WR_RDMA_WRITE, rkey, address);
  };
  qp.wr_rdma_write_imm = [](ibv_qp_ex* base, uint32_t rkey, uint64_t address, __be32 immediate) {
    AddRdma(base, IBV_WR_RDMA_WRITE_WITH_IMM, rkey, address);
    Last(Building(base))->imm_data = immediate;
  };
  qp.wr_rdma_read = [](ibv_qp_ex* base, uint32_t rkey, uint64_t address) {
    AddRdma(base, IBV_WR_RDMA_READ, rkey, address);
  };
  qp.wr_atomic_cmp_swp = [](ibv_qp_ex* base, uint32_t rkey, uint64_t address, uint64_t compare,
                            uint64_t swap) {
    AddAtomic(base, IBV_WR_ATOMIC_CMP_AND_SWP, rkey, address, compare, swap);
  };
  qp.wr_atomic_fetch_add = [](ibv_qp_ex* base, uint32_t rkey, uint64_t address, uint64_t add) {
    AddAtomic(base, IBV_WR_ATOMIC_FETCH_AND_ADD, rkey, address, add, 0);
  };
  qp.wr_bind_mw = [](ibv_qp_ex* base, ibv_mw*, uint32_t, const ibv_mw_bind_info*) {
    AddUnsupported(base);
  };
  qp.wr_local_inv = [](ibv_qp_ex* base, uint32_t) { AddUnsupported(base); };
  qp.wr_send_inv = [](ibv_qp_ex* base, uint32_t) { AddUnsupported(base); };
  qp.wr_send_tso = [](ibv_qp_ex* base, void*, uint16_t, uint16_t) { AddUnsupported(base); };
  SetAtomicWrite<ibv_qp_ex>(qp);

  qp.wr_set_ud_addr = SetUdAddress;
  qp.wr_set_xrc_srqn = [](ibv_qp_ex* base, uint32_t) { AddUnsupported(base); };
  qp.wr_set_sge = [](ibv_qp_ex* base, uint32_t lkey, uint64_t address, uint32_t length) {
    const ibv_sge element = {address, length, lkey};
    SetSgeList(base, 1, &element);
  };
  qp.wr_set_sge_list = SetSgeList;
  qp.wr_set_inline_data = [](ibv_qp_ex* base, void* address, size_t length) {
    const ibv_data_buf data = {address, length};
    SetInlineDataList(base, 1, &data);
  };
  qp.wr_set_inline_data_list = SetInlineDataList;
}

}  // namespace urxe
