// What an analysis of a recorded run knows: every nanosecond of every operation on every rank in
// exactly one class, the critical path across ranks, and what to change. Plain data: the terminal,
// CSV, trace and HTML outputs are made from it alone.
//
// Times are nanoseconds on the clock of rank 0, from the start of the run (the first event).
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "transport/machine.h"

namespace gradwire::analysis {

// Where time goes. A rank is in one at any moment of an operation.
enum class Class : uint8_t {
  kPosting,           // handing writes to the device: doorbells
  kSendQueueFull,     // a write was ready, but the send queue had no room
  kNoCredit,          // a write was ready, but the receiver had not given a slot back
  kReceiverNotReady,  // a write was on its way again and again, for want of a posted receive
  kWire,              // a write was on its way
  kLatePeer,          // the peer had not begun, or was still working on what is waited for
  kReducing,
  kCopying,
  kWakeUp,       // what was waited for was there, but the thread slept still
  kSendBlocked,  // TCP: bytes were ready, but the socket took no more
  kReceiveWait,  // TCP: bytes were in sockets or on the wire
  kSystemCalls,  // TCP: in calls that move bytes, of this rank or the one waited for
  kOther,        // between all of these: bookkeeping of our own
};
inline constexpr int kClassCount = 13;

// "send_queue_full": as in files.
std::string_view NameOf(Class value);
// "send queue full": for a reader.
std::string_view LabelOf(Class value);
// One sentence on what the class is.
std::string_view DescriptionOf(Class value);
std::optional<Class> ClassNamed(std::string_view name);

struct Interval {
  int64_t begin_ns = 0;
  int64_t end_ns = 0;
  Class in = Class::kOther;
  int peer = -1;  // the rank that is waited for or written to; -1: none
};

// One operation on one rank.
struct RankTimes {
  int rank = -1;
  int64_t begin_ns = 0;
  int64_t end_ns = 0;
  std::vector<Interval> intervals;  // cover [begin_ns, end_ns) in order without a gap
  std::array<int64_t, kClassCount> total_ns = {};
};

// A piece of the chain of causes that ends with the operation's last rank. In order of time.
struct PathStep {
  int rank = -1;
  Interval interval;
};

struct Operation {
  uint64_t number = 0;
  std::string kind;              // "all_reduce"
  std::string what;              // "all_reduce of 262144 float, sum"
  uint64_t bytes = 0;            // of the larger tensor
  uint64_t retransmits = 0;      // packets that ranks sent again meanwhile
  std::vector<RankTimes> ranks;  // those that recorded it, by rank
  std::vector<PathStep>
      critical;  // first begin (or the last end before) to last end; empty when a rank is missing
};

// A write from its post to its arrival; for arrows in a timeline.
struct Flow {
  int from = -1;
  int to = -1;
  int64_t posted_ns = 0;
  int64_t arrived_ns = 0;
  uint32_t bytes = 0;
  uint64_t operation = 0;
};

// One step of training on one rank. Its collectives may run in another thread meanwhile.
struct StepTimes {
  int rank = -1;
  uint64_t number = 0;
  int64_t begin_ns = 0;
  int64_t end_ns = 0;
  int64_t held_ns = 0;  // of that: the thread that trains stood still for collectives
};

// All steps of a run.
struct StepSummary {
  size_t count = 0;       // of the rank with most
  int64_t median_ns = 0;  // of one step, by the slowest rank
  double held = 0;        // part of all ranks' steps in which they stood still, 0..1
};

// What it says of a run.
std::string Sentence(const StepSummary& steps);

struct RankInfo {
  int rank = -1;
  std::string host;
  std::string transport;                     // "rdma", "tcp"
  std::string device;                        // "urxe0 (...)": the transport's own line
  int64_t clock_offset_ns = 0;               // added to its clock to get rank 0's
  int64_t clock_error_ns = 0;                // the offset is right within this; 0 on rank 0's host
  uint64_t lost_events = 0;                  // overwritten in its ring
  std::map<std::string, uint64_t> counters;  // transport's and device's, over the run
  std::map<std::string, std::string> settings;
};

// A cause by its weight, largest first.
struct Finding {
  Class in = Class::kOther;
  int rank = -1;                 // which rank spends the time
  int peer = -1;                 // for whom, when it waits
  double share = 0;              // of the critical paths of all operations, 0..1
  int64_t ns_per_operation = 0;  // mean
  std::string sentence;          // "32 % of ... because ..."
  std::string advice;            // the setting to change, or empty
};

// time = steps * alpha + bytes moved * beta + bytes reduced * gamma, fitted to the run.
struct Model {
  double alpha_us = 0;         // per message
  double beta_us_per_mb = 0;   // per MB (decimal) over a link
  double gamma_us_per_mb = 0;  // per MB reduced
  double error = 0;            // median relative error over the points
  // The same of unseen_us: what to expect of a size that was not measured.
  std::optional<double> unseen_error;
  // Whether reductions hide behind the wire, as where a device moves the bytes. Else all adds up.
  bool overlaps = false;
  struct Point {
    std::string what;
    std::string algorithm;  // "ring"
    uint64_t bytes = 0;
    int ranks = 0;
    double measured_us = 0;
    double predicted_us = 0;
    std::optional<double> unseen_us;  // predicted by the fit of the other sizes alone
  };
  std::vector<Point> points;
  // What the same prices make of an all-reduce that was not measured.
  struct Prediction {
    std::string algorithm;
    int ranks = 0;
    uint64_t bytes = 0;
    uint64_t slice_bytes = 0;
    double predicted_us = 0;
  };
  std::vector<Prediction> predictions;
  std::vector<std::string> notes;  // what the samples could not tell, in sentences
};

struct Run {
  std::string name;                  // "rdma", "tcp", or the folder
  std::vector<std::string> command;  // that made the recording
  std::string started;               // ISO 8601, UTC
  Machine machine;                   // rank 0's
  int world_size = 0;
  std::vector<RankInfo> ranks;  // that were found
  std::vector<Operation> operations;
  std::vector<Flow> flows;                  // by posted_ns; may be thinned out, see problems
  std::vector<StepTimes> steps;             // of all ranks, by begin
  std::optional<StepSummary> step_summary;  // none: no step was recorded
  std::vector<Finding> findings;
  std::optional<Model> model;
  std::string model_note;             // without a model: why, and what to measure for one
  std::vector<std::string> problems;  // what was missing or doubtful, in sentences
};

}  // namespace gradwire::analysis
