// What a measurement costs the machine.
#pragma once

#include <cstdint>
#include <optional>

#include "collectives/communicator.h"
#include "transport/transport.h"

namespace gradwire::bench {

// What this process, all threads, has used so far, and what one transport of it has counted. All
// are doubles, so that ranks can send and add them as they are.
struct ResourceUse {
  double user_seconds = 0;
  double system_seconds = 0;
  double voluntary_switches = 0;
  double involuntary_switches = 0;
  // Of the transport: its system calls on the data path, and waits that gave up the processor.
  double syscalls = 0;
  double blocks = 0;
  double bytes_copied = 0;  // CommunicatorStats

  ResourceUse& operator+=(const ResourceUse& other);
};
ResourceUse CurrentUse(const TransportCounters& counters = {}, uint64_t bytes_copied = 0);
ResourceUse CurrentUse(const CommunicatorStats& stats);
ResourceUse operator-(const ResourceUse& later, const ResourceUse& earlier);

// The same as rates that compare.
struct Cost {
  double user_seconds_per_gb = 0;
  double system_seconds_per_gb = 0;
  double voluntary_switches = 0;  // these four per call
  double involuntary_switches = 0;
  double syscalls = 0;
  double blocks = 0;
  // Bytes copied by processors per byte that had to move; none: nobody counted any.
  std::optional<double> copies_per_byte;

  double cpu_seconds_per_gb() const { return user_seconds_per_gb + system_seconds_per_gb; }
};
// Rates over nothing are 0. `moved`: bytes that had to move from rank to rank, 0: not known.
Cost CostOf(const ResourceUse& total, double gigabytes, double calls, double moved = 0);

}  // namespace gradwire::bench
