// Bandwidth of writes between two ranks, below any collective: what a link gives. The same
// transport, slices, credits and settings as collectives use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "bench/options.h"
#include "bench/statistics.h"
#include "transport/bootstrap/world.h"
#include "transport/settings.h"
#include "transport/status.h"
#include "transport/transport.h"

namespace gradwire::bench {

// One size. Each sample is a run of `iterations` messages, from the first post until the receiver
// says that it has everything.
struct WriteRow {
  size_t bytes = 0;                // of a message, cut into slices of at most --slice-bytes
  Summary bandwidth;               // GB/s in one direction, over the runs
  double messages_per_second = 0;  // median, one direction
  double cpu_seconds_per_gb = 0;   // of both ranks together, user and system
  int64_t wrong = 0;               // bytes that were not as sent, after the last run
};

// Rank 0 writes into rank 1's memory, or both into each other's at once. Both ranks of a world of
// two call it; `print` gets each row on both. InvalidArgument for other worlds. Sizes, iterations,
// warmups and cycles (runs per row) are those of `options`.
absl::Status MeasureWrites(World& world, Transport& transport, const Settings& settings,
                           const Options& options, bool both_ways,
                           const std::function<void(const WriteRow&)>& print);

// The table's comments and rows.
std::string WriteHeader(const std::string& description, const Settings& settings,
                        const Options& options, bool both_ways);
std::string FormatRow(const WriteRow& row);

}  // namespace gradwire::bench
