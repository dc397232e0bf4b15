// One method for measuring a collective, the same for Gradwire and for what it is compared with:
// float32 in place, sums where something is reduced; a barrier, then one timed call, many times.
// The time of an iteration is the largest of all ranks. Every element is checked before and after
// the timed calls.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "transport/status.h"

namespace gradwire::bench {

class Pattern;

// Ranks with a collective, whichever library connects them: all-reduce unless more is overridden.
class Group {
 public:
  virtual ~Group() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  // The collective, in place: the sum over all ranks.
  virtual absl::Status Run(float* tensor, size_t count) = 0;
  virtual absl::Status Barrier() = 0;
  // Each value becomes the largest of all ranks; not timed.
  virtual absl::Status Max(std::vector<double>& values) = 0;
  // The place of the tensors that are measured, on a page; called once, it lasts as long as the
  // group. Ordinary memory, unless a library has a kind of its own for tensors.
  virtual absl::StatusOr<std::byte*> Allocate(size_t bytes);

  // Elements of the tensor that takes at most `bytes`.
  virtual size_t CountOf(int64_t bytes) const;
  // Writes this rank's input, and counts the elements that Run() made other than they should be.
  virtual void Fill(const Pattern& pattern, float* tensor, size_t count) const;
  virtual size_t CountWrong(const Pattern& pattern, const float* tensor, size_t count) const;
  // busbw / algbw.
  virtual double BusFactor() const;

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

// What one size came to; the same on every rank.
struct SampledRow {
  std::string peer;
  std::string transport;
  int ranks = 0;
  int64_t bytes = 0;
  double median_us = 0;
  double min_us = 0;
  double p99_us = 0;
  double algorithm_bandwidth = 0;  // GB/s at the median
  double bus_bandwidth = 0;
  int64_t iterations = 0;
  int64_t wrong = 0;  // elements, on the rank that has most
  int64_t round = 0;
  double median_last_us = 0;  // from the last rank's start to the last rank's end
};

// "peer,transport,ranks,bytes,median_us,..."; docs/bench.md describes the columns.
std::string SamplingHeader();
std::string FormatCsv(const SampledRow& row);
// InvalidArgument for a line that is no such row.
absl::StatusOr<SampledRow> ParseCsv(std::string_view line);

class Sampler {
 public:
  // `group` outlives it. Memory for the largest of `options.sizes`.
  static absl::StatusOr<Sampler> Create(Group& group, const SamplingOptions& options);
  // One of these sizes; all ranks call it.
  absl::StatusOr<SampledRow> Measure(int64_t bytes);
  // What the column rep says from now on.
  void set_round(int64_t round) { options_.round = round; }

 private:
  Sampler(Group& group, const SamplingOptions& options) : group_(&group), options_(options) {}

  Group* group_;
  SamplingOptions options_;
  float* tensor_ = nullptr;
};

// Measures each size in turn; `print` gets each row, on rank 0. Returns the number of wrong
// elements.
absl::StatusOr<int64_t> Sample(Group& group, const SamplingOptions& options,
                               const std::function<void(const SampledRow&)>& print);

}  // namespace gradwire::bench
