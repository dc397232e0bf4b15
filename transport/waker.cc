#include "transport/waker.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>

namespace gradwire {

Waker::~Waker() {
  if (fd_ >= 0) close(fd_);
}

absl::Status Waker::Open() {
  fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  return fd_ >= 0 ? absl::OkStatus() : ErrnoError(errno, "eventfd");
}

// The descriptor first: who sees the flag finds something to read, so that nothing stays readable
// behind a flag that was taken.
void Waker::Wake() {
  eventfd_write(fd_, 1);
  woken_.store(true, std::memory_order_release);
}

bool Waker::Take() {
  if (!woken_.load(std::memory_order_relaxed)) return false;
  if (!woken_.exchange(false, std::memory_order_acquire)) return false;
  eventfd_t count = 0;
  eventfd_read(fd_, &count);
  return true;
}

}  // namespace gradwire
