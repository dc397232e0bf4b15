// The table of `gradwire bench ps`.
#include <fmt/format.h>

#include "bench/ps.h"
#include "bench/table.h"

namespace gradwire::bench {

std::string PsHeader(const PsBench& bench, const PsOptions& options) {
  return PsHeader(options, bench.workers(), bench.push_pull_description(),
                  bench.all_reduce_description());
}

std::string PsHeader(const PsOptions& options, int workers, const std::string& push_pull,
                     const std::string& all_reduce) {
  const int servers = options.servers;
  std::string text = fmt::format("# push-pull: {}\n", push_pull);
  text += fmt::format("# all-reduce: {}\n", all_reduce);
  text += fmt::format(
      "# W = {} worker{}, S = {} server{} of {} thread{}, slices of {} bytes, window {}; {} calls "
      "of either by turns\n",
      workers, workers == 1 ? "" : "s", servers, servers == 1 ? "" : "s", options.server.threads,
      options.server.threads == 1 ? "" : "s", options.server.slice_bytes, options.server.window,
      options.sweep.iterations);
  text += fmt::format(
      "# traffic per step of a model of B bytes: in and out of each server W/S B = {:.3g} B each "
      "way; ring all-reduce in and out of each worker 2 (W-1)/W B = {:.3g} B each way\n",
      static_cast<double>(workers) / servers, 2.0 * (workers - 1) / workers);
  text +=
      "# time: of the slowest worker; algbw: B / median; copy: memcpy of B bytes by one core of "
      "worker 0 while the others wait, same run; share: push-pull's algbw / copy\n";
  text += "# ratio: push-pull's median / all-reduce's; cpu: of all ranks, per GB of the model\n";
  text += fmt::format("# {:>10}  {:>12}  {:>8}  {:>7}  {:>5}  {:^63}  {:^36}  {:>6}  {:>6}\n", "",
                      "", "", "", "", "push-pull", "all-reduce", "", "");
  text += fmt::format(
      "# {:>10}  {:>12}  {:>8}  {:>7}  {:>5}  {:>8}  {:>8}  {:>8}  {:>6}  {:>6}  {:>8}  {:>7}  "
      "{:>8}  {:>8}  {:>6}  {:>8}  {:>6}  {:>6}\n",
      "size", "count", "type", "servers", "cons.", "p50", "p95", "p99", "algbw", "share", "cpu",
      "#wrong", "p50", "p99", "algbw", "cpu", "ratio", "copy");
  text += fmt::format(
      "# {:>10}  {:>12}  {:>8}  {:>7}  {:>5}  {:>8}  {:>8}  {:>8}  {:>6}  {:>6}  {:>8}  {:>7}  "
      "{:>8}  {:>8}  {:>6}  {:>8}  {:>6}  {:>6}\n",
      "(B)", "(elements)", "", "", "", "(us)", "(us)", "(us)", "(GB/s)", "(%)", "(s/GB)", "",
      "(us)", "(us)", "(GB/s)", "(s/GB)", "", "(GB/s)");
  return text;
}

std::string PsTableRow(const PsRow& row, const PsOptions& options) {
  const auto time = [](double us) { return FormatNumber(us, 8); };
  const auto rate = [](double value) { return FormatNumber(value, 6); };
  const auto ratio = [](double a, double b) { return b > 0 ? a / b : 0; };
  const Summary& push_pull = row.push_pull.time_us;
  const Summary& all_reduce = row.all_reduce.time_us;
  const double bandwidth = row.push_pull.algorithm_bandwidth(row.bytes);
  return fmt::format(
      "{:12}  {:12}  {:>8}  {:7}  {:>5}  {:>8}  {:>8}  {:>8}  {:>6}  {:>6}  {:>8}  {:>7}  "
      "{:>8}  {:>8}  {:>6}  {:>8}  {:>6}  {:>6}\n",
      row.bytes, row.count, NameOf(DataType::kFloat32), options.servers,
      NameOf(options.server.shard.consistency), time(push_pull.p50), time(push_pull.p95),
      time(push_pull.p99), rate(bandwidth), rate(100 * ratio(bandwidth, row.copy_bandwidth())),
      time(row.push_pull.cost.cpu_seconds_per_gb()), row.wrong ? std::to_string(*row.wrong) : "N/A",
      time(all_reduce.p50), time(all_reduce.p99),
      rate(row.all_reduce.algorithm_bandwidth(row.bytes)),
      time(row.all_reduce.cost.cpu_seconds_per_gb()), rate(ratio(push_pull.p50, all_reduce.p50)),
      rate(row.copy_bandwidth()));
}

std::string PsFooter(int64_t wrong, bool checked) {
  return fmt::format("# Out of bounds values : {}\n#\n# Parameter server test concluded\n#\n",
                     !checked ? "N/A" : fmt::format("{} {}", wrong, wrong == 0 ? "OK" : "FAILED"));
}

}  // namespace gradwire::bench
