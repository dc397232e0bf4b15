// gradwire bench COLLECTIVE: measures collectives as nccl-tests does.
#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bench/collective.h"
#include "bench/model_gradients.h"
#include "bench/options.h"
#include "bench/replay.h"
#include "bench/report.h"
#include "bench/runner.h"
#include "bench/samples.h"
#include "bench/table.h"
#include "cli/bench_common.h"
#include "cli/report.h"

namespace gradwire::cli {
namespace {

// What one subcommand was asked for; lives as long as its flags.
struct BenchRequest {
  const bench::CollectiveInfo* collective = nullptr;
  bench::Options options;
  Settings settings;
};

// The table, and the report when there is one. Returns whether all is as it should be.
absl::StatusOr<bool> RunTable(Job& job, const BenchRequest& request, bench::Report* report) {
  const bench::CollectiveInfo& collective = *request.collective;
  const bool speaks = job.world->rank() == 0;
  GW_ASSIGN_OR_RETURN(
      const std::vector<bench::RankLine> lines,
      bench::GatherRankLines(*job.world, job.communicator->transport_name(),
                             job.communicator->description(), request.settings.join_timeout));
  if (report != nullptr) {
    report->Begin(CommandLine(), collective, request.options, request.settings, lines);
  }
  const int columns = TerminalColumns();
  const bool narrow = columns > 0 && columns < bench::kTableColumns;
  if (speaks) PrintNow(bench::TableHeader(collective, request.options, lines, narrow));
  GW_ASSIGN_OR_RETURN(
      const bench::Totals totals,
      bench::RunSweep(*job.communicator, collective, request.options, [&](const bench::Row& row) {
        if (speaks) PrintNow(bench::TableRow(row, narrow));
        if (report != nullptr) report->Add(row);
      }));
  if (speaks) PrintNow(bench::TableFooter(collective, request.options, totals));
  if (report != nullptr) report->End(request.options, totals);
  return totals.wrong == 0 && totals.BandwidthOkay(request.options);
}

absl::StatusOr<bool> RunCsv(Job& job, const BenchRequest& request) {
  if (job.world->rank() == 0) PrintNow(bench::SamplingHeader() + "\n");
  GW_ASSIGN_OR_RETURN(
      const int64_t wrong,
      bench::RunSamples(*job.communicator, request.options, [](const bench::SampledRow& row) {
        PrintNow(bench::FormatCsv(row) + "\n");
      }));
  return wrong == 0;
}

nlohmann::ordered_json ToJson(const bench::ReplayRow& row) {
  nlohmann::ordered_json json = {{"bucket_bytes", nullptr},
                                 {"tensors", row.tensors},
                                 {"size", row.bytes},
                                 {"operations", row.operations},
                                 {"type", "float"},
                                 {"redop", "sum"},
                                 {"alg_bw", row.algorithm_bandwidth},
                                 {"bus_bw", row.bus_bandwidth},
                                 {"nwrong", nullptr}};
  if (row.bucket_bytes > 1) json["bucket_bytes"] = row.bucket_bytes;
  if (row.wrong) json["nwrong"] = *row.wrong;
  json.update(bench::ToJson(row.step));
  json.update(bench::ToJson(row.cost));
  json["times_us"] = row.samples;
  return json;
}

// The gradients of a model.
absl::StatusOr<bool> RunReplay(Job& job, const BenchRequest& request, bench::Report* report) {
  const bool speaks = job.world->rank() == 0;
  const bench::Options& options = request.options;
  GW_ASSIGN_OR_RETURN(const std::vector<bench::Gradient> gradients,
                      bench::MakeModelGradients(options.model));
  GW_ASSIGN_OR_RETURN(
      const std::vector<bench::RankLine> lines,
      bench::GatherRankLines(*job.world, job.communicator->transport_name(),
                             job.communicator->description(), request.settings.join_timeout));
  if (report != nullptr) {
    report->Begin(CommandLine(), *request.collective, options, request.settings, lines);
  }
  if (speaks) {
    PrintNow(
        bench::ReplayHeader(job.communicator->description(), options, job.communicator->size()));
  }
  GW_ASSIGN_OR_RETURN(const std::vector<bench::ReplayRow> rows,
                      bench::Replay(*job.communicator, gradients, options));
  bench::Totals totals;
  for (const bench::ReplayRow& row : rows) {
    if (speaks) PrintNow(bench::FormatRow(row));
    if (report != nullptr) report->Add(ToJson(row));
    totals.wrong += row.wrong.value_or(0);
    totals.bus_bandwidth += row.bus_bandwidth / static_cast<double>(rows.size());
  }
  if (speaks) PrintNow(bench::ReplayFooter(totals.wrong));
  if (report != nullptr) report->End(options, totals);
  return totals.wrong == 0 && totals.BandwidthOkay(options);
}

int RunBench(BenchRequest& request) {
  const Environment environment = ProcessEnvironment();
  const absl::StatusOr<LaunchPlace> place =
      FindLaunchPlace(environment, request.settings, /*allow_single=*/true);
  if (!place.ok()) return ReportError(place.status());
  const absl::Status read = bench::ReadEnvironment(environment, request.options);
  if (!read.ok()) return ReportError(read);
  const bool alone = place->family == "single";
  const int64_t ranks = alone ? std::max<int64_t>(request.options.ranks, 1) : place->world_size;
  const absl::Status valid = bench::Validate(request.options, static_cast<int>(ranks));
  if (!valid.ok()) return ReportError(valid, alone ? -1 : place->rank);
  if (alone && ranks > 1) {
    // As with --root: before ranks are started, of which the first to notice would end the others.
    const absl::Status writable = bench::JsonOutput::Create(request.options.report_file).status();
    return writable.ok() ? RunCommandLocally(request.settings, static_cast<int>(ranks))
                         : ReportError(writable);
  }

  // Before the others are met, so that a bad path costs nobody's time.
  std::optional<bench::Report> report;
  if (place->rank == 0 && !request.options.report_file.empty()) {
    absl::StatusOr<bench::JsonOutput> output = OpenJson(request.options.report_file);
    if (!output.ok()) return ReportError(output.status());
    report.emplace(*std::move(output));
  }
  absl::StatusOr<Job> job = JoinJob(request.settings);
  if (!job.ok()) return ReportError(job.status(), place->rank);
  bench::Report* const into = report ? &*report : nullptr;
  absl::StatusOr<bool> okay = request.options.csv              ? RunCsv(*job, request)
                              : !request.options.model.empty() ? RunReplay(*job, request, into)
                                                               : RunTable(*job, request, into);
  if (report) {
    if (!okay.ok()) report->AddError(Message(okay.status()));
    const absl::Status written = report->Write();
    if (!written.ok()) okay = written;
    if (written.ok()) TellWritten(report->output());
  }
  if (okay.ok()) {
    const absl::Status saved = job->communicator->SaveRecording();
    if (!saved.ok()) okay = saved;
  }
  const std::string reason = okay.ok() ? "" : Message(okay.status());
  job->communicator.reset();
  const absl::Status left = job->world->Leave(reason);
  if (!okay.ok()) return ReportError(okay.status(), place->rank);
  if (!left.ok()) return ReportError(left, place->rank);
  // Every rank knows the verdict; one gives it, so that a launcher sees one failure, not many.
  return *okay || place->rank != 0 ? kDone : kFailed;
}

// What --help ends with.
std::string Examples(const bench::CollectiveInfo& collective) {
  std::string text = fmt::format(
      "Examples:\n"
      "  gradwire bench {0} --ranks 4 -b 8 -e 128M -f 8\n"
      "  gradwire launch -n 4 gradwire bench {0} -b 8 -e 128M -f 8 \\\n"
      "    -J {0}.json\n",
      collective.name);
  if (collective.id == bench::Collective::kAllReduce) {
    text +=
        "  gradwire bench allreduce --ranks 2 --model resnet50\n"
        "  gradwire bench compare allreduce --ranks 2      RDMA beside TCP, by turns\n";
  }
  return text;
}

}  // namespace

void AddBench(CLI::App& root, Action& action) {
  CLI::App* command =
      root.add_subcommand("bench", "measure collectives, links, parameter servers; compare");
  command->require_subcommand(0, 1);
  for (const bench::CollectiveInfo& collective : bench::AllCollectives()) {
    CLI::App* subcommand = command->add_subcommand(
        std::string(collective.name), fmt::format("time and bandwidth of {}", collective.name));
    subcommand->alias(std::string(collective.alias));
    auto request = std::make_shared<BenchRequest>();
    request->collective = &collective;
    bench::AddFlags(*subcommand, collective, request->options);
    AddSettings(*subcommand, request->settings);
    subcommand->footer(Examples(collective));
    subcommand->callback([&action, request] { action = [request] { return RunBench(*request); }; });
  }
  AddLinkBenches(*command, action);
  AddPsBench(*command, action);
  AddCompareBench(*command, action);
  AddPeersBench(*command, action);
  command->footer(
      "Examples:\n"
      "  gradwire bench allreduce --ranks 4 -b 8 -e 128M -f 8\n"
      "  gradwire bench write_bw                        one link, two local ranks\n"
      "  gradwire bench compare allreduce --ranks 2     RDMA beside TCP, by turns\n"
      "gradwire bench MEASUREMENT --help has the flags of each.\n");
}

}  // namespace gradwire::cli
