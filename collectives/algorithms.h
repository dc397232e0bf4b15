// The algorithms, one file each. All move data through an Exchange and work on raw bytes; lengths
// and overlap were checked by the Communicator. Each returns when this rank's result is complete
// and its buffers may change.
#pragma once

#include <cstddef>

#include "collectives/exchange.h"
#include "collectives/types.h"
#include "transport/memory.h"

namespace gradwire {

// A collective's tensors and arithmetic.
struct Tensors {
  const std::byte* in = nullptr;
  std::byte* out = nullptr;  // may equal `in`
  size_t count = 0;          // elements; of the larger side for reduce-scatter and all-gather
  DataType type = DataType::kFloat32;
  ReduceOp op = ReduceOp::kSum;

  size_t bytes() const { return count * SizeOf(type); }
};

// --- Bandwidth: ring.cc ---
// Pipelined ring (Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of
// workstations", JPDC 2009): each rank sends and receives 2 (n-1)/n of the tensor.
absl::Status RingAllReduce(Exchange& exchange, const Tensors& tensors);
// `out` receives block `rank` of count / n elements.
absl::Status RingReduceScatter(Exchange& exchange, const Tensors& tensors);
// `in` is this rank's block of count / n elements.
absl::Status RingAllGather(Exchange& exchange, const Tensors& tensors);

// --- Latency ---
// Recursive doubling: log2(n) exchanges of the whole tensor; world sizes that are no power of two
// fold the surplus ranks in before and out after (Thakur, Rabenseifner and Gropp, "Optimization of
// collective communication operations in MPICH", IJHPCA 2005). recursive_doubling.cc
absl::Status RecursiveDoublingAllReduce(Exchange& exchange, const Tensors& tensors);
// Reduce to rank 0 and broadcast along one tree of fan-out kTreeFanOut: 2 (n-1) messages in all,
// the fewest, which counts when ranks share cores. tree.cc
inline constexpr int kTreeFanOut = 8;
absl::Status TreeAllReduce(Exchange& exchange, const Tensors& tensors);

// --- Broadcast: broadcast.cc ---
// Binomial tree through slots up to one slice, above that a pipelined chain that writes straight
// into the receivers' tensors. `out` is the tensor on every rank.
absl::Status Broadcast(Exchange& exchange, const Tensors& tensors, int root);

// Which all-reduce runs: settings.all_reduce, or with "auto" by size, world and cores.
enum class AllReduceAlgorithm : uint8_t { kRing, kRecursiveDoubling, kTree };
std::string_view NameOf(AllReduceAlgorithm algorithm);  // as --all-reduce has it
AllReduceAlgorithm ChooseAllReduce(const Settings& settings, int world_size, bool oversubscribed,
                                   size_t bytes);

}  // namespace gradwire
