// A world whose ranks are threads of one process: the control plane without gRPC, for tests of
// transports and collectives.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "transport/bootstrap/world.h"

namespace gradwire::test {

// What the ranks share.
class LocalJob {
 public:
  LocalJob(int size, bool oversubscribed);
  ~LocalJob();

  int size() const { return size_; }
  std::unique_ptr<World> Join(int rank);
  // What `rank` told the others under `name`; empty facts before it did.
  ConnectionFacts FactsOf(const std::string& name, int rank);
  // Declares the job failed; every rank sees it.
  void Fail(absl::Status reason);

  // Runs `body` as each rank on its own thread and joins them.
  static void Run(int size, const std::function<void(World&)>& body, bool oversubscribed = false);

 private:
  friend class LocalWorld;
  const int size_;
  const bool oversubscribed_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, std::map<int, std::string>> values_;  // by exchange name, then rank
  std::map<std::string, std::map<int, ConnectionFacts>> facts_;
  absl::Status failure_;
  std::map<int, OperationReport> reports_;
  bool diagnosing_ = false;
  std::chrono::steady_clock::time_point diagnosis_ends_;
  int failure_fd_ = -1;
};

}  // namespace gradwire::test
