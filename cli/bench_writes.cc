// gradwire bench write_bw: what a link between two ranks gives, below any collective.
#include <csignal>
#include <cstdio>
#include <string>

#include "bench/point_to_point.h"
#include "cli/command.h"
#include "cli/report.h"
#include "transport/transport.h"

namespace gradwire::cli {
namespace {

struct Request {
  bench::Options options;
  bool both_ways = false;
  Settings settings;
};

absl::Status Measure(World& world, const Request& request, nlohmann::ordered_json& json) {
  GW_ASSIGN_OR_RETURN(const auto transport, CreateTransport(world, request.settings, "write_bw"));
  const bool speaks = world.rank() == 0;
  const auto print = [speaks](const std::string& text) {
    if (!speaks) return;
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  };
  print(bench::WriteHeader(transport->description(), request.settings, request.options,
                           request.both_ways));
  json = {{"transport", transport->name()},     {"device", transport->description()},
          {"bidirectional", request.both_ways}, {"iterations", request.options.iterations},
          {"runs", request.options.cycles},     {"results", nlohmann::ordered_json::array()}};
  int64_t wrong = 0;
  GW_RETURN_IF_ERROR(bench::MeasureWrites(world, *transport, request.settings, request.options,
                                          request.both_ways, [&](const bench::WriteRow& row) {
                                            print(bench::FormatRow(row));
                                            wrong += row.wrong;
                                            json["results"].push_back(
                                                {{"size", row.bytes},
                                                 {"bandwidth_gbps", row.bandwidth.p50},
                                                 {"bandwidth_min_gbps", row.bandwidth.min},
                                                 {"bandwidth_max_gbps", row.bandwidth.max},
                                                 {"messages_per_second", row.messages_per_second},
                                                 {"cpu_seconds_per_gb", row.cpu_seconds_per_gb},
                                                 {"wrong", row.wrong}});
                                          }));
  const TransportCounters counters = transport->counters();
  json["counters"] = {
      {"writes", counters.writes},         {"credit_messages", counters.credit_messages},
      {"doorbells", counters.doorbells},   {"send_completions", counters.send_completions},
      {"queue_full", counters.queue_full}, {"syscalls", counters.syscalls},
      {"blocks", counters.blocks}};
  if (wrong > 0) return MakeError(absl::StatusCode::kDataLoss, "{} bytes arrived wrong", wrong);
  return absl::OkStatus();
}

int Run(const Request& request) {
  const absl::StatusOr<LaunchPlace> place =
      FindLaunchPlace(ProcessEnvironment(), request.settings, /*allow_single=*/true);
  if (!place.ok()) return ReportError(place.status());
  if (const auto sizes = bench::SizesOf(request.options); !sizes.ok()) {
    return ReportError(sizes.status());
  }
  if (place->family == "single") {
    return RunCommandLocally(request.options.ranks == 0 ? 2
                                                        : static_cast<int>(request.options.ranks));
  }
  SetUpLogging(request.settings.log_level, place->rank);
  std::signal(SIGPIPE, SIG_IGN);
  const auto world = JoinWorld(*place, request.settings);
  if (!world.ok()) return ReportError(world.status(), place->rank);
  nlohmann::ordered_json json;
  absl::Status status = Measure(**world, request, json);
  if (status.ok() && place->rank == 0 && !request.options.report_file.empty()) {
    status = WriteJson(json, request.options.report_file);
  }
  const absl::Status left = (*world)->Leave(Message(status));
  if (!status.ok()) return ReportError(status, place->rank);
  return left.ok() ? kDone : ReportError(left, place->rank);
}

}  // namespace

void AddWriteBandwidth(CLI::App& bench, Action& action) {
  CLI::App* command =
      bench.add_subcommand("write_bw", "bandwidth of writes from one rank to another");
  auto request = std::make_shared<Request>();
  request->options.min_bytes = 4 << 10;
  request->options.max_bytes = 4 << 20;
  request->options.step_factor = 4;
  request->options.cycles = 5;
  bench::AddSweepFlags(*command, request->options);
  command
      ->add_option("-N,--runs", request->options.cycles,
                   "runs per row, whose median, least and most are shown")
      ->check(CLI::Range(1, 10'000))
      ->capture_default_str();
  command
      ->add_option("-J,--json", request->options.report_file,
                   "writes the numbers as JSON to FILE too, - for stdout")
      ->type_name("FILE");
  command->add_flag("--bidirectional", request->both_ways,
                    "both ranks write at once; the bandwidth is that of one direction");
  AddSettings(*command, request->settings);
  command->callback([&action, request] { action = [request] { return Run(*request); }; });
}

}  // namespace gradwire::cli
