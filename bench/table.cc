#include "bench/table.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace gradwire::bench {
namespace {

constexpr int kTimeWidth = 7;
constexpr int kNumberWidth = 6;

std::string HalfColumns(const Half& half) {
  const std::string wrong =
      half.wrong ? fmt::format("{:g}", static_cast<double>(*half.wrong)) : "N/A";
  return fmt::format("  {:>7}  {:>6}  {:>6}  {:>6}", FormatNumber(half.time_us, kTimeWidth),
                     FormatNumber(half.algorithm_bandwidth, kNumberWidth),
                     FormatNumber(half.bus_bandwidth, kNumberWidth), wrong);
}

constexpr std::string_view kNarrowNames =
    "#       size     type     time   algbw   busbw  #wrong     p50     p99    cpu\n"
    "#        (B)              (us)  (GB/s)  (GB/s)            (us)    (us) (s/GB)\n";

std::string NarrowRow(const Row& row) {
  const Half& half = row.in_place;
  return fmt::format("{:12} {:>8}{} {:>7} {:>7} {:>6}\n", row.bytes, NameOf(row.measured.type),
                     HalfColumns(half), FormatNumber(half.per_call.p50, kTimeWidth),
                     FormatNumber(half.per_call.p99, kTimeWidth),
                     FormatNumber(half.cost.cpu_seconds_per_gb(), kNumberWidth));
}

}  // namespace

std::string FormatNumber(double value, int width) {
  for (int decimals = 2; decimals >= 0; --decimals) {
    std::string text = fmt::format("{:.{}f}", value, decimals);
    if (text.size() <= static_cast<size_t>(width)) return text;
  }
  return fmt::format("{:.{}e}", value, width >= 7 ? 1 : 0);
}

std::string FormatCopies(const Cost& cost, int width) {
  return cost.copies_per_byte ? FormatNumber(*cost.copies_per_byte, width) : "N/A";
}

std::string_view OpColumn(const Case& measured) {
  return measured.collective->reduces ? NameOf(measured.op) : "none";
}

int RootColumn(const Case& measured) { return measured.collective->rooted ? measured.root : -1; }

std::string TableHeader(const CollectiveInfo& collective, const Options& options,
                        const std::vector<RankLine>& ranks, bool narrow) {
  std::string text;
  for (const RankLine& line : ranks) {
    if (line.peer.rank == 0) text += fmt::format("# gradwire: {}\n", line.description);
  }
  text += fmt::format("# Collective test starting: {}\n", collective.program);
  int64_t smallest = options.min_bytes;
  int64_t largest = options.max_bytes;
  if (!options.sizes.empty()) {
    const auto [low, high] = std::minmax_element(options.sizes.begin(), options.sizes.end());
    smallest = *low;
    largest = *high;
  }
  const bool multiply = options.step_factor > 1;
  text += fmt::format(
      "# nThread 1 nGpus 1 minBytes {} maxBytes {} step: {}({}) warmup iters: {} iters: {} agg "
      "iters: 1 validation: {} graph: 0\n",
      smallest, largest, multiply ? options.step_factor : options.step_bytes,
      multiply ? "factor" : "bytes", options.warmups, options.iterations, options.checks);
  text += "#\n# Using devices\n";
  for (const RankLine& line : ranks) {
    text += fmt::format("#  Rank {:2} Group  0 Pid {:6} on {:>10} device {:2} [{}] {}\n",
                        line.peer.rank, line.peer.pid, line.peer.host, 0, line.transport,
                        line.description);
  }
  text += "#\n";
  if (narrow) {
    text +=
        fmt::format("# In-place calls; a pipe, --json and terminals of {} columns get everything\n",
                    kTableColumns);
    return text += kNarrowNames;
  }
  text +=
      fmt::format("# {:>10}  {:>12}  {:>8}  {:>6}  {:>6}  {:^31}  {:^31}  {:^25}  {:^25}  {:^43}\n",
                  "", "", "", "", "", "out-of-place", "in-place", "in-place, each call",
                  "in-place, CPU", "in-place, per call");
  const std::string names =
      fmt::format("  {:>7}  {:>6}  {:>6}  {:>6}", "time", "algbw", "busbw", "#wrong");
  const std::string units =
      fmt::format("  {:>7}  {:>6}  {:>6}  {:>6}", "(us)", "(GB/s)", "(GB/s)", "");
  // One line of the last eleven columns.
  const auto ours = [](const std::array<std::string, 11>& words) {
    std::string columns;
    for (const std::string& word : words) columns += fmt::format("  {:>7}", word);
    return columns + "\n";
  };
  text += fmt::format("# {:>10}  {:>12}  {:>8}  {:>6}  {:>6}{}{}{}", "size", "count", "type",
                      "redop", "root", names, names,
                      ours({"p50", "p95", "p99", "cpu", "user", "system", "vol", "invol", "sysc",
                            "blocks", "copies"}));
  text += fmt::format(
      "# {:>10}  {:>12}  {:>8}  {:>6}  {:>6}{}{}{}", "(B)", "(elements)", "", "", "", units, units,
      ours({"(us)", "(us)", "(us)", "(s/GB)", "(s/GB)", "(s/GB)", "", "", "", "", "(/B)"}));
  return text;
}

std::string TableRow(const Row& row, bool narrow) {
  if (narrow) return NarrowRow(row);
  const Summary& calls = row.in_place.per_call;
  const Cost& cost = row.in_place.cost;
  std::string text =
      fmt::format("{:12}  {:12}  {:>8}  {:>6}  {:6}{}{}", row.bytes, row.measured.count,
                  NameOf(row.measured.type), OpColumn(row.measured), RootColumn(row.measured),
                  HalfColumns(row.out_of_place), HalfColumns(row.in_place));
  for (const double value :
       {calls.p50, calls.p95, calls.p99, cost.cpu_seconds_per_gb(), cost.user_seconds_per_gb,
        cost.system_seconds_per_gb, cost.voluntary_switches, cost.involuntary_switches,
        cost.syscalls, cost.blocks}) {
    text += fmt::format("  {:>7}", FormatNumber(value, kTimeWidth));
  }
  return text + fmt::format("  {:>7}\n", FormatCopies(cost, kTimeWidth));
}

std::string TableFooter(const CollectiveInfo& collective, const Options& options,
                        const Totals& totals) {
  std::string_view verdict;
  if (options.min_bandwidth >= 0) verdict = totals.BandwidthOkay(options) ? "OK" : "FAILED";
  std::string text = fmt::format("# {:<20} : {} {}\n", "Out of bounds values", totals.wrong,
                                 totals.wrong == 0 ? "OK" : "FAILED");
  text += fmt::format("# {:<20} : {:g} {}\n", "Avg bus bandwidth", totals.bus_bandwidth, verdict);
  text += fmt::format("#\n# Collective test concluded: {}\n#\n", collective.program);
  return text;
}

}  // namespace gradwire::bench
