// What does a READ cost against a WRITE?
//
// A WRITE sends the data and gets back an acknowledgement; a READ sends a request and gets back the
// data, and only a few may be on their way (16 here). Both are timed from posting to completion,
// one at a time for the latency and in a full queue for the bandwidth, in turns.
//
//   gradwire launch -n 2 -- example_rdma_write_vs_read
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

#include "examples/rdma/measure.h"
#include "examples/rdma/pair.h"

namespace gradwire::examples {
namespace {

constexpr std::array<size_t, 5> kSizes = {8, 512, 4096, 32768, 262144};  // bytes
constexpr int kDepth = 16;                                               // operations under way
constexpr double kLatencyBudget = 0.5;                                   // seconds per size
constexpr double kRoundBudget = 0.05;                                    // seconds, roughly
constexpr size_t kMostSamples = 2000, kFewestSamples = 5;
constexpr int kRounds = 5;

// Seconds from posting to completion.
absl::StatusOr<double> Once(Pair& pair, ibv_wr_opcode opcode, size_t bytes) {
  const Stopwatch watch;
  GW_RETURN_IF_ERROR(pair.Post(opcode, 0, bytes));
  GW_RETURN_IF_ERROR(pair.Await().status());
  return watch.seconds();
}

// Bytes per second of `count` operations with the queue kept full.
absl::StatusOr<double> Stream(Pair& pair, ibv_wr_opcode opcode, size_t bytes, int count) {
  const Stopwatch watch;
  for (int posted = 0, done = 0; done < count; ++done) {
    for (; posted < count && posted - done < kDepth; ++posted) {
      GW_RETURN_IF_ERROR(pair.Post(opcode, 0, bytes));
    }
    GW_RETURN_IF_ERROR(pair.Await().status());
  }
  return static_cast<double>(bytes) * count / watch.seconds();
}

struct Figures {
  std::vector<double> seconds;    // of one operation
  std::vector<double> bandwidth;  // bytes per second
};

absl::Status Measure(Pair& pair, size_t bytes) {
  constexpr std::array kOperations = {IBV_WR_RDMA_WRITE, IBV_WR_RDMA_READ};
  std::array<Figures, 2> figures;
  const Stopwatch budget;
  for (size_t i = 0; i < kMostSamples; ++i) {
    if (i >= kFewestSamples && budget.seconds() > kLatencyBudget) break;
    for (size_t k = 0; k < kOperations.size(); ++k) {
      GW_ASSIGN_OR_RETURN(const double seconds, Once(pair, kOperations[k], bytes));
      if (i > 0) figures[k].seconds.push_back(seconds);  // the first one warms up
    }
  }
  const double median = Median(figures[0].seconds);
  const int count = std::clamp(static_cast<int>(kRoundBudget / median), 4, 512);
  for (int round = 0; round < kRounds; ++round) {
    for (size_t k = 0; k < kOperations.size(); ++k) {
      GW_ASSIGN_OR_RETURN(const double bandwidth, Stream(pair, kOperations[k], bytes, count));
      figures[k].bandwidth.push_back(bandwidth);
    }
  }
  const double write_us = Median(figures[0].seconds) * 1e6;
  const double read_us = Median(figures[1].seconds) * 1e6;
  const double write_mb = Median(figures[0].bandwidth) / 1e6;
  const double read_mb = Median(figures[1].bandwidth) / 1e6;
  fmt::print("{:8} {:10.1f} {:10.1f} {:7.2f} {:11.2f} {:11.2f} {:7.2f}\n", bytes, write_us, read_us,
             read_us / write_us, write_mb, read_mb, read_mb / write_mb);
  std::fflush(stdout);
  return absl::OkStatus();
}

// The peer's buffer says who wrote it last; a READ must bring that home.
absl::Status CheckRead(Pair& pair) {
  const std::byte mark{0x5a};
  pair.buffer()[0] = mark;
  GW_RETURN_IF_ERROR(Once(pair, IBV_WR_RDMA_WRITE, 1).status());
  pair.buffer()[0] = std::byte{0};
  GW_RETURN_IF_ERROR(Once(pair, IBV_WR_RDMA_READ, 1).status());
  if (pair.buffer()[0] != mark) return ProtocolError("a READ did not return what was written");
  return absl::OkStatus();
}

absl::Status Run(Job& job) {
  PairOptions options;
  options.buffer_bytes = kSizes.back();
  options.send_depth = kDepth;
  options.reads = kDepth;
  options.access = IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ;
  GW_ASSIGN_OR_RETURN(const auto pair, Pair::Connect(job, options));
  if (job.rank() == 0) {
    GW_RETURN_IF_ERROR(CheckRead(*pair));
    fmt::print("{:>8} {:>10} {:>10} {:>7} {:>11} {:>11} {:>7}\n", "", "WRITE", "READ", "", "WRITE",
               "READ", "");
    fmt::print("{:>8} {:>10} {:>10} {:>7} {:>11} {:>11} {:>7}\n", "bytes", "(us)", "(us)", "ratio",
               "(MB/s)", "(MB/s)", "ratio");
    for (const size_t bytes : kSizes) GW_RETURN_IF_ERROR(Measure(*pair, bytes));
    fmt::print("\nMedians; left one operation at a time, right {} under way.\n", kDepth);
  }
  return pair->Barrier();  // rank 1 has no part but to keep its memory
}

}  // namespace
}  // namespace gradwire::examples

int main(int argc, char** argv) {
  return gradwire::examples::RunJob(argc, argv, gradwire::examples::Run);
}
