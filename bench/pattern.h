// Test data whose reduction is exact: small whole numbers, so that the result does not depend on
// the order of the reduction and every element can be compared for equality.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "collectives/tensor_view.h"
#include "collectives/types.h"
#include "transport/status.h"

namespace gradwire::bench {

// The values of all ranks for one element type, operation and world size. They repeat after
// kPeriod elements, a prime, so that no segment or slice moved to another place looks right.
class Pattern {
 public:
  static constexpr size_t kPeriod = 1021;
  // Sums of more ranks leave the whole numbers that bfloat16 holds exactly (up to 256).
  static constexpr int kMaxRanks = 256;

  // InvalidArgument for a world outside 1..kMaxRanks.
  static absl::StatusOr<Pattern> Make(DataType type, ReduceOp op, int ranks);

  // Writes elements [first, first + tensor.count()) of `rank`'s tensor.
  void Fill(const TensorView& tensor, int rank, size_t first) const;
  // Elements that differ from the reduction over all ranks at [first, ...).
  size_t CountUnreduced(const ConstTensorView& tensor, size_t first) const;
  // Elements that differ from what `rank` holds at [first, ...).
  size_t CountForeign(const ConstTensorView& tensor, int rank, size_t first) const;

 private:
  Pattern(DataType type, ReduceOp op, int ranks) : type_(type), op_(op), ranks_(ranks) {}
  std::vector<double> ValuesOf(int rank) const;
  std::vector<double> Reduced() const;

  DataType type_;
  ReduceOp op_;
  int ranks_;
};

}  // namespace gradwire::bench
