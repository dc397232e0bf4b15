#include "transport/rdma/verbs.h"

#include <fcntl.h>

#include <cerrno>
#include <memory>
#include <mutex>
#include <span>

#include "transport/rdma/advice.h"

namespace gradwire::rdma {
namespace {

absl::Status SetNonBlocking(int fd, std::string_view what) {
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) {
    return ErrnoError(errno, "cannot make {} non-blocking", what);
  }
  return absl::OkStatus();
}

// A child that writes to a page shared with its parent would take the pinned page away from the
// device in kernels before 5.12, unless libibverbs keeps registered pages out of children. Newer
// kernels copy pinned pages at the fork and need nothing. It must precede the first registration.
absl::Status MakeForkSafe() {
  static std::once_flag once;
  static int error = 0;
  std::call_once(once, [] {
    if (ibv_is_fork_initialized() == IBV_FORK_DISABLED) error = ibv_fork_init();
  });
  if (error == 0) return absl::OkStatus();
  return ErrnoError(error, "ibv_fork_init: memory is already registered in this process");
}

// What the device allows, for messages about a queue that it refused.
std::string Limits(ibv_context* context) {
  ibv_device_attr attributes = {};
  if (ibv_query_device(context, &attributes) != 0) return "";
  return fmt::format(
      " (the device allows {} requests per queue pair, {} per shared receive queue, {} pieces "
      "each)",
      attributes.max_qp_wr, attributes.max_srq_wr, attributes.max_sge);
}

}  // namespace

absl::StatusOr<MemoryRegion> ProtectionDomain::Register(Bytes bytes, int access_flags) {
  if (bytes.empty()) return InvalidArgument("cannot register 0 bytes of memory");
  GW_RETURN_IF_ERROR(MakeForkSafe());
  ibv_mr* region = ibv_reg_mr(handle_.get(), bytes.data(), bytes.size(), access_flags);
  if (region == nullptr) {
    return VerbsError(errno, Verb::kRegister,
                      fmt::format("register {} bytes of memory", bytes.size()));
  }
  return MemoryRegion(region);
}

absl::StatusOr<SharedReceiveQueue> ProtectionDomain::CreateSharedReceiveQueue(int depth) {
  ibv_srq_init_attr attributes = {};
  attributes.attr.max_wr = static_cast<uint32_t>(depth);
  attributes.attr.max_sge = 1;
  ibv_srq* queue = ibv_create_srq(handle_.get(), &attributes);
  if (queue == nullptr) {
    const int error = errno;
    if (error == ENOSYS || error == EOPNOTSUPP) {
      return MakeError(absl::StatusCode::kUnimplemented,
                       "{} has no shared receive queues; use --receive-queue own",
                       ibv_get_device_name(handle_->context->device));
    }
    return VerbsError(error, Verb::kCreate,
                      fmt::format("create a shared receive queue for {} receives{}", depth,
                                  Limits(handle_->context)));
  }
  return SharedReceiveQueue(queue, static_cast<int>(attributes.attr.max_wr));
}

absl::StatusOr<QueuePair> ProtectionDomain::CreateQueuePair(const QueuePairOptions& options) {
  if (options.completion_queue == nullptr) {
    return InvalidArgument("cannot create a queue pair without a completion queue");
  }
  // No attribute tells how much a device inlines: ask for less until it agrees.
  for (int inline_bytes = options.inline_bytes;;) {
    ibv_qp_init_attr attributes = {};
    attributes.send_cq = options.completion_queue->get();
    attributes.recv_cq = options.completion_queue->get();
    attributes.qp_type = IBV_QPT_RC;
    attributes.sq_sig_all = 0;
    attributes.cap.max_send_wr = static_cast<uint32_t>(options.send_depth);
    attributes.cap.max_send_sge = static_cast<uint32_t>(options.send_pieces);
    attributes.cap.max_inline_data = static_cast<uint32_t>(inline_bytes);
    if (options.shared_receive_queue != nullptr) {
      attributes.srq = options.shared_receive_queue->get();
    } else {
      attributes.cap.max_recv_wr = static_cast<uint32_t>(options.receive_depth);
      attributes.cap.max_recv_sge = 1;
    }
    if (ibv_qp* queue_pair = ibv_create_qp(handle_.get(), &attributes)) {
      return QueuePair(queue_pair, attributes.cap);
    }
    const int error = errno;
    if (error != EINVAL || inline_bytes == 0) {
      return VerbsError(
          error, Verb::kCreate,
          fmt::format("create a queue pair for {} sends and {} receives{}", options.send_depth,
                      options.receive_depth, Limits(handle_->context)));
    }
    inline_bytes /= 2;
  }
}

absl::StatusOr<Device> Device::Open(std::string_view name) {
  int count = 0;
  ibv_device** list = ibv_get_device_list(&count);
  if (list == nullptr) {
    return VerbsError(errno, Verb::kOpenDevice, fmt::format("look for RDMA device {}", name));
  }
  const std::unique_ptr<ibv_device*, void (*)(ibv_device**)> owner(list, ibv_free_device_list);
  std::string present;
  for (ibv_device* device : std::span(list, static_cast<size_t>(count))) {
    if (ibv_get_device_name(device) != name) {
      present += fmt::format(" {}", ibv_get_device_name(device));
      continue;
    }
    Device result(VerbsHandle<ibv_context>(ibv_open_device(device)));
    if (!result.handle_) {
      return VerbsError(errno, Verb::kOpenDevice, fmt::format("open RDMA device {}", name));
    }
    if (const int error = ibv_query_device(result.get(), &result.attributes_); error != 0) {
      return VerbsError(error, Verb::kQuery, fmt::format("query RDMA device {}", name));
    }
    GW_RETURN_IF_ERROR(SetNonBlocking(result.async_fd(), "the device's events"));
    return result;
  }
  return MakeError(absl::StatusCode::kNotFound, "no RDMA device '{}'; there are:{}", name,
                   present.empty() ? " none" : present);
}

absl::StatusOr<ibv_port_attr> Device::QueryPort(int port) const {
  ibv_port_attr attributes = {};
  const int error = ibv_query_port(handle_.get(), static_cast<uint8_t>(port), &attributes);
  if (error != 0) {
    return VerbsError(error, Verb::kQuery, fmt::format("query {} port {}", name(), port));
  }
  return attributes;
}

absl::StatusOr<ProtectionDomain> Device::AllocateProtectionDomain() {
  ibv_pd* domain = ibv_alloc_pd(handle_.get());
  if (domain == nullptr) {
    return VerbsError(errno, Verb::kCreate,
                      fmt::format("allocate a protection domain on {}", name()));
  }
  return ProtectionDomain(domain);
}

absl::StatusOr<CompletionQueue> Device::CreateCompletionQueue(int entries, bool with_channel) {
  if (entries < 1 || entries > attributes_.max_cqe) {
    return InvalidArgument(
        "{} has no completion queue of {} entries, but of 1 to {}; use a smaller "
        "--queue-depth, fewer --lanes or fewer --slots",
        name(), entries, attributes_.max_cqe);
  }
  VerbsHandle<ibv_comp_channel> channel;
  if (with_channel) {
    channel.reset(ibv_create_comp_channel(handle_.get()));
    if (!channel) {
      return VerbsError(errno, Verb::kCreate,
                        fmt::format("create a completion channel on {}", name()));
    }
    GW_RETURN_IF_ERROR(SetNonBlocking(channel->fd, "a completion channel"));
  }
  ibv_cq* queue = ibv_create_cq(handle_.get(), entries, nullptr, channel.get(), 0);
  if (queue == nullptr) {
    return VerbsError(
        errno, Verb::kCreate,
        fmt::format("create a completion queue of {} entries on {}", entries, name()));
  }
  return CompletionQueue(std::move(channel), queue);
}

absl::StatusOr<std::optional<AsyncEvent>> Device::NextAsyncEvent() {
  ibv_async_event event = {};
  while (ibv_get_async_event(handle_.get(), &event) != 0) {
    if (errno == EINTR) continue;
    if (errno == EAGAIN || errno == EWOULDBLOCK) return std::optional<AsyncEvent>();
    return VerbsError(errno, Verb::kPoll, fmt::format("take an event of {}", name()));
  }
  AsyncEvent result{event.event_type, 0, 0};
  switch (event.event_type) {
    case IBV_EVENT_QP_FATAL:
    case IBV_EVENT_QP_REQ_ERR:
    case IBV_EVENT_QP_ACCESS_ERR:
    case IBV_EVENT_COMM_EST:
    case IBV_EVENT_SQ_DRAINED:
    case IBV_EVENT_PATH_MIG:
    case IBV_EVENT_PATH_MIG_ERR:
    case IBV_EVENT_QP_LAST_WQE_REACHED:
      result.qp_number = event.element.qp->qp_num;
      break;
    case IBV_EVENT_PORT_ACTIVE:
    case IBV_EVENT_PORT_ERR:
    case IBV_EVENT_LID_CHANGE:
    case IBV_EVENT_PKEY_CHANGE:
    case IBV_EVENT_SM_CHANGE:
    case IBV_EVENT_CLIENT_REREGISTER:
    case IBV_EVENT_GID_CHANGE:
      result.port = event.element.port_num;
      break;
    default:
      break;
  }
  // An unacknowledged event would block the destruction of what it is about.
  ibv_ack_async_event(&event);
  return std::optional<AsyncEvent>(result);
}

}  // namespace gradwire::rdma
