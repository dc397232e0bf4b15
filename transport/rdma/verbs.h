// One move-only class per verbs object, made by its parent and destroyed before it. Control calls
// return statuses with advice; the calls of the data path return what libibverbs returns, so that
// they format no text. A destroy that fails is logged, never thrown.
//
//   Device -> ProtectionDomain -> MemoryRegion, SharedReceiveQueue, QueuePair
//          -> CompletionQueue
//
// Threads. libibverbs lets any thread call any object; what is written here as belonging to one
// thread counts without locks.
#pragma once

#include <infiniband/verbs.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "transport/memory.h"
#include "transport/status.h"

namespace gradwire::rdma {

// Destroys any verbs object.
struct VerbsDeleter {
  void operator()(ibv_context* context) const;
  void operator()(ibv_pd* domain) const;
  void operator()(ibv_mr* region) const;
  void operator()(ibv_comp_channel* channel) const;
  void operator()(ibv_cq* queue) const;
  void operator()(ibv_srq* queue) const;
  void operator()(ibv_qp* queue_pair) const;
};
template <typename T>
using VerbsHandle = std::unique_ptr<T, VerbsDeleter>;

// What a device reports outside any completion queue.
struct AsyncEvent {
  ibv_event_type type = IBV_EVENT_CQ_ERR;
  int port = 0;            // port events: from 1, else 0
  uint32_t qp_number = 0;  // queue pair events, else 0
};

class MemoryRegion {
 public:
  uint32_t local_key() const { return handle_->lkey; }
  uint32_t remote_key() const { return handle_->rkey; }
  Bytes bytes() const { return {static_cast<std::byte*>(handle_->addr), handle_->length}; }
  const ibv_mr* get() const { return handle_.get(); }

 private:
  friend class ProtectionDomain;
  explicit MemoryRegion(ibv_mr* region) : handle_(region) {}
  VerbsHandle<ibv_mr> handle_;
};

// Completions of any number of queue pairs, with a channel when its owner wants to block.
// Poll, Arm, TakeEvents and Resize belong to one thread at a time.
class CompletionQueue {
 public:
  CompletionQueue(CompletionQueue&& other) noexcept { Swap(other); }
  CompletionQueue& operator=(CompletionQueue&& other) noexcept;
  ~CompletionQueue();

  // Completions the queue can hold; at least what was asked for. More than that overrun it, which
  // ends every queue pair that uses it.
  int entries() const { return handle_->cqe; }
  // Takes up to out.size() completions; returns how many. Look at each one's status first.
  absl::StatusOr<int> Poll(std::span<ibv_wc> out);
  // Asks for one event on the channel at the next completion. A completion that came before the
  // call raises none: poll once more after arming, before blocking.
  absl::Status Arm();
  // Readable when an event is there; -1 without a channel. Non-blocking.
  int fd() const { return channel_ ? channel_->fd : -1; }
  // Takes all events off the channel without blocking; returns how many. Their acknowledgement
  // takes a lock in libibverbs and is therefore given in batches.
  absl::StatusOr<int> TakeEvents();
  // Makes room for at least `entries`.
  absl::Status Resize(int entries);
  ibv_cq* get() const { return handle_.get(); }

 private:
  friend class Device;
  CompletionQueue(VerbsHandle<ibv_comp_channel> channel, ibv_cq* queue)
      : channel_(std::move(channel)), handle_(queue) {}
  void Swap(CompletionQueue& other) noexcept;
  void Acknowledge();

  // The channel outlives the queue, and the queue waits for all its events to be acknowledged.
  VerbsHandle<ibv_comp_channel> channel_;
  VerbsHandle<ibv_cq> handle_;
  unsigned int unacknowledged_ = 0;
};

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

class ProtectionDomain {
 public:
  // `access_flags` are IBV_ACCESS_*; a remote right needs IBV_ACCESS_LOCAL_WRITE beside it. The
  // bytes are pinned and count against the memlock limit.
  absl::StatusOr<MemoryRegion> Register(Bytes bytes, int access_flags);
  absl::StatusOr<SharedReceiveQueue> CreateSharedReceiveQueue(int depth);
  absl::StatusOr<QueuePair> CreateQueuePair(const QueuePairOptions& options);
  ibv_pd* get() const { return handle_.get(); }

 private:
  friend class Device;
  explicit ProtectionDomain(ibv_pd* domain) : handle_(domain) {}
  VerbsHandle<ibv_pd> handle_;
};

class Device {
 public:
  // NotFound lists the devices that are there.
  static absl::StatusOr<Device> Open(std::string_view name);

  std::string name() const { return ibv_get_device_name(handle_->device); }
  const ibv_device_attr& attributes() const { return attributes_; }
  absl::StatusOr<ibv_port_attr> QueryPort(int port) const;

  absl::StatusOr<ProtectionDomain> AllocateProtectionDomain();
  absl::StatusOr<CompletionQueue> CreateCompletionQueue(int entries, bool with_channel);

  // Readable when an asynchronous event is there. Non-blocking.
  int async_fd() const { return handle_->async_fd; }
  // The next event, acknowledged at once; none when there is none.
  absl::StatusOr<std::optional<AsyncEvent>> NextAsyncEvent();
  ibv_context* get() const { return handle_.get(); }

 private:
  explicit Device(VerbsHandle<ibv_context> context) : handle_(std::move(context)) {}
  VerbsHandle<ibv_context> handle_;
  ibv_device_attr attributes_ = {};
};

}  // namespace gradwire::rdma
