// Makes a thread that waits return early, from any other thread.
#pragma once

#include <atomic>

#include "transport/status.h"

namespace gradwire {

class Waker {
 public:
  Waker() = default;
  Waker(const Waker&) = delete;
  Waker& operator=(const Waker&) = delete;
  ~Waker();

  // Once, before anything else.
  absl::Status Open();
  // Any thread.
  void Wake();

  // --- The waiting thread ---
  // Whether Wake() was called since this was last true. No system call unless it was.
  bool Take();
  // Readable from Wake() to Take(); never read from.
  int fd() const { return fd_; }

 private:
  int fd_ = -1;
  std::atomic<bool> woken_ = false;
};

}  // namespace gradwire
