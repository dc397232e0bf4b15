// How does the receiver learn that data came?
//
// A plain WRITE leaves no trace at the receiver. A WRITE with immediate uses up a receive that was
// posted there, and its completion carries 32 bits and the length: the data are visible from then
// on. So are the data of every earlier write on the same queue pair, which is why an immediate
// without data is enough to announce them. And where no receive is posted, the writer waits.
//
//   gradwire launch -n 2 -- example_rdma_write_with_imm
#include <endian.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "examples/rdma/measure.h"
#include "examples/rdma/pair.h"

namespace gradwire::examples {
namespace {

constexpr size_t kBytes = 4096;  // of each write; the buffer has two such halves
constexpr uint32_t kWithData = 7, kWithoutData = 8, kTooEarly = 9, kWarm = 10;
constexpr auto kLate = std::chrono::milliseconds(200);

absl::Status CheckHalf(Bytes half, std::byte expected) {
  const bool right =
      std::all_of(half.begin(), half.end(), [&](std::byte value) { return value == expected; });
  return right ? absl::OkStatus() : ProtocolError("the data were not there with the immediate");
}

// Takes one arrival, which must be the one with `immediate` and `bytes`.
absl::Status Arrive(Pair& pair, uint32_t immediate, size_t bytes) {
  GW_ASSIGN_OR_RETURN(const ibv_wc arrival, pair.Await());
  if (arrival.opcode != IBV_WC_RECV_RDMA_WITH_IMM || (arrival.wc_flags & IBV_WC_WITH_IMM) == 0 ||
      be32toh(arrival.imm_data) != immediate || arrival.byte_len != bytes) {
    return ProtocolError("opcode {} with immediate {} and {} bytes came, expected {} and {}",
                         static_cast<int>(arrival.opcode), be32toh(arrival.imm_data),
                         arrival.byte_len, immediate, bytes);
  }
  return absl::OkStatus();
}

// Microseconds from posting a write with immediate to its completion.
absl::StatusOr<double> TimedWrite(Pair& pair, uint32_t immediate) {
  const Stopwatch watch;
  GW_RETURN_IF_ERROR(pair.Post(IBV_WR_RDMA_WRITE_WITH_IMM, 0, kBytes, immediate));
  GW_RETURN_IF_ERROR(pair.Await().status());
  return watch.microseconds();
}

absl::Status Send(Pair& pair) {
  std::fill_n(pair.buffer().begin(), kBytes, std::byte{1});
  std::fill_n(pair.buffer().begin() + kBytes, kBytes, std::byte{2});
  GW_RETURN_IF_ERROR(pair.Barrier());  // receives are posted
  GW_RETURN_IF_ERROR(pair.Post(IBV_WR_RDMA_WRITE_WITH_IMM, 0, kBytes, kWithData));
  GW_RETURN_IF_ERROR(pair.Post(IBV_WR_RDMA_WRITE, kBytes, kBytes));
  GW_RETURN_IF_ERROR(pair.Post(IBV_WR_RDMA_WRITE_WITH_IMM, 0, 0, kWithoutData));
  for (int i = 0; i < 3; ++i) GW_RETURN_IF_ERROR(pair.Await().status());

  GW_RETURN_IF_ERROR(pair.Barrier());  // one receive is posted
  GW_ASSIGN_OR_RETURN(const double in_time, TimedWrite(pair, kWarm));
  GW_RETURN_IF_ERROR(pair.Barrier());  // none is
  GW_ASSIGN_OR_RETURN(const double late, TimedWrite(pair, kTooEarly));
  GW_RETURN_IF_ERROR(pair.Barrier());
  fmt::print(
      "rank 0: a write took {:.0f} us with a receive posted, {:.0f} us with the receive "
      "posted {} ms late\n",
      in_time, late, kLate.count());
  return absl::OkStatus();
}

absl::Status Receive(Pair& pair) {
  GW_RETURN_IF_ERROR(pair.PostReceives(2));
  GW_RETURN_IF_ERROR(pair.Barrier());
  GW_RETURN_IF_ERROR(Arrive(pair, kWithData, kBytes));
  GW_RETURN_IF_ERROR(CheckHalf(pair.buffer().first(kBytes), std::byte{1}));
  fmt::print("rank 1: immediate {} came with {} bytes, all visible\n", kWithData, kBytes);
  GW_RETURN_IF_ERROR(Arrive(pair, kWithoutData, 0));
  GW_RETURN_IF_ERROR(CheckHalf(pair.buffer().last(kBytes), std::byte{2}));
  fmt::print("rank 1: immediate {} came with 0 bytes; the plain write before it is visible too\n",
             kWithoutData);

  GW_RETURN_IF_ERROR(pair.PostReceives(1));
  GW_RETURN_IF_ERROR(pair.Barrier());
  GW_RETURN_IF_ERROR(Arrive(pair, kWarm, kBytes));
  GW_RETURN_IF_ERROR(pair.Barrier());
  std::this_thread::sleep_for(kLate);
  GW_RETURN_IF_ERROR(pair.PostReceives(1));
  GW_RETURN_IF_ERROR(Arrive(pair, kTooEarly, kBytes));
  return pair.Barrier();
}

absl::Status Run(Job& job) {
  PairOptions options;
  options.buffer_bytes = 2 * kBytes;
  options.receive_depth = 2;
  GW_ASSIGN_OR_RETURN(const auto pair, Pair::Connect(job, options));
  return job.rank() == 0 ? Send(*pair) : Receive(*pair);
}

}  // namespace
}  // namespace gradwire::examples

int main(int argc, char** argv) {
  return gradwire::examples::RunJob(argc, argv, gradwire::examples::Run);
}
