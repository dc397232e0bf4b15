// The measuring loop: every case of a sweep, out of place and in place, on all ranks together.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "bench/collective.h"
#include "bench/options.h"
#include "bench/resources.h"
#include "bench/statistics.h"
#include "collectives/communicator.h"
#include "transport/status.h"

namespace gradwire::bench {

// One half of a row: the case out of place or in place.
struct Half {
  double time_us = 0;              // of one call: a run of calls divided by their number
  double algorithm_bandwidth = 0;  // GB/s
  double bus_bandwidth = 0;        // GB/s
  std::optional<int64_t> wrong;    // elements over all ranks and checked calls; none: not checked
  // Calls timed one by one behind a barrier, in microseconds, each the largest of all ranks.
  std::vector<double> samples;
  Summary per_call;
  // During the run of calls, of one rank: the mean of all.
  Cost cost;
};

// One line of the table.
struct Row {
  Case measured;
  size_t bytes = 0;
  Half out_of_place;
  Half in_place;
};

// The end of the table.
struct Totals {
  int64_t wrong = 0;
  double bus_bandwidth = 0;  // GB/s, mean of both halves of all rows

  bool BandwidthOkay(const Options& options) const {
    // nccl-tests' tolerance.
    return bus_bandwidth >= 0.9 * options.min_bandwidth;
  }
};

// Runs the sweep; all ranks call it with the same options. `print` gets each row on every rank as
// soon as it is known. ResourceExhausted when there is no memory for the largest size; the
// communicator's errors.
absl::StatusOr<Totals> RunSweep(Communicator& communicator, const CollectiveInfo& collective,
                                const Options& options,
                                const std::function<void(const Row&)>& print);

}  // namespace gradwire::bench
