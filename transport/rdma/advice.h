// Errors of verbs as statuses that say what to do.
#pragma once

#include <infiniband/verbs.h>

#include <cstdint>
#include <string_view>

#include "transport/rdma/verbs.h"
#include "transport/status.h"

namespace gradwire::rdma {

// The kind of call that failed: the same errno value calls for other advice after each.
enum class Verb : uint8_t {
  kOpenDevice,
  kQuery,
  kCreate,    // protection domain, channel, completion queue, shared receive queue, queue pair
  kRegister,  // memory
  kToInit,    // ibv_modify_qp
  kToReady,   // ibv_modify_qp to RTR, where the device looks at the peer's address
  kModify,    // any other state
  kPost,      // sends or receives
  kPoll,      // completions or events
};

// A status for `error` (an errno value) of a `verb` that was to do `what`: "register 4096 bytes",
// "post to rank 3". The code follows the errno value.
absl::Status VerbsError(int error, Verb verb, std::string_view what);

// A status for a completion that is not IBV_WC_SUCCESS; OK for that one. `who` names the work and
// the peer: "write to rank 3". Unavailable where the peer or the way to it failed.
absl::Status CompletionError(ibv_wc_status status, std::string_view who, uint32_t vendor_error = 0);

// Not OK when `event` ends a queue, a port or the device; OK for events that need no action.
absl::Status AsyncEventStatus(const AsyncEvent& event, std::string_view device);

}  // namespace gradwire::rdma
