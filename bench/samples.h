// The sampling method on communicators of ours: alone, and two of them by turns.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "bench/collective.h"
#include "bench/options.h"
#include "bench/sampling.h"
#include "collectives/communicator.h"
#include "transport/status.h"

namespace gradwire::bench {

// Measures all-reduce by the method that `gradwire bench peers` uses for every library. Returns the
// number of wrong elements.
absl::StatusOr<int64_t> RunSamples(Communicator& communicator, const Options& options,
                                   const std::function<void(const SampledRow&)>& print);

// One way to do the same.
struct Variant {
  std::string label;  // the column peer
  Communicator* communicator = nullptr;
  bool registered = false;  // memory from the communicator's allocator
};

// Each round takes every size, and for each size every variant once, the first of them in turn; all
// ranks call it, with communicators over the same ranks. So what disturbs the machine for a while
// disturbs all variants. `after_round` is told the number of rounds done, from 1.
absl::StatusOr<std::vector<SampledRow>> RunByTurns(const std::vector<Variant>& variants,
                                                   const CollectiveInfo& collective,
                                                   const SamplingOptions& options, int64_t rounds,
                                                   const std::function<void(int64_t)>& after_round);

}  // namespace gradwire::bench
