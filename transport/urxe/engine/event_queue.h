// Events that a program waits for on a file descriptor: completion events and asynchronous events.
#pragma once

#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <deque>
#include <mutex>

namespace urxe {

// The descriptor counts what waits (EFD_SEMAPHORE), so that poll(), a blocking Take and O_NONBLOCK
// work as they do on a verbs device file. Its lock is the last that is taken.
template <typename Event>
class EventQueue {
 public:
  EventQueue() = default;
  ~EventQueue() {
    if (fd_ >= 0) close(fd_);
  }
  EventQueue(const EventQueue&) = delete;
  EventQueue& operator=(const EventQueue&) = delete;

  // The descriptor; -1 and errno.
  int Open() { return fd_ = eventfd(0, EFD_SEMAPHORE | EFD_CLOEXEC); }

  int fd() const { return fd_; }

  void Push(const Event& event) {
    const std::lock_guard guard(lock_);
    events_.push_back(event);
    eventfd_write(fd_, 1);
  }

  // Waits for an event as read() would: until a signal (EINTR); not at all with O_NONBLOCK
  // (EAGAIN). `taken` is called with the event under the lock. 0 or errno.
  template <typename Taken>
  int Take(const Taken& taken) {
    while (true) {
      eventfd_t count = 0;
      if (read(fd_, &count, sizeof(count)) < 0) return errno;
      const std::lock_guard guard(lock_);
      if (events_.empty()) continue;  // removed meanwhile, and Remove found its count taken
      taken(events_.front());
      events_.pop_front();
      return 0;
    }
  }

  // Removes the events that match and returns `count` as it is then: what Take has handed out.
  template <typename Matches>
  uint32_t Remove(const Matches& matches, const uint32_t& count) {
    const std::lock_guard guard(lock_);
    for (auto removed = std::erase_if(events_, matches); removed > 0; --removed) {
      // Never blocks: a reader may have been faster. On kernels before 5.8, which cannot be asked
      // not to, the descriptor stays readable and Take waits on.
      eventfd_t one = 0;
      iovec into = {&one, sizeof(one)};
      if (preadv2(fd_, &into, 1, -1, RWF_NOWAIT) < 0) break;
    }
    return count;
  }

 private:
  int fd_ = -1;
  std::mutex lock_;
  std::deque<Event> events_;
};

}  // namespace urxe
