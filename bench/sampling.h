// One method for measuring all-reduce, the same for Gradwire and for what it is compared with:
// float32 sum in place; a barrier, then one timed call, many times. The time of an iteration is the
// largest of all ranks. Every element is checked before and after the timed calls.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "transport/status.h"

namespace gradwire::bench {

// Ranks that all-reduce, whichever library connects them.
class Group {
 public:
  virtual ~Group() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  // Sum over all ranks, in place.
  virtual absl::Status AllReduce(float* data, size_t count) = 0;
  virtual absl::Status Barrier() = 0;
  // Each value becomes the largest of all ranks; not timed.
  virtual absl::Status Max(std::vector<double>& values) = 0;
  // The place of the tensors that are measured, on a page; called once, it lasts as long as the
  // group. Ordinary memory, unless a library has a kind of its own for tensors.
  virtual absl::StatusOr<std::byte*> Allocate(size_t bytes);

 private:
  struct FreePages {
    void operator()(std::byte* pages) const;
  };
  std::unique_ptr<std::byte[], FreePages> pages_;
};

struct SamplingOptions {
  std::string label = "gradwire";  // the column `peer`
  std::string transport;           // the column `transport`
  int64_t round = 0;               // the column `rep`
  std::vector<int64_t> sizes;      // bytes
  double budget = 0.3;             // timed seconds aimed at per size
  int min_iterations = 5;          // 3 from 256 MiB on
  int max_iterations = 2000;
};

// "peer,transport,ranks,bytes,median_us,..."; docs/bench.md describes the columns.
std::string SamplingHeader();

// Measures each size in turn; `print` gets one row of CSV per size, on rank 0. Returns the number
// of wrong elements on the rank that has most.
absl::StatusOr<int64_t> Sample(Group& group, const SamplingOptions& options,
                               const std::function<void(const std::string&)>& print);

}  // namespace gradwire::bench
