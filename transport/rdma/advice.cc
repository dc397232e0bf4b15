#include "transport/rdma/advice.h"

#include <sys/resource.h>

#include <cerrno>
#include <string>

namespace gradwire::rdma {
namespace {

std::string MemlockAdvice() {
  rlimit limit = {};
  std::string present = "unknown";
  if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0) {
    present =
        limit.rlim_cur == RLIM_INFINITY ? "unlimited" : fmt::format("{} KiB", limit.rlim_cur >> 10);
  }
  if (present == "unlimited") return "the memlock limit is unlimited, so memory itself is short";
  return fmt::format(
      "registered memory counts against the memlock limit, now {}: run `ulimit -l unlimited`, or "
      "raise memlock in /etc/security/limits.conf or LimitMEMLOCK= of the service",
      present);
}

// What to do about `error` after `verb`; empty when nothing can be said.
std::string Advice(int error, Verb verb) {
  switch (error) {
    case ENOMEM:
      if (verb == Verb::kRegister) return MemlockAdvice();
      if (verb == Verb::kPost) {
        return "the queue is full: raise --queue-depth or lower --signal-interval";
      }
      if (verb == Verb::kCreate) {
        return "queues are pinned memory too, or the device has no more of them: use a smaller "
               "--queue-depth or fewer --lanes; " +
               MemlockAdvice();
      }
      return "memory is short";
    case ENOSYS:
    case ENODEV:
    case ENXIO:
      if (verb == Verb::kOpenDevice) {
        return "this kernel offers no RDMA here; `gradwire doctor` says what is missing";
      }
      return "the device is gone or cannot do this; `gradwire doctor` tells its state";
    case EACCES:
    case EPERM:
      if (verb == Verb::kRegister) {
        return "the memory cannot be written, or pinning it is forbidden: " + MemlockAdvice();
      }
      return "no permission for /dev/infiniband: make its files readable and writable, in a "
             "container pass --device=/dev/infiniband, and --cap-add=IPC_LOCK for memory";
    case EINVAL:
      if (verb == Verb::kToReady) {
        return "the device refused the peer's address: is --gid-index the same kind of GID (RoCE "
               "v2, IPv4 or IPv6) on all ranks, and --path-mtu no more than the port's?";
      }
      if (verb == Verb::kToInit) return "is the port one of the device's, and up?";
      if (verb == Verb::kModify) {
        return "check --ib-timeout, --ib-retries and --rnr-retries against the device's ranges";
      }
      if (verb == Verb::kCreate) return "a size is beyond what the device allows";
      if (verb == Verb::kRegister) return "the range is not mapped, or the rights do not fit it";
      if (verb == Verb::kPost) return "the request or the state of its queue pair is not valid";
      return "";
    case EIO:
      return verb == Verb::kPoll
                 ? "its completion queue overran or the device failed; see the kernel's log (dmesg)"
                 : "see the kernel's log (dmesg)";
    case EFAULT:
      return verb == Verb::kRegister ? "the range is not mapped in this process" : "";
    case ETIMEDOUT:
    case EHOSTUNREACH:
    case ENETUNREACH:
      return "the peer's address was not resolved: can this host ping it over the interface of "
             "this port, and is --gid-index of the right network?";
    case EAGAIN:
      return "the device has no room at present: fewer queue pairs (--lanes) or smaller ones "
             "(--queue-depth) need less";
    case EBUSY:
      return "something made from it still exists";
    case EMFILE:
    case ENFILE:
      return "too many open files: raise `ulimit -n`";
    default:
      return "";
  }
}

struct CompletionAdvice {
  absl::StatusCode code;
  const char* advice;
};

CompletionAdvice AdviceFor(ibv_wc_status status) {
  using enum absl::StatusCode;
  switch (status) {
    case IBV_WC_LOC_LEN_ERR:
      return {kInternal, "a message is longer than its receive or than the port allows"};
    case IBV_WC_LOC_QP_OP_ERR:
      return {kInternal, "the device could not do the request as it was posted"};
    case IBV_WC_LOC_PROT_ERR:
      return {kInternal,
              "a local buffer is not registered or lies outside its region; was the region ended "
              "before its writes were done?"};
    case IBV_WC_WR_FLUSH_ERR:
      return {kUnavailable,
              "a consequence: the queue pair had failed before; the first error says why"};
    case IBV_WC_MW_BIND_ERR:
      return {kInternal, "a memory window was bound against its region's rights"};
    case IBV_WC_BAD_RESP_ERR:
      return {kDataLoss, "the peer's device answered what the protocol does not allow"};
    case IBV_WC_LOC_ACCESS_ERR:
      return {kInternal, "the peer's write reached memory it has no right to"};
    case IBV_WC_REM_INV_REQ_ERR:
      return {kInternal,
              "the peer's device rejected the request: its queue pair forbids it, or a message is "
              "longer than its receive"};
    case IBV_WC_REM_ACCESS_ERR:
      return {kPermissionDenied,
              "the key or the bounds are not what the peer granted, or it has ended that region"};
    case IBV_WC_REM_OP_ERR:
      return {kInternal, "the peer's device could not finish the request; look at its log"};
    case IBV_WC_RETRY_EXC_ERR:
      return {kUnavailable,
              "no answer: the peer is gone, its GID is of a network that this port does not reach "
              "(--gid-index), or --ib-timeout or --ib-retries are too low for this network"};
    case IBV_WC_RNR_RETRY_EXC_ERR:
      return {kUnavailable,
              "the peer had no receive posted for too long: it is stopped or overrun; "
              "--rnr-retries 7 waits without end"};
    case IBV_WC_REM_ABORT_ERR:
      return {kUnavailable, "the peer's device aborted the request"};
    case IBV_WC_FATAL_ERR:
      return {kUnavailable, "the device failed; see the kernel's log (dmesg)"};
    case IBV_WC_RESP_TIMEOUT_ERR:
      return {kUnavailable, "the peer's device did not answer in time"};
    default:
      return {kInternal, "see the kernel's log (dmesg)"};
  }
}

}  // namespace

absl::Status VerbsError(int error, Verb verb, std::string_view what) {
  const std::string advice = Advice(error, verb);
  // A bad post is our defect, whatever errno's code would tell the user about arguments.
  const absl::StatusCode code = verb == Verb::kPost && error == EINVAL
                                    ? absl::StatusCode::kInternal
                                    : absl::ErrnoToStatusCode(error);
  return MakeError(code, "cannot {}: {}{}{}", what, std::generic_category().message(error),
                   advice.empty() ? "" : "; ", advice);
}

absl::Status CompletionError(ibv_wc_status status, std::string_view who, uint32_t vendor_error) {
  if (status == IBV_WC_SUCCESS) return absl::OkStatus();
  const CompletionAdvice advice = AdviceFor(status);
  const std::string vendor =
      vendor_error == 0 ? std::string() : fmt::format(" (vendor error 0x{:x})", vendor_error);
  return MakeError(advice.code, "{}: {}{}; {}", who, ibv_wc_status_str(status), vendor,
                   advice.advice);
}

absl::Status AsyncEventStatus(const AsyncEvent& event, std::string_view device) {
  const auto error = [&](std::string_view subject, std::string_view advice) {
    return Unavailable("{}{}: {}; {}", device, subject, ibv_event_type_str(event.type), advice);
  };
  const std::string queue_pair = fmt::format(" queue pair {}", event.qp_number);
  switch (event.type) {
    case IBV_EVENT_QP_FATAL:
      return error(queue_pair, "the queue pair has failed; see the kernel's log (dmesg)");
    case IBV_EVENT_QP_REQ_ERR:
      return error(queue_pair, "the peer sent a request that its queue pair may not send");
    case IBV_EVENT_QP_ACCESS_ERR:
      return error(queue_pair, "the peer used a key or bounds that it was not granted");
    case IBV_EVENT_CQ_ERR:
      return error("", "a completion queue overran and its queue pairs have ended");
    case IBV_EVENT_SRQ_ERR:
      return error("", "a shared receive queue has failed; try --receive-queue own");
    case IBV_EVENT_PORT_ERR:
      return error(fmt::format(" port {}", event.port),
                   "the port went down: is its network interface up and its cable in?");
    case IBV_EVENT_DEVICE_FATAL:
      return error("", "the device has failed or was removed; see the kernel's log (dmesg)");
    default:
      return absl::OkStatus();
  }
}

}  // namespace gradwire::rdma
