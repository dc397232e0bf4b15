// A few threads that run jobs in the order in which they were handed over.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace gradwire::ps::internal {

class WorkPool {
 public:
  explicit WorkPool(int threads) {
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { Run(); });
  }
  ~WorkPool() { Finish(); }

  // After Finish() the job runs at once, on the caller's thread.
  void Submit(std::function<void()> job) {
    {
      const std::lock_guard lock(mutex_);
      if (!finishing_) {
        jobs_.push_back(std::move(job));
        more_.notify_one();
        return;
      }
    }
    job();
  }

  // Runs what was handed over, then ends the threads.
  void Finish() {
    {
      const std::lock_guard lock(mutex_);
      finishing_ = true;
      more_.notify_all();
    }
    for (std::thread& thread : threads_) {
      if (thread.joinable()) thread.join();
    }
  }

 private:
  void Run() {
    std::unique_lock lock(mutex_);
    while (true) {
      more_.wait(lock, [this] { return finishing_ || !jobs_.empty(); });
      if (jobs_.empty()) return;
      const std::function<void()> job = std::move(jobs_.front());
      jobs_.pop_front();
      lock.unlock();
      job();
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable more_;
  std::deque<std::function<void()>> jobs_;
  bool finishing_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace gradwire::ps::internal
