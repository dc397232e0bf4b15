// Recordings on one clock and indexed: what each rank did in each operation, and what became of
// each write.
#pragma once

#include <cstdint>
#include <map>
#include <unordered_map>
#include <utility>
#include <vector>

#include "analysis/clocks.h"
#include "analysis/recordings.h"
#include "analysis/result.h"
#include "transport/telemetry/event.h"

namespace gradwire::analysis {

// What became of one write. -1: not recorded.
struct Write {
  int64_t written_ns = -1;  // handed to the link
  int64_t posted_ns = -1;   // its doorbell began
  int64_t gone_ns = -1;     // its doorbell ended; over TCP the kernel had its last byte
  int64_t arrived_ns = -1;  // taken by the receiver
  uint32_t bytes = 0;
};

// A stretch of one rank's time: work of a class, or a wait.
struct Stretch {
  int64_t begin_ns = 0;
  int64_t end_ns = 0;
  Class work = Class::kOther;              // when it is no wait
  const telemetry::Event* wait = nullptr;  // null: no wait
};

// One rank in one operation.
struct Doing {
  uint64_t number = 0;
  int64_t begin_ns = 0;
  int64_t end_ns = 0;
  const telemetry::Event* operation = nullptr;
  const telemetry::Event* operands = nullptr;  // may be lost
  std::vector<Stretch> stretches;              // cover [begin, end) in order without a gap
  uint64_t receiver_not_ready = 0;             // NAKs that it received meanwhile
  uint64_t retransmits = 0;                    // packets that it sent again meanwhile
};

class Trace {
 public:
  // Times become those of the first rank, from the first event on.
  Trace(Recordings recordings, std::vector<Alignment> alignment);

  int world_size() const { return recordings_.world_size; }
  const std::vector<telemetry::Recording>& recordings() const { return recordings_.ranks; }
  const std::vector<Alignment>& alignment() const { return alignment_; }
  // What `rank` did in operation `number`; null when it did not record it.
  const Doing* Find(int rank, uint64_t number) const;
  // All operations that at least one rank recorded, in order.
  std::vector<uint64_t> Numbers() const;
  // The write number `sequence` of `from` to `to`; null when neither end recorded it.
  const Write* Find(int from, int to, uint64_t sequence) const;
  // In the order of their numbers.
  template <typename Visit>
  void ForEachWrite(const Visit& visit) const {
    for (const auto& [pair, writes] : writes_) {
      for (const auto& [sequence, write] : writes) visit(pair.first, pair.second, sequence, write);
    }
  }
  bool tcp(int rank) const;
  // Whether writes from `from` are in the memory of `to` as soon as they are posted or sent.
  bool Immediate(int from, int to) const;
  // Whether `rank` sent packets again from operation `number` until `moment`, ns. It may be done
  // with the operation, and into the next, before what it sent last turns out to be lost.
  bool SentAgain(int rank, uint64_t number, int64_t moment) const;
  // How long `rank` has its peers wait when it is not ready to receive, ns.
  int64_t ReceiverNotReadyTimer(int rank) const;
  // The steps of training that `rank` recorded, in order.
  const std::vector<StepTimes>& Steps(int rank) const;
  // Moments when `rank` gave up the processor, in order: [begin, end).
  const std::vector<std::pair<int64_t, int64_t>>& Blocks(int rank) const;
  // Whether writes of `rank` to `peer` waited for room in the send queue within [begin, end).
  bool QueueFull(int rank, int peer, int64_t begin, int64_t end) const;

 private:
  struct PerRank {
    std::map<uint64_t, Doing> operations;
    std::vector<std::pair<int64_t, int64_t>> blocks;
    std::map<int, std::vector<int64_t>> queue_full;  // when, by peer
    std::vector<StepTimes> steps;
    const telemetry::Recording* recording = nullptr;
  };
  void Index(PerRank& rank, telemetry::Recording& recording);

  Recordings recordings_;
  std::vector<Alignment> alignment_;
  std::map<int, PerRank> ranks_;
  std::map<std::pair<int, int>, std::map<uint64_t, Write>> writes_;
};

}  // namespace gradwire::analysis
