// What a link between two ranks gives, below any collective: bandwidth, message rate and latency of
// writes. The same transport, slices, credits and settings as collectives use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "bench/options.h"
#include "bench/resources.h"
#include "bench/statistics.h"
#include "transport/bootstrap/world.h"
#include "transport/settings.h"
#include "transport/status.h"
#include "transport/transport.h"

namespace gradwire::bench {

// One size of a stream. Each sample is a run of `iterations` messages, from the first post until
// the receiver says that it has everything.
struct StreamRow {
  size_t bytes = 0;      // of a message, cut into slices of at most --slice-bytes
  Summary bandwidth;     // GB/s in one direction, over the runs
  Summary messages;      // per second in one direction, over the runs
  Cost cost;             // of both ranks together; a call is a message
  double doorbells = 0;  // per message, of both ranks together; RDMA only
  int64_t wrong = 0;     // bytes that were not as sent, after the last run
};

// One size of a ping-pong of writes.
struct LatencyRow {
  size_t bytes = 0;
  Summary half_us;    // half a round trip, microseconds
  Cost cost;          // of both ranks together; a call is a message, two to a round trip
  int64_t wrong = 0;  // bytes, on both ranks, after the last round trip
};

// Both ranks of a world of two call these; `print` gets each row on both. InvalidArgument for other
// worlds. Sizes, iterations and warmups are those of `options`.

// Rank 0 writes into rank 1's memory, or both into each other's at once; `options.cycles` runs.
absl::Status MeasureStreams(World& world, Transport& transport, const Settings& settings,
                            const Options& options, bool both_ways,
                            const std::function<void(const StreamRow&)>& print);
// Rank 0 writes one message, rank 1 answers it with one of the same size.
absl::Status MeasureLatency(World& world, Transport& transport, const Settings& settings,
                            const Options& options,
                            const std::function<void(const LatencyRow&)>& print);

// The tables' comments and rows, within 80 columns but for the device.
std::string BandwidthHeader(const std::string& description, const Settings& settings,
                            const Options& options, bool both_ways);
std::string BandwidthRow(const StreamRow& row);
std::string RateHeader(const std::string& description, const Settings& settings,
                       const Options& options, bool both_ways);
std::string RateRow(const StreamRow& row);
std::string LatencyHeader(const std::string& description, const Settings& settings,
                          const Options& options);
std::string FormatRow(const LatencyRow& row);

}  // namespace gradwire::bench
