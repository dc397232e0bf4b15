// The rules of one job at the rendezvous: who may join, what is gathered, who failed first. No I/O,
// no clock of its own: the server hands in messages and times, answers go out through Channels.
//
// Threads. The server's thread alone calls it.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gradwire/v1/rendezvous.pb.h"
#include "transport/status.h"

namespace gradwire::internal {

using Time = std::chrono::steady_clock::time_point;

// One rank's call as its job sees it.
class Channel {
 public:
  virtual ~Channel() = default;
  // Queues a message; never blocks.
  virtual void Send(std::shared_ptr<const v1::ToRank> message) = 0;
  // Ends the call after what is queued, with an error as its last message. The job forgets the
  // channel before it calls this.
  virtual void End(const absl::Status& status) = 0;
};

class Job {
 public:
  // `hosted`: rank 0's process runs the server.
  Job(std::string id, std::string token, int world_size, bool hosted);

  // Gives the rank its seat. An error turns it away; Aborted means that a later try may succeed.
  absl::Status Admit(const v1::Join& join, Channel* channel, Time now);
  // Handles any message but Join. An error breaks the protocol: the server ends the call, and the
  // rank counts as failed.
  absl::Status Receive(int rank, const v1::FromRank& message, Time now);
  // The rank's call ended without Leave.
  void Lost(int rank, std::string_view how);
  // Looks at deadlines: joining, all-gathers, heartbeats, diagnosis.
  void Tick(Time now);
  // The server itself was stopped for `gap`: no rank is to blame for the silence.
  void Forgive(std::chrono::nanoseconds gap);
  // The server goes down: ends every call that is still open.
  void Close();

  // Nobody is left, so the job's id may be used again.
  bool over() const { return present_ == 0; }
  bool formed() const { return formed_; }

 private:
  enum class State { kVacant, kPresent, kLeft, kDead };
  struct Seat {
    State state = State::kVacant;
    Channel* channel = nullptr;  // while present
    v1::Peer peer;
    Time last_heard;
    Time join_deadline;
    std::chrono::milliseconds heartbeat_timeout{0};
    int open_offers = 0;
    std::string lost;  // what became of a rank that had joined before the job was complete
    std::optional<v1::Report> report;
    bool got_diagnosis = false;
  };
  struct Offered {
    uint64_t request = 0;  // 0: not yet offered
    Time deadline;
    std::string value;
  };
  struct Gather {
    std::vector<int> members;
    std::vector<Offered> offers;  // in the order of members
    size_t missing = 0;
    size_t bytes = 0;
  };
  using Gathers = std::map<std::string, Gather>;

  Seat& seat(int rank) { return seats_[static_cast<size_t>(rank)]; }
  std::string Name(int rank) const;
  std::string Census() const;

  absl::Status ReceiveOffer(int rank, const v1::Offer& offer, Time now);
  void Complete(Gathers::iterator gather);
  void Abandon(Gathers::iterator gather, const absl::Status& status);
  std::string Absent(const Gather& gather) const;
  void Report(int rank, const v1::Report& report, Time now);
  void AnswerDiagnosis(Time now);
  void Leave(int rank, const std::string& reason);
  // Takes the rank's channel away, and abandons the all-gathers that wait for it.
  Channel* Vacate(int rank, State state);
  void Fail(int rank, const std::string& message);
  void Broadcast(v1::ToRank message);
  static void Refuse(Channel* channel, uint64_t request, const absl::Status& status);

  const std::string id_;
  const std::string token_;
  const bool hosted_;
  std::vector<Seat> seats_;
  int present_ = 0;  // seats in state kPresent
  bool formed_ = false;
  std::string failure_;  // empty: none
  Gathers gathers_;
  size_t held_bytes_ = 0;  // += in ReceiveOffer, -= where a gather is erased
  bool diagnosing_ = false;
  Time diagnosis_deadline_;
  std::shared_ptr<const v1::ToRank> diagnosis_;  // once answered
};

// "ranks 1-3 and 7", "rank 2"; long lists are cut. `ranks` ascend.
std::string DescribeRanks(const std::vector<int>& ranks);

}  // namespace gradwire::internal
