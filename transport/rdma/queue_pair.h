// Queue pairs, and the queues of receives that they may share. Made by ProtectionDomain.
//
// The calls of the data path return what libibverbs returns, so that they format no text.
#pragma once

#include <infiniband/verbs.h>

#include <cstdint>
#include <string_view>

#include "transport/rdma/completion_queue.h"
#include "transport/rdma/verbs_handle.h"
#include "transport/status.h"

namespace gradwire::rdma {

// Receives that many queue pairs draw from.
class SharedReceiveQueue {
 public:
  // Receives the queue can hold; at least what was asked for.
  int depth() const { return depth_; }
  // As QueuePair::PostReceives.
  int PostReceives(ibv_recv_wr* chain, ibv_recv_wr** bad) {
    return ibv_post_srq_recv(handle_.get(), chain, bad);
  }
  ibv_srq* get() const { return handle_.get(); }

 private:
  friend class ProtectionDomain;
  SharedReceiveQueue(ibv_srq* queue, int depth) : handle_(queue), depth_(depth) {}
  VerbsHandle<ibv_srq> handle_;
  int depth_ = 0;
};

struct QueuePairOptions {
  CompletionQueue* completion_queue = nullptr;  // of both directions
  SharedReceiveQueue* shared_receive_queue = nullptr;
  int send_depth = 0;     // work requests
  int receive_depth = 0;  // receives; ignored with a shared queue
  int send_pieces = 1;    // scatter/gather entries per work request
  int inline_bytes = 0;   // wanted; see QueuePair::inline_bytes()
};

// A reliable connection. A work request asks for its completion by IBV_SEND_SIGNALED; a failed one
// completes all the same.
class QueuePair {
 public:
  uint32_t number() const { return handle_->qp_num; }  // 24 bits
  // What was granted, at least what was asked for but for inline_bytes(), which is no more than the
  // device has: posting more than this inline fails.
  int send_depth() const { return static_cast<int>(granted_.max_send_wr); }
  int receive_depth() const { return static_cast<int>(granted_.max_recv_wr); }
  int inline_bytes() const { return static_cast<int>(granted_.max_inline_data); }

  // Rings one doorbell for the whole chain. Returns 0 or an errno value; then `*bad` is the first
  // request that was not posted, and all before it were.
  int PostSend(ibv_send_wr* chain, ibv_send_wr** bad) {
    return ibv_post_send(handle_.get(), chain, bad);
  }
  // The same for receives; not with a shared receive queue. Allowed from INIT on.
  int PostReceives(ibv_recv_wr* chain, ibv_recv_wr** bad) {
    return ibv_post_recv(handle_.get(), chain, bad);
  }
  // ibv_modify_qp(3); `what` is for the message: "to RTR for rank 3".
  absl::Status Modify(ibv_qp_attr& attributes, int mask, std::string_view what);
  // As the device has it now.
  absl::StatusOr<ibv_qp_state> QueryState() const;
  ibv_qp* get() const { return handle_.get(); }

 private:
  friend class ProtectionDomain;
  QueuePair(ibv_qp* queue_pair, const ibv_qp_cap& granted)
      : handle_(queue_pair), granted_(granted) {}
  VerbsHandle<ibv_qp> handle_;
  ibv_qp_cap granted_ = {};
};

}  // namespace gradwire::rdma
