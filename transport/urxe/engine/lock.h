// The engine's lock. The progress thread takes it again and again while packets come; a plain mutex
// would let it starve callers, so they are counted and it stands aside for them.
#pragma once

#include <atomic>
#include <mutex>

namespace urxe {

class Lock {
 public:
  void lock() {
    if (mutex_.try_lock()) return;
    waiting_.fetch_add(1, std::memory_order_relaxed);
    mutex_.lock();
    waiting_.fetch_sub(1, std::memory_order_relaxed);
  }
  bool try_lock() { return mutex_.try_lock(); }
  void unlock() { mutex_.unlock(); }
  // Somebody waits for it.
  bool contended() const { return waiting_.load(std::memory_order_relaxed) != 0; }

 private:
  std::mutex mutex_;
  std::atomic<int> waiting_{0};
};

}  // namespace urxe
