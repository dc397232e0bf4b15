// Errors as values. Every public call of Gradwire returns absl::Status or absl::StatusOr; a message
// says who and what, and ends with a hint that a user can act on where there is one.
#pragma once

#include <fmt/core.h>

#include <cerrno>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace gradwire {

// Makes a status of `code` with a message in fmt's grammar.
template <typename... Args>
absl::Status MakeError(absl::StatusCode code, fmt::format_string<Args...> format, Args&&... args) {
  return absl::Status(code, fmt::format(format, std::forward<Args>(args)...));
}

// The caller's own mistake: a bad argument or setting. Programs exit with 2.
template <typename... Args>
absl::Status InvalidArgument(fmt::format_string<Args...> format, Args&&... args) {
  return MakeError(absl::StatusCode::kInvalidArgument, format, std::forward<Args>(args)...);
}

// A call that cannot work in the present state, such as a mismatch between ranks.
template <typename... Args>
absl::Status FailedPrecondition(fmt::format_string<Args...> format, Args&&... args) {
  return MakeError(absl::StatusCode::kFailedPrecondition, format, std::forward<Args>(args)...);
}

// A peer or a service is gone.
template <typename... Args>
absl::Status Unavailable(fmt::format_string<Args...> format, Args&&... args) {
  return MakeError(absl::StatusCode::kUnavailable, format, std::forward<Args>(args)...);
}

// A deadline passed.
template <typename... Args>
absl::Status DeadlineExceeded(fmt::format_string<Args...> format, Args&&... args) {
  return MakeError(absl::StatusCode::kDeadlineExceeded, format, std::forward<Args>(args)...);
}

// Something arrived that the protocol does not allow.
template <typename... Args>
absl::Status ProtocolError(fmt::format_string<Args...> format, Args&&... args) {
  return MakeError(absl::StatusCode::kDataLoss, format, std::forward<Args>(args)...);
}

// A defect of ours or of the system below us.
template <typename... Args>
absl::Status InternalError(fmt::format_string<Args...> format, Args&&... args) {
  return MakeError(absl::StatusCode::kInternal, format, std::forward<Args>(args)...);
}

// The message with `error` (an errno value) spelled out.
template <typename... Args>
absl::Status ErrnoError(int error, fmt::format_string<Args...> format, Args&&... args) {
  return absl::Status(absl::ErrnoToStatusCode(error),
                      fmt::format(format, std::forward<Args>(args)...) + ": " +
                          std::generic_category().message(error));
}

// The same status with "context: " in front of its message.
inline absl::Status Annotate(const absl::Status& status, std::string_view context) {
  if (status.ok()) return status;
  return absl::Status(status.code(), fmt::format("{}: {}", context, std::string(status.message())));
}

// The message as std::string: absl's own string_view is not std's on every distribution.
inline std::string Message(const absl::Status& status) { return std::string(status.message()); }

}  // namespace gradwire

// Returns from the calling function when `expr` is not OK.
#define GW_RETURN_IF_ERROR(expr)                              \
  do {                                                        \
    if (absl::Status gw_status_ = (expr); !gw_status_.ok()) { \
      return gw_status_;                                      \
    }                                                         \
  } while (false)

#define GW_CONCAT_INNER(a, b) a##b
#define GW_CONCAT(a, b) GW_CONCAT_INNER(a, b)
// Declares or assigns `lhs` from a StatusOr, or returns its error.
#define GW_ASSIGN_OR_RETURN(lhs, expr) \
  GW_ASSIGN_OR_RETURN_IMPL(GW_CONCAT(gw_result_, __LINE__), lhs, expr)
#define GW_ASSIGN_OR_RETURN_IMPL(result, lhs, expr) \
  auto result = (expr);                             \
  if (!result.ok()) return result.status();         \
  lhs = *std::move(result)
