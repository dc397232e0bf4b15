// gradwire bench ps: push-pull through parameter servers beside all-reduce.
#include <cstdlib>
#include <string>

#include "bench/ps.h"
#include "cli/bench_common.h"
#include "cli/usage.h"

namespace gradwire::cli {
namespace {

struct PsRequest {
  bench::PsOptions options;
  std::string consistency = "bsp";
  Settings settings;
  const CLI::Option* slice_option = nullptr;

  absl::Status Complete();
};

absl::Status PsRequest::Complete() {
  GW_ASSIGN_OR_RETURN(options.server.shard.consistency, ps::ParseConsistency(consistency));
  if (options.server.shard.consistency == ps::Consistency::kSsp) {
    return InvalidArgument("--consistency ssp: this measures bsp or asp");
  }
  // A server's slices are smaller than those of a ring unless somebody says so.
  if (slice_option->count() > 0 || std::getenv("GRADWIRE_SLICE_BYTES") != nullptr) {
    options.server.slice_bytes = settings.slice_bytes;
  }
  return absl::OkStatus();
}

nlohmann::ordered_json ToJson(const bench::PsSide& side, size_t bytes) {
  nlohmann::ordered_json json = {
      {"p50_us", side.time_us.p50}, {"p95_us", side.time_us.p95},
      {"p99_us", side.time_us.p99}, {"min_us", side.time_us.min},
      {"max_us", side.time_us.max}, {"alg_bw", side.algorithm_bandwidth(bytes)}};
  json.update(bench::ToJson(side.cost));
  return json;
}

nlohmann::ordered_json ToJson(const bench::PsRow& row) {
  nlohmann::ordered_json json = {{"size", row.bytes},
                                 {"count", row.count},
                                 {"type", NameOf(DataType::kFloat32)},
                                 {"push_pull", ToJson(row.push_pull, row.bytes)},
                                 {"all_reduce", ToJson(row.all_reduce, row.bytes)},
                                 {"copy_p50_us", row.copy_us.p50},
                                 {"copy_bw", row.copy_bandwidth()},
                                 {"nwrong", nullptr}};
  if (row.wrong) json["nwrong"] = *row.wrong;
  return json;
}

// Returns the number of wrong elements.
absl::StatusOr<int64_t> Measure(World& world, const PsRequest& request,
                                nlohmann::ordered_json& json) {
  const bool speaks = world.rank() == 0;
  const auto print = [speaks](const std::string& text) {
    if (speaks) PrintNow(text);
  };
  GW_ASSIGN_OR_RETURN(const std::vector<int64_t> sizes, bench::SizesOf(request.options.sweep));
  GW_ASSIGN_OR_RETURN(const auto bench,
                      bench::PsBench::Create(world, request.settings, request.options));
  const std::string device =
      world.rank() < bench->workers() ? bench->all_reduce_description() : "parameter server";
  GW_ASSIGN_OR_RETURN(json,
                      DescribeThisRun(world, request.settings, request.settings.transport, device));
  json["workers"] = bench->workers();
  json["servers"] = request.options.servers;
  json["threads"] = request.options.server.threads;
  json["consistency"] = request.consistency;
  json["slice_bytes"] = request.options.server.slice_bytes;
  json["window"] = request.options.server.window;
  json["iterations"] = request.options.sweep.iterations;
  json["results"] = nlohmann::ordered_json::array();
  int64_t wrong = 0;
  for (const int64_t size : sizes) {
    GW_ASSIGN_OR_RETURN(const bench::PsRow row, bench->Measure(static_cast<size_t>(size)));
    wrong += row.wrong.value_or(0);
    if (!speaks) continue;
    if (json["results"].empty()) {
      print(bench::PsHeader(*bench, request.options));
      if (!request.settings.telemetry.empty()) {
        print("# --telemetry: of the all-reduces alone; pushes and pulls are not recorded\n");
      }
      json["push_pull_device"] = bench->push_pull_description();
      json["all_reduce_device"] = bench->all_reduce_description();
    }
    print(bench::PsTableRow(row, request.options));
    json["results"].push_back(ToJson(row));
  }
  print(bench::PsFooter(wrong, request.options.sweep.checks > 0));
  return wrong;
}

int Run(PsRequest& request) {
  const absl::StatusOr<LaunchPlace> place =
      FindLaunchPlace(ProcessEnvironment(), request.settings, /*allow_single=*/true);
  if (!place.ok()) return ReportError(place.status());
  absl::Status status = request.Complete();
  const bool alone = place->family == "single";
  const int ranks = !alone ? place->world_size
                    : request.options.sweep.ranks == 0
                        ? 2 + request.options.servers
                        : static_cast<int>(request.options.sweep.ranks);
  if (alone) request.options.sweep.ranks = ranks;
  status.Update(Validate(request.options, ranks));
  if (!status.ok()) return ReportError(status, alone ? -1 : place->rank);
  return RunAsRank(
      request.settings, ranks, request.options.sweep.report_file,
      [&](World& world, nlohmann::ordered_json& json) { return Measure(world, request, json); });
}

}  // namespace

void AddPsBench(CLI::App& bench, Action& action) {
  CLI::App* command =
      bench.add_subcommand("ps", "push-pull through parameter servers beside all-reduce");
  auto request = std::make_shared<PsRequest>();
  bench::PsOptions& options = request->options;
  options.sweep.min_bytes = 64 << 10;
  options.sweep.max_bytes = 64 << 20;
  options.sweep.step_factor = 4;
  bench::AddSweepFlags(*command, options.sweep);
  command
      ->add_option("-c,--check", options.sweep.checks,
                   "verified steps per row before the timed ones, whose end is verified too; 0: "
                   "none")
      ->check(Between(0, 10'000))
      ->capture_default_str();
  AddJsonFlag(*command, options.sweep.report_file);
  command
      ->add_option("--servers", options.servers,
                   "so many ranks, the last ones, are parameter servers; the others work")
      ->capture_default_str();
  command
      ->add_option("--threads", options.server.threads, "shards of each server, each with a thread")
      ->capture_default_str();
  command->add_option("--window", options.server.window, "slots of a worker at a shard, 2..64")
      ->capture_default_str();
  command->add_option("--consistency", request->consistency, "bsp|asp")->capture_default_str();
  AddSettings(*command, request->settings);
  request->slice_option = command->get_option("--slice-bytes");
  command->footer(
      "Example:\n  gradwire launch -n 3 -- gradwire bench ps --servers 1 -b 64K -e 64M -f 4\n");
  command->callback([&action, request] { action = [request] { return Run(*request); }; });
}

}  // namespace gradwire::cli
