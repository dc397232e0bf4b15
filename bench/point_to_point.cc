#include "bench/point_to_point.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

#include "bench/table.h"
#include "bench/write_end.h"

namespace gradwire::bench {
namespace {

// What a rank tells the other about a row.
struct Told {
  ResourceUse used;
  double doorbells = 0;
  double wrong = 0;
};
static_assert(std::is_trivially_copyable_v<Told>);

Told UsedSince(const Told& before, const Transport& transport) {
  const TransportCounters counters = transport.counters();
  const uint64_t copied = counters.bytes_copied + transport.device_counters().bytes_copied;
  return {CurrentUse(counters, copied) - before.used,
          static_cast<double>(counters.doorbells) - before.doorbells};
}

// What both ranks found out about one row.
struct Both {
  Told sum;
  std::vector<double> numbers[2];  // by rank
};

absl::StatusOr<Both> Exchange(World& world, const std::string& name, const Told& mine,
                              const std::vector<double>& numbers,
                              std::chrono::milliseconds timeout) {
  std::string value(reinterpret_cast<const char*>(&mine), sizeof(mine));
  value.append(reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(double));
  GW_ASSIGN_OR_RETURN(const auto all, world.AllGather(name, value, {}, timeout));
  Both both;
  for (size_t rank = 0; rank < 2; ++rank) {
    if (all[rank].size() != value.size()) {
      return ProtocolError("{} sent {} bytes of results instead of {}",
                           world.peer(static_cast<int>(rank)).Describe(), all[rank].size(),
                           value.size());
    }
    Told told;
    std::memcpy(&told, all[rank].data(), sizeof(told));
    both.sum.used += told.used;
    both.sum.doorbells += told.doorbells;
    both.sum.wrong += told.wrong;
    both.numbers[rank].resize(numbers.size());
    std::memcpy(both.numbers[rank].data(), all[rank].data() + sizeof(told),
                numbers.size() * sizeof(double));
  }
  return both;
}

// The sizes to measure in a world that can be measured.
absl::StatusOr<std::vector<int64_t>> CheckedSizes(const World& world, const Options& options) {
  if (world.size() != 2) {
    return InvalidArgument("a link is measured between two ranks, this world has {}", world.size());
  }
  return SizesOf(options);
}

}  // namespace

absl::Status MeasureStreams(World& world, Transport& transport, const Settings& settings,
                            const Options& options, bool both_ways,
                            const std::function<void(const StreamRow&)>& print) {
  GW_ASSIGN_OR_RETURN(const std::vector<int64_t> sizes, CheckedSizes(world, options));
  WriteEnd end(transport, settings, both_ways || world.rank() == 0, both_ways || world.rank() == 1);
  GW_RETURN_IF_ERROR(
      end.Open(1 - world.rank(), static_cast<size_t>(*std::ranges::max_element(sizes))));
  for (size_t i = 0; i < sizes.size(); ++i) {
    StreamRow row{.bytes = static_cast<size_t>(sizes[i])};
    end.Fill(row.bytes);
    if (options.warmups > 0) GW_RETURN_IF_ERROR(end.Stream(row.bytes, options.warmups).status());
    const Told before = UsedSince({}, transport);
    std::vector<double> seconds(static_cast<size_t>(options.cycles));
    for (double& run : seconds) {
      GW_ASSIGN_OR_RETURN(run, end.Stream(row.bytes, options.iterations));
    }
    Told mine = UsedSince(before, transport);
    mine.wrong = static_cast<double>(end.CountWrong(row.bytes));
    GW_ASSIGN_OR_RETURN(const Both both, Exchange(world, fmt::format("stream/{}", i), mine, seconds,
                                                  settings.op_timeout));

    const auto messages = static_cast<double>(options.iterations);
    const double gigabytes = static_cast<double>(row.bytes) * messages / 1e9;
    std::vector<double> bandwidths, rates;
    for (size_t run = 0; run < seconds.size(); ++run) {
      // Only the writer's clock spans posting and the last notice; both ways, the slower rank's
      // does.
      const double slowest =
          both_ways ? std::max(both.numbers[0][run], both.numbers[1][run]) : both.numbers[0][run];
      bandwidths.push_back(gigabytes / slowest);
      rates.push_back(messages / slowest);
    }
    const double runs = static_cast<double>(options.cycles) * (both_ways ? 2 : 1);
    row.bandwidth = Summarize(bandwidths);
    row.messages = Summarize(rates);
    row.cost = CostOf(both.sum.used, gigabytes * runs, messages * runs, gigabytes * 1e9 * runs);
    row.doorbells = both.sum.doorbells / (messages * runs);
    row.wrong = static_cast<int64_t>(both.sum.wrong);
    print(row);
  }
  return absl::OkStatus();
}

absl::Status MeasureLatency(World& world, Transport& transport, const Settings& settings,
                            const Options& options,
                            const std::function<void(const LatencyRow&)>& print) {
  GW_ASSIGN_OR_RETURN(const std::vector<int64_t> sizes, CheckedSizes(world, options));
  const bool begins = world.rank() == 0;
  WriteEnd end(transport, settings, true, true);
  GW_RETURN_IF_ERROR(
      end.Open(1 - world.rank(), static_cast<size_t>(*std::ranges::max_element(sizes))));
  std::vector<double> warmups(static_cast<size_t>(options.warmups));
  std::vector<double> times(static_cast<size_t>(options.iterations));
  for (size_t i = 0; i < sizes.size(); ++i) {
    LatencyRow row{.bytes = static_cast<size_t>(sizes[i])};
    end.Fill(row.bytes);
    GW_RETURN_IF_ERROR(end.PingPong(row.bytes, begins, warmups));
    const Told before = UsedSince({}, transport);
    GW_RETURN_IF_ERROR(end.PingPong(row.bytes, begins, times));
    Told mine = UsedSince(before, transport);
    mine.wrong = static_cast<double>(end.CountWrong(row.bytes));

    std::vector<double> halves = times;
    for (double& half : halves) half *= 0.5e6;
    const Summary summary = Summarize(std::move(halves));
    static_assert(std::is_trivially_copyable_v<Summary>);
    std::vector<double> numbers(sizeof(summary) / sizeof(double));
    std::memcpy(numbers.data(), &summary, sizeof(summary));
    GW_ASSIGN_OR_RETURN(const Both both, Exchange(world, fmt::format("latency/{}", i), mine,
                                                  numbers, settings.op_timeout));

    // The end that began timed whole round trips; the other's begin with its wait.
    std::memcpy(static_cast<void*>(&row.half_us), both.numbers[0].data(), sizeof(row.half_us));
    const double messages = 2 * static_cast<double>(options.iterations);
    const double moved = static_cast<double>(row.bytes) * messages;
    row.cost = CostOf(both.sum.used, moved / 1e9, messages, moved);
    row.wrong = static_cast<int64_t>(both.sum.wrong);
    print(row);
  }
  return absl::OkStatus();
}

namespace {

std::string HeaderStart(const std::string& description, std::string_view what,
                        const Settings& settings) {
  std::string text = fmt::format("# gradwire: {}\n# {}\n", description, what);
  return text + fmt::format("# slices of {} bytes, {} slots, {} lane{}; ", settings.slice_bytes,
                            settings.slots, settings.lanes, settings.lanes == 1 ? "" : "s");
}

std::string_view Direction(bool both_ways) {
  return both_ways ? "both ranks write at once, one direction counts" : "rank 0 writes into rank 1";
}

}  // namespace

std::string BandwidthHeader(const std::string& description, const Settings& settings,
                            const Options& options, bool both_ways) {
  std::string text =
      HeaderStart(description, fmt::format("write_bw: {}", Direction(both_ways)), settings);
  text += fmt::format("{} runs of {} messages\n", options.cycles, options.iterations);
  text += fmt::format("# {:>10}  {:>8}  {:>8}  {:>8}  {:>10}  {:>8}  {:>6}  {:>6}\n", "size",
                      "median", "min", "max", "messages", "cpu", "copies", "#wrong");
  text += fmt::format("# {:>10}  {:>8}  {:>8}  {:>8}  {:>10}  {:>8}  {:>6}  {:>6}\n", "(B)",
                      "(GB/s)", "(GB/s)", "(GB/s)", "(1/s)", "(s/GB)", "(/B)", "(B)");
  return text;
}

std::string BandwidthRow(const StreamRow& row) {
  return fmt::format(
      "{:12}  {:8.4f}  {:8.4f}  {:8.4f}  {:>10}  {:>8}  {:>6}  {:6}\n", row.bytes,
      row.bandwidth.p50, row.bandwidth.min, row.bandwidth.max, FormatNumber(row.messages.p50, 10),
      FormatNumber(row.cost.cpu_seconds_per_gb(), 8), FormatCopies(row.cost, 6), row.wrong);
}

std::string RateHeader(const std::string& description, const Settings& settings,
                       const Options& options, bool both_ways) {
  std::string text =
      HeaderStart(description, fmt::format("msg_rate: {}", Direction(both_ways)), settings);
  text += fmt::format("{} runs of {} messages\n", options.cycles, options.iterations);
  text += "# doorbells, system calls and blocking waits: per message, both ranks together\n";
  text += fmt::format("# {:>10}  {:>7}  {:>7}  {:>7}  {:>6}  {:>6}  {:>6}  {:>6}  {:>6}\n", "size",
                      "median", "min", "max", "bw", "bells", "sysc", "blocks", "#wrong");
  text += fmt::format("# {:>10}  {:>7}  {:>7}  {:>7}  {:>6}  {:>6}  {:>6}  {:>6}  {:>6}\n", "(B)",
                      "(M/s)", "(M/s)", "(M/s)", "(GB/s)", "", "", "", "(B)");
  return text;
}

std::string RateRow(const StreamRow& row) {
  return fmt::format("{:12}  {:7.4f}  {:7.4f}  {:7.4f}  {:>6}  {:>6}  {:>6}  {:>6}  {:6}\n",
                     row.bytes, row.messages.p50 / 1e6, row.messages.min / 1e6,
                     row.messages.max / 1e6, FormatNumber(row.bandwidth.p50, 6),
                     FormatNumber(row.doorbells, 6), FormatNumber(row.cost.syscalls, 6),
                     FormatNumber(row.cost.blocks, 6), row.wrong);
}

std::string LatencyHeader(const std::string& description, const Settings& settings,
                          const Options& options) {
  std::string text =
      HeaderStart(description, "write_lat: ping-pong of writes, half the round trip", settings);
  text += fmt::format("{} round trips\n", options.iterations);
  text += "# system calls and blocking waits: per message, both ranks together\n";
  text += fmt::format("# {:>8}  {:>7}  {:>7}  {:>7}  {:>7}  {:>7}  {:>6}  {:>6}  {:>6}\n", "size",
                      "min", "p50", "p95", "p99", "max", "sysc", "blocks", "#wrong");
  text += fmt::format("# {:>8}  {:>7}  {:>7}  {:>7}  {:>7}  {:>7}  {:>6}  {:>6}  {:>6}\n", "(B)",
                      "(us)", "(us)", "(us)", "(us)", "(us)", "", "", "(B)");
  return text;
}

std::string FormatRow(const LatencyRow& row) {
  const auto time = [](double us) { return FormatNumber(us, 7); };
  return fmt::format("{:10}  {:>7}  {:>7}  {:>7}  {:>7}  {:>7}  {:>6}  {:>6}  {:6}\n", row.bytes,
                     time(row.half_us.min), time(row.half_us.p50), time(row.half_us.p95),
                     time(row.half_us.p99), time(row.half_us.max),
                     FormatNumber(row.cost.syscalls, 6), FormatNumber(row.cost.blocks, 6),
                     row.wrong);
}

}  // namespace gradwire::bench
