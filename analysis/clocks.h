// One clock for all ranks.
//
// Ranks of one host share the monotonic clock. Between hosts two things bound the difference: what
// heartbeats told of the rendezvous' clock, and the writes themselves, none of which arrived before
// it was posted. All bounds together are a system of difference constraints, whose closure (Floyd
// and Warshall) gives each host's clock an interval; its middle is taken and its half is the error.
#pragma once

#include <string>
#include <vector>

#include "transport/telemetry/recording.h"

namespace gradwire::analysis {

struct Alignment {
  int64_t offset_ns = 0;  // added to the rank's times to get those of the first rank in the list
  int64_t error_ns = 0;   // the offset is right within this; -1: nothing bounds it
};

// One per recording. Adds to `problems` what cannot be aligned or contradicts itself.
std::vector<Alignment> AlignClocks(const std::vector<telemetry::Recording>& ranks,
                                   std::vector<std::string>& problems);

}  // namespace gradwire::analysis
