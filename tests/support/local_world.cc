#include "tests/support/local_world.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <thread>

namespace gradwire::test {

class LocalWorld : public World {
 public:
  LocalWorld(LocalJob& job, int rank) : job_(job) {
    std::vector<PeerInfo> peers;
    for (int i = 0; i < job.size_; ++i) {
      PeerInfo peer;
      peer.rank = i;
      peer.host = "localhost";
      peer.host_id = "here";
      peer.pid = getpid();
      peer.cores = job.oversubscribed_ ? 1 : job.size_;
      peers.push_back(peer);
    }
    SetPeers(rank, std::move(peers));
    SetLocalAddress("127.0.0.1");
  }

  absl::StatusOr<std::vector<std::string>> AllGather(std::string_view name, std::string value,
                                                     const std::vector<int>& members,
                                                     std::chrono::milliseconds timeout) override {
    return Gather(job_.values_, name, std::move(value), members, timeout);
  }
  absl::StatusOr<std::vector<ConnectionFacts>> ExchangeFacts(
      std::string_view name, const ConnectionFacts& facts, const std::vector<int>& members,
      std::chrono::milliseconds timeout) override {
    return Gather(job_.facts_, name, facts, members, timeout);
  }
  absl::Status Barrier(std::string_view name, std::chrono::milliseconds timeout) override {
    return AllGather(name, "", {}, timeout).status();
  }

  absl::Status failure() const override {
    const std::lock_guard lock(job_.mutex_);
    return job_.failure_;
  }
  int failure_fd() const override { return job_.failure_fd_; }
  absl::Status ExplainLinkFailure(absl::Status suspicion,
                                  std::chrono::milliseconds grace) override {
    std::unique_lock lock(job_.mutex_);
    job_.changed_.wait_for(lock, grace / 10,
                           [&] { return !job_.failure_.ok() || job_.diagnosing_; });
    if (!job_.failure_.ok()) return job_.failure_;
    return job_.diagnosing_ ? absl::AbortedError("another rank asks what went wrong") : suspicion;
  }
  absl::StatusOr<Diagnosis> Diagnose(const OperationReport& mine, std::string_view) override {
    std::unique_lock lock(job_.mutex_);
    if (!job_.diagnosing_) {
      job_.diagnosing_ = true;
      job_.diagnosis_ends_ = std::chrono::steady_clock::now() + std::chrono::milliseconds(300);
      eventfd_write(job_.failure_fd_, 1);
    }
    job_.reports_[rank()] = mine;
    job_.changed_.notify_all();
    job_.changed_.wait_until(lock, job_.diagnosis_ends_,
                             [&] { return job_.reports_.size() == static_cast<size_t>(size()); });
    Diagnosis diagnosis;
    for (int i = 0; i < size(); ++i) {
      const auto report = job_.reports_.find(i);
      const bool answered = report != job_.reports_.end();
      diagnosis.rows.push_back(
          {i, answered, answered ? report->second : OperationReport{}, std::chrono::seconds(0)});
    }
    return diagnosis;
  }
  bool diagnosis_wanted() const override {
    const std::lock_guard lock(job_.mutex_);
    return job_.diagnosing_;
  }
  absl::Status Leave(std::string_view) override { return absl::OkStatus(); }

 private:
  template <typename Value>
  absl::StatusOr<std::vector<Value>> Gather(std::map<std::string, std::map<int, Value>>& exchanges,
                                            std::string_view name, Value value,
                                            std::vector<int> members,
                                            std::chrono::milliseconds timeout) {
    const bool inside = !members.empty();
    if (!inside) {
      for (int i = 0; i < size(); ++i) members.push_back(i);
    }
    std::unique_lock lock(job_.mutex_);
    auto& values = exchanges[std::string(name)];
    values[rank()] = std::move(value);
    job_.changed_.notify_all();
    const auto interrupted = [&] { return !job_.failure_.ok() || (inside && job_.diagnosing_); };
    const bool woken = job_.changed_.wait_for(
        lock, timeout, [&] { return values.size() >= members.size() || interrupted(); });
    if (values.size() < members.size() && interrupted()) {
      return job_.failure_.ok() ? absl::AbortedError("another rank asks what went wrong")
                                : job_.failure_;
    }
    if (!woken) {
      return DeadlineExceeded("exchange {}: {} of {} ranks", name, values.size(), members.size());
    }
    std::vector<Value> result;
    for (const int member : members) result.push_back(values[member]);
    return result;
  }

  LocalJob& job_;
};

LocalJob::LocalJob(int size, bool oversubscribed)
    : size_(size),
      oversubscribed_(oversubscribed),
      failure_fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

LocalJob::~LocalJob() { close(failure_fd_); }

std::unique_ptr<World> LocalJob::Join(int rank) {
  return std::make_unique<LocalWorld>(*this, rank);
}

ConnectionFacts LocalJob::FactsOf(const std::string& name, int rank) {
  const std::lock_guard lock(mutex_);
  return facts_[name][rank];
}

void LocalJob::Fail(absl::Status reason) {
  {
    const std::lock_guard lock(mutex_);
    if (failure_.ok()) failure_ = std::move(reason);
  }
  changed_.notify_all();
  eventfd_write(failure_fd_, 1);
}

void LocalJob::Run(int size, const std::function<void(World&)>& body, bool oversubscribed) {
  LocalJob job(size, oversubscribed);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&job, &body, rank] {
      const std::unique_ptr<World> world = job.Join(rank);
      body(*world);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace gradwire::test
