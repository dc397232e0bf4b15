// Can many writers share a counter?
//
// Four threads of rank 1 count in one word of rank 0's memory, each over its own queue pair, and
// rank 0's processor takes no part: first by FETCH_AND_ADD, which the device does as one step, then
// by a READ and a WRITE, between which another writer's count gets lost.
//
//   gradwire launch -n 2 -- example_rdma_fetch_and_add
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <thread>
#include <vector>

#include "examples/rdma/measure.h"
#include "examples/rdma/pair.h"

namespace gradwire::examples {
namespace {

constexpr size_t kWriters = 4;
constexpr size_t kCounts = 250;  // of each writer
constexpr size_t kTotal = kWriters * kCounts;

// The counter is word 0 of rank 0's buffer; writer w of rank 1 uses word w of its own.
uint64_t& Word(Pair& pair, size_t index) {
  return reinterpret_cast<uint64_t*>(pair.buffer().data())[index];
}

// One operation on the counter by `writer`; its word receives or supplies the value.
absl::Status Operate(Pair& pair, size_t writer, ibv_wr_opcode opcode) {
  ibv_sge word = pair.Local(writer * sizeof(uint64_t), sizeof(uint64_t));
  ibv_send_wr request = {};
  request.opcode = opcode;
  request.send_flags = IBV_SEND_SIGNALED;
  request.sg_list = &word;
  request.num_sge = 1;
  if (opcode == IBV_WR_ATOMIC_FETCH_AND_ADD) {
    request.wr.atomic.remote_addr = pair.RemoteAddress(0);
    request.wr.atomic.rkey = pair.remote_key();
    request.wr.atomic.compare_add = 1;
  } else {
    request.wr.rdma.remote_addr = pair.RemoteAddress(0);
    request.wr.rdma.rkey = pair.remote_key();
  }
  GW_RETURN_IF_ERROR(pair.Post(request, writer));
  return pair.Await(writer).status();
}

// Counts once; returns the value before.
absl::StatusOr<uint64_t> AddAtOnce(Pair& pair, size_t writer) {
  GW_RETURN_IF_ERROR(Operate(pair, writer, IBV_WR_ATOMIC_FETCH_AND_ADD));
  return Word(pair, writer);
}
absl::StatusOr<uint64_t> AddInTwoSteps(Pair& pair, size_t writer) {
  GW_RETURN_IF_ERROR(Operate(pair, writer, IBV_WR_RDMA_READ));
  const uint64_t before = Word(pair, writer)++;
  std::this_thread::yield();  // as on a busy machine: whoever comes between is lost
  GW_RETURN_IF_ERROR(Operate(pair, writer, IBV_WR_RDMA_WRITE));
  return before;
}

using Add = absl::StatusOr<uint64_t> (*)(Pair&, size_t);

// Every writer counts kCounts times; returns all values that they saw before theirs.
absl::StatusOr<std::vector<uint64_t>> CountAll(Pair& pair, Add add) {
  std::vector<uint64_t> seen(kTotal);
  std::vector<absl::Status> ends(kWriters);
  std::vector<std::thread> writers;
  for (size_t writer = 0; writer < kWriters; ++writer) {
    writers.emplace_back([&, writer] {
      for (size_t i = 0; i < kCounts && ends[writer].ok(); ++i) {
        const auto before = add(pair, writer);
        ends[writer] = before.status();
        if (before.ok()) seen[writer * kCounts + i] = *before;
      }
    });
  }
  for (std::thread& writer : writers) writer.join();
  for (const absl::Status& end : ends) GW_RETURN_IF_ERROR(end);
  return seen;
}

absl::Status Count(Pair& pair) {
  const Stopwatch watch;
  GW_ASSIGN_OR_RETURN(std::vector<uint64_t> seen, CountAll(pair, AddAtOnce));
  fmt::print("rank 1: FETCH_AND_ADD by {} writers: {:.1f} us each\n", kWriters,
             watch.microseconds() / kTotal);
  // Each value from 0 on was handed out exactly once.
  std::sort(seen.begin(), seen.end());
  std::vector<uint64_t> expected(kTotal);
  std::iota(expected.begin(), expected.end(), 0);
  if (seen != expected) return ProtocolError("two writers were given the same value");
  GW_RETURN_IF_ERROR(pair.Barrier());
  GW_RETURN_IF_ERROR(pair.Barrier());  // rank 0 has read the counter and set it to 0
  GW_RETURN_IF_ERROR(CountAll(pair, AddInTwoSteps).status());
  return pair.Barrier();
}

absl::Status Hold(Pair& pair) {
  GW_RETURN_IF_ERROR(pair.Barrier());
  const uint64_t exact = Word(pair, 0);
  fmt::print("rank 0: {} counts by FETCH_AND_ADD, the counter says {}\n", kTotal, exact);
  if (exact != kTotal) return ProtocolError("the counter is wrong");
  Word(pair, 0) = 0;
  GW_RETURN_IF_ERROR(pair.Barrier());
  GW_RETURN_IF_ERROR(pair.Barrier());
  const uint64_t rest = Word(pair, 0);
  fmt::print("rank 0: {} counts by READ and WRITE, the counter says {}: {} were lost\n", kTotal,
             rest, kTotal - rest);
  return absl::OkStatus();
}

absl::Status Run(Job& job) {
  PairOptions options;
  options.buffer_bytes = kWriters * sizeof(uint64_t);
  options.queue_pairs = kWriters;
  options.access = IBV_ACCESS_REMOTE_ATOMIC | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE;
  GW_ASSIGN_OR_RETURN(const auto pair, Pair::Connect(job, options));
  if (pair->device().attributes().atomic_cap == IBV_ATOMIC_NONE) {
    return FailedPrecondition("{} has no atomic operations", pair->device().name());
  }
  return job.rank() == 0 ? Hold(*pair) : Count(*pair);
}

}  // namespace
}  // namespace gradwire::examples

int main(int argc, char** argv) {
  return gradwire::examples::RunJob(argc, argv, gradwire::examples::Run);
}
