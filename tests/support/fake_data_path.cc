// The data path, reached through context->ops: to post requests, to poll and to arm completion
// queues; and the context, which names these functions.
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <deque>

#include "tests/support/fake_calls.h"
#include "tests/support/fake_fabric.h"

namespace gradwire::test {
namespace {

int PollQueue(ibv_cq* queue, int count, ibv_wc* out) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  if (const int error = fabric.TakeFailure("ibv_poll_cq"); error != 0) return Minus(error);
  auto& object = *static_cast<CompletionObject*>(queue);
  int taken = 0;
  for (; taken < count && !object.entries.empty(); ++taken) {
    const CompletionObject::Entry& entry = object.entries.front();
    out[taken] = entry.completion;
    const auto owner = fabric.queue_pairs.find(entry.completion.qp_num);
    if (owner != fabric.queue_pairs.end() && entry.frees > owner->second->freed) {
      owner->second->freed = entry.frees;
    }
    object.entries.pop_front();
  }
  if (taken == 0 && object.overrun) return Minus(EIO);
  return taken;
}

int ArmQueue(ibv_cq* queue, int solicited_only) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  FAKE_FAIL_IF_ARMED("ibv_req_notify_cq");
  auto& object = *static_cast<CompletionObject*>(queue);
  if (object.channel == nullptr) return EINVAL;
  if (solicited_only == 0) object.armed = CompletionObject::Armed::kAny;
  if (object.armed == CompletionObject::Armed::kNo) {
    object.armed = CompletionObject::Armed::kSolicited;
  }
  return 0;
}

int PostSend(ibv_qp* queue_pair, ibv_send_wr* chain, ibv_send_wr** bad) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  auto& object = *static_cast<QueuePairObject*>(queue_pair);
  ++fabric.counters.doorbells;
  int error = 0;
  for (; chain != nullptr; chain = chain->next) {
    error = fabric.Accept(object, *chain);
    if (error == 0) continue;
    *bad = chain;
    break;
  }
  fabric.Deliver(object);
  return error;
}

// Receives go to `queue` while it has less than `limit`.
int PostReceives(const char* function, std::deque<Receive>& queue, uint32_t limit, uint32_t pieces,
                 ibv_recv_wr* chain, ibv_recv_wr** bad) {
  Fabric& fabric = Fabric::Get();
  ++fabric.counters.receive_doorbells;
  for (; chain != nullptr; chain = chain->next) {
    int error = fabric.TakeFailure(function);
    if (error == 0 && queue.size() >= limit) error = ENOMEM;
    if (error == 0 && (chain->num_sge < 0 || static_cast<uint32_t>(chain->num_sge) > pieces)) {
      error = EINVAL;
    }
    if (error != 0) {
      *bad = chain;
      return error;
    }
    ++fabric.counters.receives;
    queue.push_back({chain->wr_id, {chain->sg_list, chain->sg_list + chain->num_sge}});
  }
  return 0;
}

int PostReceive(ibv_qp* queue_pair, ibv_recv_wr* chain, ibv_recv_wr** bad) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  auto& object = *static_cast<QueuePairObject*>(queue_pair);
  if (object.srq != nullptr || object.state == IBV_QPS_RESET) {
    *bad = chain;
    return EINVAL;
  }
  const ibv_qp_cap& cap = object.initial.cap;
  const int error =
      PostReceives("ibv_post_recv", object.receives, cap.max_recv_wr, cap.max_recv_sge, chain, bad);
  if (object.state == IBV_QPS_ERR) {
    fabric.FlushReceives(object);
  } else {
    fabric.DeliverTo(object);
  }
  return error;
}

int PostSharedReceive(ibv_srq* queue, ibv_recv_wr* chain, ibv_recv_wr** bad) {
  Fabric& fabric = Fabric::Get();
  const Lock lock(fabric.mutex);
  auto& object = *static_cast<SharedReceiveObject*>(queue);
  const int error = PostReceives("ibv_post_srq_recv", object.receives, object.max_requests,
                                 object.max_pieces, chain, bad);
  fabric.DeliverTo(object);
  return error;
}

}  // namespace

Context::Context(DeviceObject* which) : ibv_context{} {
  device = which;
  ops.poll_cq = PollQueue;
  ops.req_notify_cq = ArmQueue;
  ops.post_send = PostSend;
  ops.post_recv = PostReceive;
  ops.post_srq_recv = PostSharedReceive;
  cmd_fd = -1;
  async_fd = EventFd();
  num_comp_vectors = 1;
}

Context::~Context() { close(async_fd); }

}  // namespace gradwire::test
