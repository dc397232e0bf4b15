// The job as one rank sees it: who is there, and the control plane that connects them. Made by
// JoinWorld() over gRPC; no data-path step waits on it.
//
// Failure. The first failure of the job latches: failure() returns it from then on, failure_fd()
// becomes readable, and every pending and later call of this class returns it. A failure names the
// rank that caused it, not the neighbour that noticed.
//
// Threads. All methods may be called from any thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "transport/bootstrap/launcher.h"
#include "transport/connection_facts.h"
#include "transport/settings.h"
#include "transport/status.h"

namespace gradwire {

// A rank as the others see it.
struct PeerInfo {
  int rank = -1;
  std::string host;     // host name
  std::string host_id;  // equal for ranks that share a kernel (boot id and network namespace)
  int64_t pid = 0;
  int cores = 0;     // processors this rank may run on
  std::string cpus;  // the same as a mask: bit c % 8 of byte c / 8 stands for processor c

  // "rank 2 (node7, pid 4711)".
  std::string Describe() const;
};

// How a clock (CLOCK_MONOTONIC, steady_clock) stands to that of the rendezvous.
struct ClockOffset {
  std::chrono::nanoseconds offset{0};  // to be added to ours to get the rendezvous'
  std::chrono::nanoseconds error{-1};  // the offset is right within this; -1: not known yet
};

// What a rank is doing, told to the others when a collective went wrong.
struct OperationReport {
  uint64_t number = 0;      // of the collective on this communicator, from 1
  std::string description;  // "all_reduce of 1000 float32, sum"
  std::string waiting_for;  // "rank 3", empty when not known
};
// The answer: each rank's report, or none from a rank that did not answer in time.
struct Diagnosis {
  struct Row {
    int rank = -1;
    bool answered = false;
    OperationReport report;
    std::chrono::milliseconds silent_for{0};  // since its last heartbeat
  };
  std::vector<Row> rows;  // one per rank, in order
};

class World {
 public:
  virtual ~World() = default;

  int rank() const { return rank_; }
  int size() const { return static_cast<int>(peers_.size()); }
  const PeerInfo& peer(int rank) const { return peers_[static_cast<size_t>(rank)]; }
  // Ranks on this rank's host, and this one's index among them.
  int local_size() const { return local_size_; }
  int local_rank() const { return local_rank_; }
  // True when the ranks of the fullest host outnumber its cores; the same on every rank.
  bool oversubscribed() const { return oversubscribed_; }
  // This host's numeric address on the way to the rendezvous; empty when not known.
  const std::string& local_address() const { return local_address_; }
  // From the quickest answer to a heartbeat so far (Cristian, "Probabilistic clock
  // synchronization", Distributed Computing 1989): half its round trip is the error.
  virtual ClockOffset clock_offset() const { return {}; }

  // Gathers one value of every member under `name`; returns them in the order of `members`, which
  // must be the same on all (empty: the whole world). Values are bounded to 1 MiB. A name is used
  // once. Among named members, which is what collectives do to open links, it is Aborted when a
  // diagnosis is wanted meanwhile.
  virtual absl::StatusOr<std::vector<std::string>> AllGather(std::string_view name,
                                                             std::string value,
                                                             const std::vector<int>& members,
                                                             std::chrono::milliseconds timeout) = 0;
  // The same for connection facts.
  virtual absl::StatusOr<std::vector<ConnectionFacts>> ExchangeFacts(
      std::string_view name, const ConnectionFacts& facts, const std::vector<int>& members,
      std::chrono::milliseconds timeout) = 0;
  virtual absl::Status Barrier(std::string_view name, std::chrono::milliseconds timeout) = 0;

  // OK until the job has failed.
  virtual absl::Status failure() const = 0;
  // Readable once failure() is not OK or a diagnosis is wanted; for poll and epoll, never read
  // from.
  virtual int failure_fd() const = 0;
  // After a link broke: the rank that died first, once the control plane says so within `grace`;
  // else `suspicion`. Aborted when a diagnosis is wanted: its peer left over a disagreement.
  virtual absl::Status ExplainLinkFailure(absl::Status suspicion,
                                          std::chrono::milliseconds grace) = 0;
  // After a mismatch or a timeout: collects what every rank is doing, for up to 2 s. Ranks inside a
  // collective see failure_fd() readable and diagnosis_wanted(), and answer by calling Diagnose
  // themselves. DeadlineExceeded names the host of the rendezvous when it does not answer itself.
  virtual absl::StatusOr<Diagnosis> Diagnose(const OperationReport& mine,
                                             std::string_view reason) = 0;
  // True once a rank has called Diagnose: a collective that sees this stops and calls it too. A
  // world has one diagnosis; who comes late gets the same table. It does not fail the job.
  virtual bool diagnosis_wanted() const = 0;

  // Orderly end: tells the others that this rank leaves on purpose; `reason` is empty for success,
  // else it is a failure of the job unless there was one before. Returns that earlier failure, if
  // any. When this rank hosts the rendezvous it waits, up to 5 s, for the others to leave. The
  // destructor leaves too: with success unless the job has failed or an exception unwinds the
  // stack.
  virtual absl::Status Leave(std::string_view reason) = 0;

 protected:
  // Called once by an implementation when all have joined.
  void SetPeers(int rank, std::vector<PeerInfo> peers);
  void SetLocalAddress(std::string address) { local_address_ = std::move(address); }

 private:
  int rank_ = -1;
  int local_size_ = 1;
  int local_rank_ = 0;
  bool oversubscribed_ = false;
  std::vector<PeerInfo> peers_;
  std::string local_address_;
};

// Joins (and, as rank 0 without an outside rendezvous, first hosts) the job that `place` describes.
// Blocks until all ranks are there or settings.join_timeout has passed; the error then names the
// ranks that are missing and those present.
absl::StatusOr<std::unique_ptr<World>> JoinWorld(const LaunchPlace& place,
                                                 const Settings& settings);

}  // namespace gradwire
