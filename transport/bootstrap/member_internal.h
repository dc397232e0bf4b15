// A rank's side of its call to the rendezvous: the World that JoinWorld() returns.
//
// One thread of its own takes every event of the call, sends heartbeats and hears of failures;
// callers only queue messages and wait on a condition variable: member.cc is the thread and the
// messages that it takes, member_requests.cc is what callers ask.
#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "gradwire/v1/rendezvous.grpc.pb.h"
#include "transport/bootstrap/rendezvous_server.h"
#include "transport/bootstrap/world.h"

namespace gradwire::internal {

struct Membership {
  std::string local_address;  // numeric, on the way to the rendezvous
  std::shared_ptr<grpc::Channel> channel;
  v1::Join join;
  std::string rendezvous;  // "host:port", for messages
  std::chrono::milliseconds heartbeat_interval{500};
  // Rank 0's when it hosts, else null. The world takes it and stops it after this rank has left.
  std::unique_ptr<RendezvousServer> server;
};

// Joins over `channel` and waits for all ranks. Unavailable when the connection breaks before the
// server has decided; every other error is the server's decision.
absl::StatusOr<std::unique_ptr<World>> Attend(Membership membership);

class Member final : public World {
 public:
  explicit Member(Membership membership);
  ~Member() override;

  absl::Status Join();

  // --- member_requests.cc ---
  absl::StatusOr<std::vector<std::string>> AllGather(std::string_view name, std::string value,
                                                     const std::vector<int>& members,
                                                     std::chrono::milliseconds timeout) override;
  absl::StatusOr<std::vector<ConnectionFacts>> ExchangeFacts(
      std::string_view name, const ConnectionFacts& facts, const std::vector<int>& members,
      std::chrono::milliseconds timeout) override;
  absl::Status Barrier(std::string_view name, std::chrono::milliseconds timeout) override;
  absl::Status failure() const override;
  int failure_fd() const override { return failure_fd_; }
  absl::Status ExplainLinkFailure(absl::Status suspicion, std::chrono::milliseconds grace) override;
  absl::StatusOr<Diagnosis> Diagnose(const OperationReport& mine, std::string_view reason) override;
  bool diagnosis_wanted() const override { return diagnosis_wanted_.load(); }
  ClockOffset clock_offset() const override;
  absl::Status Leave(std::string_view reason) override;

 private:
  enum class Event : intptr_t { kStart = 1, kRead, kWrite, kFinish };
  static void* Tag(Event event) { return reinterpret_cast<void*>(event); }

  struct Gathering {
    std::vector<std::string> values;
    size_t wanted = 0;
    bool done = false;
    absl::Status status;
  };

  // --- member.cc ---
  // On the thread of the call:
  void Run();
  void Handle(Event event, bool ok);
  void Beat();
  // Until the next one: the first ones, which align the clocks, follow each other quickly.
  std::chrono::milliseconds BeatInterval() const;
  // The answer to the last heartbeat came, made at `server_ns` by the server's clock.
  void NoteClock(int64_t server_ns);
  absl::Status Received(const v1::ToRank& message);
  absl::Status ReceivedPeers(const v1::Joined& joined);
  absl::Status ReceivedValues(const v1::Gathered& gathered);
  absl::Status ReceivedDiagnosis(const v1::Diagnosis& diagnosis);
  void Ended();

  // With mutex_ held:
  void Send(v1::FromRank message);
  void Pump();
  void Fail(absl::Status status);
  void Wake();
  // Why no request can be answered any more; OK while one can.
  absl::Status Closed() const;
  std::string ServerName() const;

  Membership membership_;
  const int failure_fd_;
  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<v1::Rendezvous::Stub> stub_;
  std::unique_ptr<grpc::ClientAsyncReaderWriter<v1::FromRank, v1::ToRank>> stream_;
  std::thread thread_;
  std::atomic<bool> diagnosis_wanted_ = false;

  // The thread of the call alone:
  v1::ToRank incoming_;
  grpc::Status end_status_;

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::deque<v1::FromRank> outbox_;  // front: being written while writing_
  bool started_ = false;
  bool writing_ = false;
  bool over_ = false;  // nothing more can be read
  bool finishing_ = false;
  bool ended_ = false;    // the call is over
  bool joined_ = false;   // all ranks are there
  bool hosted_ = false;   // rank 0 hosts the server
  bool closing_ = false;  // the server went down on purpose
  bool leaving_ = false;  // Leave was called
  bool beat_unanswered_ = false;
  int beats_ = 0;  // sent so far
  std::chrono::steady_clock::time_point beat_sent_;
  ClockOffset clock_;
  std::chrono::steady_clock::time_point last_heard_;
  absl::Status failure_;
  std::map<uint64_t, Gathering> gatherings_;
  uint64_t next_request_ = 1;
  std::unique_ptr<Diagnosis> diagnosis_;
};

}  // namespace gradwire::internal
