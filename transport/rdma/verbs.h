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
#include <string>
#include <string_view>
#include <utility>

#include "transport/memory.h"
#include "transport/rdma/completion_queue.h"
#include "transport/rdma/queue_pair.h"
#include "transport/rdma/verbs_handle.h"
#include "transport/status.h"

namespace gradwire::rdma {

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
