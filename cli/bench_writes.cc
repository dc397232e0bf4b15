// gradwire bench write_bw, write_lat, msg_rate: what a link between two ranks gives, below any
// collective.
#include <functional>
#include <memory>
#include <string>

#include "bench/point_to_point.h"
#include "cli/bench_common.h"
#include "cli/usage.h"
#include "transport/transport.h"

namespace gradwire::cli {
namespace {

using Json = nlohmann::ordered_json;

struct WritesRequest {
  bench::Options options;
  bool both_ways = false;
  Settings settings;
};

// Measures every size, prints the table and fills json["results"]; returns the wrong bytes.
using MeasureWrites = std::function<absl::StatusOr<int64_t>(
    World&, Transport&, const WritesRequest&, const std::function<void(std::string)>& print,
    Json& results)>;

Json WithCost(Json row, const bench::Cost& cost, int64_t wrong) {
  row.update(bench::ToJson(cost));
  row["wrong"] = wrong;
  return row;
}

Json ToJson(const bench::StreamRow& row) {
  return WithCost({{"size", row.bytes},
                   {"bandwidth_gbps", row.bandwidth.p50},
                   {"bandwidth_min_gbps", row.bandwidth.min},
                   {"bandwidth_max_gbps", row.bandwidth.max},
                   {"messages_per_second", row.messages.p50},
                   {"messages_min_per_second", row.messages.min},
                   {"messages_max_per_second", row.messages.max},
                   {"doorbells_per_call", row.doorbells}},
                  row.cost, row.wrong);
}

Json ToJson(const bench::LatencyRow& row) {
  Json json = {{"size", row.bytes}};
  json.update(bench::ToJson(row.half_us));
  return WithCost(std::move(json), row.cost, row.wrong);
}

// Streams, printed by `header` and `format`.
template <typename Header, typename Format>
MeasureWrites Streams(Header header, Format format) {
  return [header, format](World& world, Transport& transport, const WritesRequest& request,
                          const std::function<void(std::string)>& print,
                          Json& results) -> absl::StatusOr<int64_t> {
    print(header(transport.description(), request.settings, request.options, request.both_ways));
    int64_t wrong = 0;
    GW_RETURN_IF_ERROR(bench::MeasureStreams(world, transport, request.settings, request.options,
                                             request.both_ways, [&](const bench::StreamRow& row) {
                                               print(format(row));
                                               results.push_back(ToJson(row));
                                               wrong += row.wrong;
                                             }));
    return wrong;
  };
}

absl::StatusOr<int64_t> RoundTrips(World& world, Transport& transport, const WritesRequest& request,
                                   const std::function<void(std::string)>& print, Json& results) {
  print(bench::LatencyHeader(transport.description(), request.settings, request.options));
  int64_t wrong = 0;
  GW_RETURN_IF_ERROR(bench::MeasureLatency(world, transport, request.settings, request.options,
                                           [&](const bench::LatencyRow& row) {
                                             print(bench::FormatRow(row));
                                             results.push_back(ToJson(row));
                                             wrong += row.wrong;
                                           }));
  return wrong;
}

absl::StatusOr<int64_t> RunOn(World& world, const WritesRequest& request, const std::string& name,
                              const MeasureWrites& measure, Json& json) {
  GW_ASSIGN_OR_RETURN(const auto transport, CreateTransport(world, request.settings, name));
  GW_ASSIGN_OR_RETURN(
      json, DescribeThisRun(world, request.settings, transport->name(), transport->description()));
  json["transport"] = transport->name();
  json["device"] = transport->description();
  json["bidirectional"] = request.both_ways;
  json["warmup_iters"] = request.options.warmups;
  json["iterations"] = request.options.iterations;
  json["runs"] = request.options.cycles;
  Json results = Json::array();
  const auto print = [&world](const std::string& text) {
    if (world.rank() == 0) PrintNow(text);
  };
  GW_ASSIGN_OR_RETURN(const int64_t wrong, measure(world, *transport, request, print, results));
  print(fmt::format("# Out of bounds values : {} {}\n", wrong, wrong == 0 ? "OK" : "FAILED"));
  json["results"] = std::move(results);
  const TransportCounters counters = transport->counters();
  json["counters"] = {
      {"writes", counters.writes},         {"credit_messages", counters.credit_messages},
      {"doorbells", counters.doorbells},   {"send_completions", counters.send_completions},
      {"queue_full", counters.queue_full}, {"syscalls", counters.syscalls},
      {"blocks", counters.blocks}};
  return wrong;
}

void AddCommand(CLI::App& bench, Action& action, const std::string& name, const std::string& help,
                const bench::Options& defaults, bool streams, MeasureWrites measure) {
  CLI::App* command = bench.add_subcommand(name, help);
  auto request = std::make_shared<WritesRequest>();
  bench::Options& options = request->options;
  options = defaults;
  bench::AddSweepFlags(*command, options);
  if (streams) {
    command
        ->add_option("-N,--runs", options.cycles,
                     "runs per row, whose median, least and most are shown")
        ->check(Between(1, 10'000))
        ->capture_default_str();
    command->add_flag("--bidirectional", request->both_ways,
                      "both ranks write at once; what one direction carries counts");
  }
  AddJsonFlag(*command, options.report_file);
  AddSettings(*command, request->settings);
  command->footer(
      fmt::format("Between two ranks: of a job, or started here. Credits bound what is under way\n"
                  "(--slots), a message larger than --slice-bytes travels in slices, and the\n"
                  "receiver compares every byte at the end of a row.\n\n"
                  "Examples:\n"
                  "  gradwire bench {0}                      two local ranks\n"
                  "  gradwire bench {0} --transport tcp      the same over TCP\n"
                  "  gradwire launch --nnodes 2 --node-rank 0 --master-addr 10.0.0.1 -n 1 -- \\\n"
                  "    gradwire bench {0} -J {0}.json\n",
                  name));
  command->callback([&action, request, name, measure = std::move(measure)] {
    action = [request, name, measure] {
      if (const auto sizes = bench::SizesOf(request->options); !sizes.ok()) {
        return ReportError(sizes.status());
      }
      if (!request->settings.telemetry.empty()) {
        return ReportError(InvalidArgument(
            "--telemetry records collectives, and {} has none; leave it out", name));
      }
      const int64_t ranks = request->options.ranks == 0 ? 2 : request->options.ranks;
      // Before ranks are started, of which the first to notice would end the others.
      if (ranks != 2) {
        return ReportError(
            InvalidArgument("--ranks {}: a link is measured between two ranks", ranks));
      }
      return RunAsRank(
          request->settings, static_cast<int>(ranks), request->options.report_file,
          [&](World& world, Json& json) { return RunOn(world, *request, name, measure, json); });
    };
  });
}

}  // namespace

void AddLinkBenches(CLI::App& bench, Action& action) {
  bench::Options options;
  options.min_bytes = 4 << 10;
  options.max_bytes = 4 << 20;
  options.step_factor = 4;
  options.cycles = 5;
  AddCommand(bench, action, "write_bw", "bandwidth of writes from one rank to another", options,
             /*streams=*/true, Streams(bench::BandwidthHeader, bench::BandwidthRow));
  options.min_bytes = 1;
  options.max_bytes = 4 << 10;
  options.iterations = 20'000;
  options.warmups = 1000;
  AddCommand(bench, action, "msg_rate", "small messages a second from one rank to another", options,
             /*streams=*/true, Streams(bench::RateHeader, bench::RateRow));
  options.max_bytes = 64 << 10;
  options.iterations = 1000;
  options.warmups = 100;
  options.cycles = 1;
  AddCommand(bench, action, "write_lat", "latency of a write from one rank to another", options,
             /*streams=*/false, RoundTrips);
}

}  // namespace gradwire::cli
