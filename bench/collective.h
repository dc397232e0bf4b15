// The collectives that can be measured: how their buffers are laid out and how the size and the
// time of one call become a bandwidth.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "bench/pattern.h"
#include "collectives/communicator.h"
#include "collectives/types.h"
#include "transport/status.h"

namespace gradwire::bench {

enum class Collective : uint8_t { kAllReduce, kReduceScatter, kAllGather, kBroadcast };

// One row of the table of collectives; formulas as in nccl-tests' doc/PERFORMANCE.md.
struct CollectiveInfo {
  Collective id;
  std::string_view name;     // the subcommand
  std::string_view alias;    // its other spelling
  std::string_view program;  // nccl-tests' program, named in the table's comments
  bool reduces;              // takes an operation
  bool rooted;               // takes a root
  bool blocks;               // `size` is that of all ranks' blocks, `count` that of one

  // busbw / algbw: what each rank's link must carry at least, per byte of `size`.
  double BusFactor(int ranks) const;
  // Bytes that have to move from rank to rank per byte of `size`, mean of the ranks.
  double MovedFactor(int ranks) const;
};
std::span<const CollectiveInfo> AllCollectives();

// What a row measures.
struct Case {
  const CollectiveInfo* collective = nullptr;
  DataType type = DataType::kFloat32;
  ReduceOp op = ReduceOp::kSum;
  int root = 0;
  size_t count = 0;  // elements; of one block where the collective has blocks

  // Elements of the larger of both tensors.
  size_t TotalCount(int ranks) const {
    return collective->blocks ? count * static_cast<size_t>(ranks) : count;
  }
  // The column `size`.
  size_t Bytes(int ranks) const { return TotalCount(ranks) * SizeOf(type); }
};

// The case of at most `bytes`.
Case MakeCase(const CollectiveInfo& collective, DataType type, ReduceOp op, int root, size_t bytes,
              int ranks);

// One case on one rank's memory. Out of place it reads `send` and writes `receive`, in place it
// uses `receive` alone; both hold case.Bytes() and outlive this.
class Call {
 public:
  Call(const Case& measured, bool in_place, Communicator& communicator, std::byte* send,
       std::byte* receive);

  // The collective, once. Out of place, a broadcast's root copies its tensor first.
  absl::Status Run();
  // Writes this rank's input, and garbage where the result will be.
  void Fill(const Pattern& pattern);
  // Elements of the result that are not what they should be.
  size_t CountWrong(const Pattern& pattern) const;
  // All zeros: the input that stays what it is however often it is reduced in place.
  void Clear();

 private:
  TensorView Block(std::byte* tensor, int rank) const;

  Case case_;
  bool in_place_;
  Communicator& communicator_;
  ConstTensorView in_;
  TensorView out_;
  TensorView input_;  // in_, writable for Fill
};

}  // namespace gradwire::bench
