// Which tensors there are, and which server keeps which part of them.
//
// A layout lists named tensors in an order that all members share; laid end to end they are one
// flat array of float32, the same on every member, so a tensor is a contiguous range wherever it
// lies. A placement cuts that array into shards of equal bytes: a tensor that crosses a boundary
// has a part on either side. Each shard is cut further into slices, the unit of one write and of
// all bookkeeping; a slice never leaves its tensor.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "collectives/types.h"
#include "transport/status.h"

namespace gradwire::ps {

struct TensorSpec {
  std::string name;            // 1..256 bytes, unique in its layout
  std::vector<int64_t> shape;  // row-major; empty: one number
  DataType type = DataType::kFloat32;

  int64_t count() const;  // elements
};

class Layout {
 public:
  Layout() = default;
  // InvalidArgument, naming the tensor: empty, repeated or unprintable name, negative or
  // overflowing shape, a type other than float32, more than kMaxTensors or kMaxElements in all.
  static absl::StatusOr<Layout> Make(std::vector<TensorSpec> tensors);

  static constexpr size_t kMaxTensors = 1 << 16;
  static constexpr int64_t kMaxElements = int64_t{1} << 38;  // 1 TiB of float32

  int size() const { return static_cast<int>(tensors_.size()); }
  const std::vector<TensorSpec>& tensors() const { return tensors_; }
  const TensorSpec& tensor(int index) const { return tensors_[static_cast<size_t>(index)]; }
  // First element of a tensor in the flat array; offset(size()) is the total.
  int64_t offset(int index) const { return offsets_[static_cast<size_t>(index)]; }
  int64_t elements() const { return offsets_.back(); }
  // NotFound lists a few of the names that there are.
  absl::StatusOr<int> Find(std::string_view name) const;
  // OK when both are the same; else InvalidArgument with the first difference: name, shape, count.
  absl::Status Matches(const Layout& other) const;

 private:
  std::vector<TensorSpec> tensors_;
  std::vector<int64_t> offsets_ = {0};
  std::unordered_map<std::string, int> by_name_;
};

// A range of the flat array that is written at once.
struct Slice {
  int tensor = 0;
  int64_t begin = 0;  // element of the flat array
  int64_t count = 0;  // elements, at least 1
};

// A run of slices of one shard.
struct SliceRange {
  uint32_t first = 0;
  uint32_t count = 0;
};

class Placement {
 public:
  Placement() = default;
  // Boundaries between shards lie at multiples of kAlignment elements. InvalidArgument for
  // shards < 1, slice_bytes < 64, or more slices per shard than a tag can name.
  static absl::StatusOr<Placement> Make(const Layout& layout, int shards, int64_t slice_bytes);

  static constexpr int64_t kAlignment = 16;  // elements: a cache line of float32

  int shards() const { return static_cast<int>(slices_.size()); }
  // The flat range [begin, end) of a shard; empty when there is less than one per shard.
  int64_t begin(int shard) const { return bounds_[static_cast<size_t>(shard)]; }
  int64_t end(int shard) const { return bounds_[static_cast<size_t>(shard) + 1]; }
  // In ascending order of the flat array.
  const std::vector<Slice>& slices(int shard) const { return slices_[static_cast<size_t>(shard)]; }
  // The slices of `shard` that hold tensors [first, last).
  SliceRange Find(int shard, int first, int last) const;
  // Elements of the largest slice.
  int64_t largest_slice() const { return largest_; }

  // A line per shard: bytes, share, slices, tensors (with the ranges of those that are cut).
  std::string Describe(const Layout& layout) const;

 private:
  std::vector<int64_t> bounds_;
  std::vector<std::vector<Slice>> slices_;
  int64_t largest_ = 0;
};

}  // namespace gradwire::ps
