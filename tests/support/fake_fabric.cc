#include "tests/support/fake_fabric.h"

#include <arpa/inet.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace gradwire::test {
namespace {

void Signal(int fd) {
  const uint64_t one = 1;
  // An eventfd takes 2^64 - 2 of these before it is full.
  [[maybe_unused]] const ssize_t written = write(fd, &one, sizeof(one));
}

size_t TotalLength(const std::vector<ibv_sge>& pieces) {
  size_t total = 0;
  for (const ibv_sge& piece : pieces) total += piece.length;
  return total;
}

bool Inside(uint64_t address, size_t length, const ibv_mr& memory) {
  const auto begin = reinterpret_cast<uint64_t>(memory.addr);
  return address >= begin && length <= memory.length && address - begin <= memory.length - length;
}

bool HoldsGid(const FakePort& port, const ibv_gid& gid) {
  return std::any_of(port.gids.begin(), port.gids.end(), [&](const FakeGid& entry) {
    uint8_t raw[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    if (inet_pton(AF_INET, entry.address.c_str(), raw + 12) != 1) {
      inet_pton(AF_INET6, entry.address.c_str(), raw);
    }
    return std::memcmp(raw, gid.raw, sizeof(raw)) == 0;
  });
}

}  // namespace

Fabric& Fabric::Get() {
  static Fabric fabric;
  return fabric;
}

Fabric::Fabric() { Reset(); }

void Fabric::Reset() {
  queue_pairs.clear();
  by_local_key.clear();
  by_remote_key.clear();
  contexts.clear();
  held.clear();
  objects_.clear();
  retired_.clear();
  failures_.clear();
  statuses_.clear();
  ready_.clear();
  counters = {};
  devices = {std::make_shared<DeviceObject>(FakeDevice{})};
}

void Fabric::ArmFailure(const std::string& function, int error, int after) {
  failures_[function].push_back({error, after});
}

int Fabric::TakeFailure(const std::string& function) {
  const auto found = failures_.find(function);
  if (found == failures_.end() || found->second.empty()) return 0;
  Failure& first = found->second.front();
  if (first.after-- > 0) return 0;
  const int error = first.error;
  found->second.erase(found->second.begin());
  return error;
}

void Fabric::Raise(Context& context, const ibv_async_event& event) {
  context.events.push_back(event);
  Signal(context.async_fd);
}

const FakePort* Fabric::PortOf(const QueuePairObject& queue_pair) const {
  const auto& ports = static_cast<Context*>(queue_pair.context)->object().description.ports;
  const size_t number = queue_pair.attributes.port_num;
  return number >= 1 && number <= ports.size() ? &ports[number - 1] : nullptr;
}

int Fabric::Accept(QueuePairObject& queue_pair, const ibv_send_wr& work) {
  if (const int error = TakeFailure("ibv_post_send"); error != 0) return error;
  if (queue_pair.state != IBV_QPS_RTS && queue_pair.state != IBV_QPS_ERR) return EINVAL;
  const ibv_qp_cap& cap = queue_pair.initial.cap;
  if (queue_pair.posted - queue_pair.freed >= cap.max_send_wr) return ENOMEM;
  if (work.num_sge < 0 || static_cast<uint32_t>(work.num_sge) > cap.max_send_sge) return EINVAL;

  Request request{work, {}, {}, queue_pair.posted};
  request.pieces.assign(work.sg_list, work.sg_list + work.num_sge);
  const bool carries = work.opcode == IBV_WR_RDMA_WRITE ||
                       work.opcode == IBV_WR_RDMA_WRITE_WITH_IMM || work.opcode == IBV_WR_SEND ||
                       work.opcode == IBV_WR_SEND_WITH_IMM;
  const bool fetches = work.opcode == IBV_WR_RDMA_READ ||
                       work.opcode == IBV_WR_ATOMIC_FETCH_AND_ADD ||
                       work.opcode == IBV_WR_ATOMIC_CMP_AND_SWP;
  if (!carries && !fetches) return EOPNOTSUPP;
  if (fetches && queue_pair.attributes.max_rd_atomic == 0) return EINVAL;
  if ((work.send_flags & IBV_SEND_INLINE) != 0) {
    if (!carries || TotalLength(request.pieces) > cap.max_inline_data) return EINVAL;
    for (const ibv_sge& piece : request.pieces) {
      const auto* bytes = reinterpret_cast<const std::byte*>(piece.addr);
      request.inline_bytes.insert(request.inline_bytes.end(), bytes, bytes + piece.length);
    }
    ++counters.inlined;
  }
  if (queue_pair.initial.sq_sig_all != 0) request.work.send_flags |= IBV_SEND_SIGNALED;
  if ((request.work.send_flags & IBV_SEND_SIGNALED) != 0) ++counters.signaled;
  ++counters.requests;
  ++queue_pair.posted;
  if (queue_pair.state == IBV_QPS_ERR) {
    CompleteSend(queue_pair, request, IBV_WC_WR_FLUSH_ERR, 0);
  } else {
    queue_pair.requests.push_back(std::move(request));
  }
  return 0;
}

void Fabric::Deliver(QueuePairObject& queue_pair) {
  ready_.push_back(queue_pair.qp_num);
  Drain();
}

void Fabric::DeliverTo(QueuePairObject& queue_pair) {
  ready_.push_back(queue_pair.attributes.dest_qp_num);
  Drain();
}

void Fabric::DeliverTo(const SharedReceiveObject& queue) {
  for (const auto& [number, queue_pair] : queue_pairs) {
    if (queue_pair->srq == &queue) ready_.push_back(queue_pair->attributes.dest_qp_num);
  }
  Drain();
}

void Fabric::DeliverAll() {
  for (const auto& [number, queue_pair] : queue_pairs) ready_.push_back(number);
  Drain();
}

// What one delivery sets off (a broken peer, for one) is done after it, never inside it.
void Fabric::Drain() {
  if (draining_) return;
  draining_ = true;
  while (!ready_.empty()) {
    const uint32_t number = ready_.front();
    ready_.pop_front();
    const auto found = queue_pairs.find(number);
    if (found == queue_pairs.end()) continue;
    QueuePairObject& from = *found->second;
    while (from.state == IBV_QPS_RTS && !from.requests.empty() && !held.contains(0) &&
           !held.contains(number)) {
      // Out of the queue while it is looked at: what it sets off may flush the queue.
      Request request = std::move(from.requests.front());
      from.requests.pop_front();
      const std::optional<ibv_wc_status> status = Execute(from, request);
      if (!status.has_value()) {
        from.requests.push_front(std::move(request));
        break;
      }
      if (*status == IBV_WC_SUCCESS && !statuses_.empty()) --statuses_.front().after;
      const auto length = static_cast<uint32_t>(TotalLength(request.pieces));
      if (*status == IBV_WC_SUCCESS) counters.delivered_bytes += length;
      if (*status != IBV_WC_SUCCESS || (request.work.send_flags & IBV_SEND_SIGNALED) != 0) {
        CompleteSend(from, request, *status, length);
      }
      if (*status != IBV_WC_SUCCESS) Break(from);
    }
  }
  draining_ = false;
}

void Fabric::Break(QueuePairObject& queue_pair) {
  if (queue_pair.state == IBV_QPS_ERR) return;
  queue_pair.state = IBV_QPS_ERR;
  for (const Request& request : std::exchange(queue_pair.requests, {})) {
    CompleteSend(queue_pair, request, IBV_WC_WR_FLUSH_ERR, 0);
  }
  FlushReceives(queue_pair);
  if (queue_pair.srq != nullptr) {
    ibv_async_event event = {};
    event.event_type = IBV_EVENT_QP_LAST_WQE_REACHED;
    event.element.qp = &queue_pair;
    Raise(*static_cast<Context*>(queue_pair.context), event);
  }
  DeliverTo(queue_pair);
}

void Fabric::FlushReceives(QueuePairObject& queue_pair) {
  for (const Receive& receive : std::exchange(queue_pair.receives, {})) {
    CompleteReceive(queue_pair, receive.id, IBV_WC_WR_FLUSH_ERR, nullptr, 0);
  }
}

void Fabric::Clear(QueuePairObject& queue_pair) {
  queue_pair.requests.clear();
  queue_pair.receives.clear();
  queue_pair.freed = queue_pair.posted;
  for (CompletionObject* queue : {&queue_pair.sends(), &queue_pair.arrivals()}) {
    std::erase_if(queue->entries, [&](const CompletionObject::Entry& entry) {
      return entry.completion.qp_num == queue_pair.qp_num;
    });
  }
}

bool Fabric::Connected(const QueuePairObject& from, const QueuePairObject& to) const {
  const FakePort* here = PortOf(from);
  const FakePort* there = PortOf(to);
  if (here == nullptr || there == nullptr) return false;
  if (here->state != IBV_PORT_ACTIVE || there->state != IBV_PORT_ACTIVE) return false;
  const ibv_ah_attr& address = from.attributes.ah_attr;
  if (here->ethernet ? !HoldsGid(*there, address.grh.dgid) : address.dlid != there->lid) {
    return false;
  }
  return to.attributes.dest_qp_num == from.qp_num && to.attributes.rq_psn == from.attributes.sq_psn;
}

std::optional<ibv_wc_status> Fabric::Execute(QueuePairObject& from, Request& request) {
  if (!statuses_.empty() && statuses_.front().after == 0) {
    const ibv_wc_status status = statuses_.front().status;
    statuses_.erase(statuses_.begin());
    return status;
  }
  const auto found = queue_pairs.find(from.attributes.dest_qp_num);
  if (found == queue_pairs.end()) return IBV_WC_RETRY_EXC_ERR;
  QueuePairObject& to = *found->second;
  if (to.state == IBV_QPS_RESET || to.state == IBV_QPS_INIT) return std::nullopt;
  if (to.state == IBV_QPS_ERR || !Connected(from, to)) return IBV_WC_RETRY_EXC_ERR;
  // A full first packet of another size than expected is an invalid request.
  if (from.attributes.path_mtu != to.attributes.path_mtu) {
    Break(to);
    return IBV_WC_REM_INV_REQ_ERR;
  }
  switch (request.work.opcode) {
    case IBV_WR_RDMA_READ:
    case IBV_WR_ATOMIC_FETCH_AND_ADD:
    case IBV_WR_ATOMIC_CMP_AND_SWP:
      return ReadOrAtomic(from, to, request);
    default:
      return Carry(from, to, request);
  }
}

std::optional<ibv_wc_status> Fabric::Carry(QueuePairObject& from, QueuePairObject& to,
                                           Request& request) {
  const ibv_send_wr& work = request.work;
  const bool writes = work.opcode == IBV_WR_RDMA_WRITE || work.opcode == IBV_WR_RDMA_WRITE_WITH_IMM;
  const bool consumes = work.opcode != IBV_WR_RDMA_WRITE;
  std::vector<std::byte> bytes;
  if (!Gather(from, request, bytes)) return IBV_WC_LOC_PROT_ERR;

  std::deque<Receive>& receives = to.receive_queue();
  if (consumes && receives.empty()) {
    counters.not_ready += request.found_no_receive ? 0 : 1;
    request.found_no_receive = true;
    // 7 stands for retries without end.
    if (from.attributes.rnr_retry == 7) return std::nullopt;
    return IBV_WC_RNR_RETRY_EXC_ERR;
  }
  if (writes && !bytes.empty()) {
    std::byte* target = RemoteMemory(to, work.wr.rdma.remote_addr, work.wr.rdma.rkey, bytes.size(),
                                     IBV_ACCESS_REMOTE_WRITE);
    if (target == nullptr) return Refuse(to);
    std::memcpy(target, bytes.data(), bytes.size());
  }
  if (!consumes) return IBV_WC_SUCCESS;

  const Receive receive = std::move(receives.front());
  receives.pop_front();
  ibv_wc_status status = IBV_WC_SUCCESS;
  if (!writes) status = Scatter(to, receive.pieces, bytes);
  CompleteReceive(to, receive.id, status, &request, static_cast<uint32_t>(bytes.size()));
  if (status == IBV_WC_SUCCESS) return status;
  Break(to);
  return status == IBV_WC_LOC_LEN_ERR ? IBV_WC_REM_INV_REQ_ERR : IBV_WC_REM_OP_ERR;
}

ibv_wc_status Fabric::ReadOrAtomic(QueuePairObject& from, QueuePairObject& to, Request& request) {
  const ibv_send_wr& work = request.work;
  const bool reads = work.opcode == IBV_WR_RDMA_READ;
  const size_t length = TotalLength(request.pieces);
  const uint64_t address = reads ? work.wr.rdma.remote_addr : work.wr.atomic.remote_addr;
  const uint32_t key = reads ? work.wr.rdma.rkey : work.wr.atomic.rkey;
  if (to.attributes.max_dest_rd_atomic == 0 ||
      (!reads && (length != sizeof(uint64_t) || address % sizeof(uint64_t) != 0))) {
    Break(to);
    return IBV_WC_REM_INV_REQ_ERR;
  }
  std::vector<std::byte> bytes(length);
  if (length > 0) {
    std::byte* source = RemoteMemory(to, address, key, length,
                                     reads ? IBV_ACCESS_REMOTE_READ : IBV_ACCESS_REMOTE_ATOMIC);
    if (source == nullptr) return Refuse(to);
    std::memcpy(bytes.data(), source, length);
    if (!reads) {
      uint64_t before = 0;
      std::memcpy(&before, source, sizeof(before));
      uint64_t after = before + work.wr.atomic.compare_add;
      if (work.opcode == IBV_WR_ATOMIC_CMP_AND_SWP) {
        after = before == work.wr.atomic.compare_add ? work.wr.atomic.swap : before;
      }
      std::memcpy(source, &after, sizeof(after));
    }
  }
  return Scatter(from, request.pieces, bytes);
}

Memory* Fabric::LocalMemory(const QueuePairObject& queue_pair, const ibv_sge& piece, int access) {
  const auto found = by_local_key.find(piece.lkey);
  if (found == by_local_key.end()) return nullptr;
  Memory* memory = found->second;
  const bool fits = memory->pd == queue_pair.pd && Inside(piece.addr, piece.length, *memory) &&
                    (memory->access & access) == access;
  return fits ? memory : nullptr;
}

std::byte* Fabric::RemoteMemory(const QueuePairObject& to, uint64_t address, uint32_t key,
                                size_t length, int access) {
  const auto found = by_remote_key.find(key);
  if (found == by_remote_key.end()) return nullptr;
  const Memory& memory = *found->second;
  const auto rights = static_cast<unsigned int>(access);
  const bool fits = memory.pd == to.pd && Inside(address, length, memory) &&
                    (memory.access & access) != 0 && (to.attributes.qp_access_flags & rights) != 0;
  return fits ? reinterpret_cast<std::byte*>(address) : nullptr;
}

ibv_wc_status Fabric::Refuse(QueuePairObject& to) {
  ibv_async_event event = {};
  event.event_type = IBV_EVENT_QP_ACCESS_ERR;
  event.element.qp = &to;
  Raise(*static_cast<Context*>(to.context), event);
  Break(to);
  return IBV_WC_REM_ACCESS_ERR;
}

bool Fabric::Gather(QueuePairObject& queue_pair, const Request& request,
                    std::vector<std::byte>& bytes) {
  if ((request.work.send_flags & IBV_SEND_INLINE) != 0) {
    bytes = request.inline_bytes;
    return true;
  }
  for (const ibv_sge& piece : request.pieces) {
    if (piece.length == 0) continue;
    if (LocalMemory(queue_pair, piece, 0) == nullptr) return false;
    const auto* source = reinterpret_cast<const std::byte*>(piece.addr);
    bytes.insert(bytes.end(), source, source + piece.length);
  }
  return true;
}

ibv_wc_status Fabric::Scatter(QueuePairObject& queue_pair, const std::vector<ibv_sge>& pieces,
                              const std::vector<std::byte>& bytes) {
  if (TotalLength(pieces) < bytes.size()) return IBV_WC_LOC_LEN_ERR;
  size_t done = 0;
  for (const ibv_sge& piece : pieces) {
    const size_t length = std::min<size_t>(piece.length, bytes.size() - done);
    if (length == 0) break;
    if (LocalMemory(queue_pair, piece, IBV_ACCESS_LOCAL_WRITE) == nullptr) {
      return IBV_WC_LOC_PROT_ERR;
    }
    std::memcpy(reinterpret_cast<void*>(piece.addr), bytes.data() + done, length);
    done += length;
  }
  return IBV_WC_SUCCESS;
}

void Fabric::CompleteSend(QueuePairObject& queue_pair, const Request& request, ibv_wc_status status,
                          uint32_t length) {
  ibv_wc completion;
  // After a failure only four fields mean anything: the others hold what nobody may rely on.
  std::memset(&completion, status == IBV_WC_SUCCESS ? 0 : 0x5a, sizeof(completion));
  completion.wr_id = request.work.wr_id;
  completion.status = status;
  completion.qp_num = queue_pair.qp_num;
  completion.vendor_err = 0;
  if (status == IBV_WC_SUCCESS) {
    completion.byte_len = length;
    switch (request.work.opcode) {
      case IBV_WR_SEND:
      case IBV_WR_SEND_WITH_IMM:
        completion.opcode = IBV_WC_SEND;
        break;
      case IBV_WR_RDMA_READ:
        completion.opcode = IBV_WC_RDMA_READ;
        break;
      case IBV_WR_ATOMIC_FETCH_AND_ADD:
        completion.opcode = IBV_WC_FETCH_ADD;
        break;
      case IBV_WR_ATOMIC_CMP_AND_SWP:
        completion.opcode = IBV_WC_COMP_SWAP;
        break;
      default:
        completion.opcode = IBV_WC_RDMA_WRITE;
        break;
    }
  }
  Push(queue_pair.sends(), {completion, request.number + 1}, status != IBV_WC_SUCCESS);
}

void Fabric::CompleteReceive(QueuePairObject& queue_pair, uint64_t id, ibv_wc_status status,
                             const Request* request, uint32_t length) {
  ibv_wc completion;
  std::memset(&completion, status == IBV_WC_SUCCESS ? 0 : 0x5a, sizeof(completion));
  completion.wr_id = id;
  completion.status = status;
  completion.qp_num = queue_pair.qp_num;
  completion.vendor_err = 0;
  if (status == IBV_WC_SUCCESS) {
    const ibv_wr_opcode opcode = request->work.opcode;
    completion.opcode =
        opcode == IBV_WR_RDMA_WRITE_WITH_IMM ? IBV_WC_RECV_RDMA_WITH_IMM : IBV_WC_RECV;
    completion.byte_len = length;
    if (opcode != IBV_WR_SEND) {
      completion.wc_flags = IBV_WC_WITH_IMM;
      completion.imm_data = request->work.imm_data;
    }
  }
  const bool solicited =
      status != IBV_WC_SUCCESS || (request->work.send_flags & IBV_SEND_SOLICITED) != 0;
  Push(queue_pair.arrivals(), {completion, 0}, solicited);
}

void Fabric::Push(CompletionObject& queue, const CompletionObject::Entry& entry, bool solicited) {
  if (queue.overrun) return;
  if (queue.entries.size() >= static_cast<size_t>(queue.cqe)) {
    ++counters.overruns;
    queue.overrun = true;
    ibv_async_event event = {};
    event.event_type = IBV_EVENT_CQ_ERR;
    event.element.cq = &queue;
    Raise(*static_cast<Context*>(queue.context), event);
    for (const auto& [number, queue_pair] : queue_pairs) {
      if (queue_pair->send_cq == &queue || queue_pair->recv_cq == &queue) Break(*queue_pair);
    }
    return;
  }
  queue.entries.push_back(entry);
  ++counters.completions;
  const bool wakes = queue.armed == CompletionObject::Armed::kAny ||
                     (queue.armed == CompletionObject::Armed::kSolicited && solicited);
  if (!wakes || queue.channel == nullptr) return;
  queue.armed = CompletionObject::Armed::kNo;
  auto& channel = *static_cast<Channel*>(queue.channel);
  channel.events.push_back(&queue);
  ++counters.events;
  Signal(channel.fd);
}

}  // namespace gradwire::test
