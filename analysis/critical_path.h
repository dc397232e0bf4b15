// The chain of causes that ends with the last rank of an operation: back in time along a rank's own
// work; at a wait that a peer's write ended, over to the peer at the moment when it wrote.
#pragma once

#include <vector>

#include "analysis/attribution.h"

namespace gradwire::analysis {

// Covers the time from the first rank's begin to the last rank's end; empty unless every rank
// recorded the operation. What lies before `after_ns` is left out: there the operation before had
// not ended on every rank, and its own path tells why.
std::vector<PathStep> CriticalPath(const Trace& trace, const Attribution& attribution,
                                   const Operation& operation, int64_t after_ns);

}  // namespace gradwire::analysis
