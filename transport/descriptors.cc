#include "transport/descriptors.h"

#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>

namespace gradwire {

FileDescriptor::~FileDescriptor() {
  if (fd_ >= 0) close(fd_);
}

namespace {

// Left to the rest of the process, which opens some now and then.
constexpr rlim_t kSpare = 32;

}  // namespace

absl::Status EnsureDescriptors(int count, std::string_view what) {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return ErrnoError(errno, "RLIMIT_NOFILE");
  // The system hands out the lowest free number: all below it are open.
  const int lowest = eventfd(0, EFD_CLOEXEC);
  if (lowest < 0 && errno != EMFILE) return ErrnoError(errno, "{}", what);
  const rlim_t open = lowest < 0 ? limit.rlim_cur : static_cast<rlim_t>(lowest);
  if (lowest >= 0) close(lowest);
  const rlim_t needed = open + static_cast<rlim_t>(count) + kSpare;
  if (needed <= limit.rlim_cur) return absl::OkStatus();
  if (needed <= limit.rlim_max) {
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) == 0) return absl::OkStatus();
  }
  return MakeError(absl::StatusCode::kResourceExhausted,
                   "{}: {} file descriptors are needed, the process may open {}; raise the hard "
                   "limit (ulimit -Hn, LimitNOFILE= of a service, nofile in limits.conf)",
                   what, needed, limit.rlim_max);
}

}  // namespace gradwire
