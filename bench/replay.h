// All-reduce of a real model's gradients, as its training issues them: one after another in the
// order of the backward pass, asynchronously, each by itself or in buckets.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "bench/model_gradients.h"
#include "bench/options.h"
#include "bench/resources.h"
#include "bench/statistics.h"
#include "collectives/communicator.h"
#include "transport/status.h"

namespace gradwire::bench {

// One way to send them.
struct ReplayRow {
  int64_t bucket_bytes = 0;  // 1: each tensor by itself
  int64_t tensors = 0;
  int64_t bytes = 0;
  int64_t operations = 0;  // all-reduces of one step
  Summary step;            // microseconds until the last result is there, the slowest rank's
  std::vector<double> samples;
  double algorithm_bandwidth = 0;  // GB/s at the median
  double bus_bandwidth = 0;
  Cost cost;                     // of one rank, the mean of all; a call is a step
  std::optional<int64_t> wrong;  // elements over all ranks and checked steps; none: not checked
};

// Steps each by themselves and in buckets of `options.bucket_bytes` by turns, so that what disturbs
// the machine disturbs both; memory for the gradients twice. All ranks call it and get the same.
// Iterations, warmups and checks are those of `options`.
absl::StatusOr<std::vector<ReplayRow>> Replay(Communicator& communicator,
                                              const std::vector<Gradient>& gradients,
                                              const Options& options);

// The comments, within 80 columns but for the device; a row; the verdict.
std::string ReplayHeader(const std::string& description, const Options& options, int ranks);
std::string FormatRow(const ReplayRow& row);
std::string ReplayFooter(int64_t wrong);

}  // namespace gradwire::bench
