// Gives every nanosecond of an operation to one class.
//
// Work is what the thread itself recorded. A wait is told by what it waited for, seen from both
// ends. For the arrival of a write of peer P, with P's own recording:
//
//    P busy or not begun   | written | queue full   | doorbell .. on the wire | there | taken
//    -> late peer, or what | -> posting or send     | -> wire, or receiver    | -> wake-up
//       P itself waits for |    queue full          |    not ready            |
//
// What P itself waits for is followed from rank to rank to its cause: who works on, or has not
// begun, is the late peer. Over TCP the middle is P's system calls or send blocked, then receive
// wait.
//
// A full send queue delays every write that stands in line, but what follows them only once. So it
// is told by what would have been: each rank's time line is taken to run ahead by what queues have
// cost it and those it depended on so far, and a wait is charged with what is new, less what the
// link itself takes for a write.
#pragma once

#include <map>
#include <unordered_map>
#include <utility>
#include <vector>

#include "analysis/result.h"
#include "analysis/trace.h"

namespace gradwire::analysis {

class Attribution {
 public:
  explicit Attribution(const Trace& trace);

  // The stretches of `rank` in operation `number`, each of one class. Empty when not recorded.
  std::vector<Interval> Of(int rank, uint64_t number) const;

  // The write that the wait ends with, if it waits for an arrival that both ends recorded.
  const Write* AwaitedBy(int rank, const telemetry::Event& wait) const;

 private:
  // [begin, end) of `rank` as others see it who wait for it, `depth` ranks away from the first.
  void Explain(int rank, uint64_t number, int64_t begin, int64_t end, int depth,
               std::vector<Interval>& out) const;
  // [begin, end) of the wait of `rank`.
  void Classify(int rank, const Doing& doing, const Stretch& stretch, int64_t begin, int64_t end,
                int depth, std::vector<Interval>& out) const;
  void ClassifyArrival(int rank, const Doing& doing, const Stretch& stretch, int64_t begin,
                       int64_t end, int depth, std::vector<Interval>& out) const;
  // TCP: [begin, end) of a wait for a write that `from` has at hand and is sending.
  void ClassifySending(int from, uint64_t number, int64_t begin, int64_t end,
                       std::vector<Interval>& out) const;
  // A write on its way, and the end that waits: the receiver for it, or the sender for its
  // completion.
  struct Passage {
    int from, to, waiter;
    int64_t there = 0;  // from when on the wire is no reason to wait
    int64_t taken = 0;  // when the waiter saw it
  };
  // [begin, end) of the wait.
  void ClassifyTransit(const Passage& passage, uint64_t number, int64_t begin, int64_t end,
                       std::vector<Interval>& out) const;
  // [begin, end) of a wait for what is there: wake-up where the waiter slept, else the wire's.
  void ClassifySlept(const Passage& passage, int64_t begin, int64_t end,
                     std::vector<Interval>& out) const;
  // Charges each wait of operation `number` with what full send queues have cost it.
  void ChargeQueues(uint64_t number);
  // Whether the write stood in line for room in the send queue of `from`.
  bool StoodInLine(int from, int to, uint64_t number, const Write& write) const;
  // What the link takes for a write of about this size behind another: how far apart those came
  // that one doorbell sent, as a rule; where none did, how close those came that were under way
  // together; else 0.
  int64_t Pace(int from, int to, uint32_t bytes) const;
  // The quickest transit of a write of about this size.
  int64_t Transit(int from, int to, uint32_t bytes) const;

  // When the write lay in the memory of `to`: within a host its doorbell copies it, in the quickest
  // time of a doorbell with about so many bytes; else the doorbell's end.
  int64_t Copied(int from, int to, const Write& write) const;

  struct Doorbell {
    uint64_t bytes = 0;
    int64_t ns = 0;
  };

  const Trace& trace_;
  std::map<std::pair<int, int>, std::map<int, int64_t>> transit_;  // by pair and bits of size
  std::map<std::pair<int, int>, std::map<int, int64_t>> pace_;     // likewise
  // Of links within a host: by when it began, and the quickest by bits of bytes.
  std::map<std::pair<int, int>, std::map<int64_t, Doorbell>> doorbells_;
  std::map<std::pair<int, int>, std::map<int, int64_t>> copying_;
  std::unordered_map<const Stretch*, int64_t> queue_cost_;  // ns
};

}  // namespace gradwire::analysis
