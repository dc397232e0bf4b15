// gradwire bench COLLECTIVE: measures collectives as nccl-tests does.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bench/collective.h"
#include "bench/options.h"
#include "bench/report.h"
#include "bench/runner.h"
#include "bench/table.h"
#include "cli/command.h"

namespace gradwire::cli {
namespace {

// What one subcommand was asked for; lives as long as its flags.
struct Request {
  const bench::CollectiveInfo* collective = nullptr;
  bench::Options options;
  Settings settings;
};

void Print(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);  // a row is worth seeing as soon as it is there
}

// Every rank's device, which each rank tells the others.
absl::StatusOr<std::vector<bench::RankLine>> RankLines(Job& job, const Settings& settings) {
  GW_ASSIGN_OR_RETURN(const std::vector<std::string> descriptions,
                      job.world->AllGather("bench/devices", job.communicator->description(), {},
                                           settings.join_timeout));
  std::vector<bench::RankLine> lines;
  for (int rank = 0; rank < job.world->size(); ++rank) {
    lines.push_back({job.world->peer(rank), job.communicator->transport_name(),
                     descriptions[static_cast<size_t>(rank)]});
  }
  return lines;
}

// The table, and the report when there is one. Returns whether all is as it should be.
absl::StatusOr<bool> RunTable(Job& job, const Request& request, bench::Report* report) {
  const bench::CollectiveInfo& collective = *request.collective;
  const bool speaks = job.world->rank() == 0;
  GW_ASSIGN_OR_RETURN(const std::vector<bench::RankLine> lines, RankLines(job, request.settings));
  if (report != nullptr) {
    report->Begin(CommandLine(), collective, request.options, request.settings, lines);
  }
  if (speaks) Print(bench::TableHeader(collective, request.options, lines));
  GW_ASSIGN_OR_RETURN(
      const bench::Totals totals,
      bench::RunSweep(*job.communicator, collective, request.options, [&](const bench::Row& row) {
        if (speaks) Print(bench::TableRow(row));
        if (report != nullptr) report->Add(row);
      }));
  if (speaks) Print(bench::TableFooter(collective, request.options, totals));
  if (report != nullptr) report->End(request.options, totals);
  return totals.wrong == 0 && totals.BandwidthOkay(request.options);
}

absl::StatusOr<bool> RunCsv(Job& job, const Request& request) {
  if (job.world->rank() == 0) Print(bench::SamplingHeader() + "\n");
  GW_ASSIGN_OR_RETURN(const int64_t wrong,
                      bench::RunSamples(*job.communicator, request.options,
                                        [](const std::string& row) { Print(row + "\n"); }));
  return wrong == 0;
}

int RunBench(Request& request) {
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
  if (alone && ranks > 1) return RunCommandLocally(static_cast<int>(ranks));

  // Before the others are met, so that a bad path costs nobody's time.
  std::optional<bench::Report> report;
  if (place->rank == 0 && !request.options.report_file.empty()) {
    absl::StatusOr<bench::Report> created = bench::Report::Create(request.options.report_file);
    if (!created.ok()) return ReportError(created.status());
    report = *std::move(created);
  }
  absl::StatusOr<Job> job = JoinJob(request.settings);
  if (!job.ok()) return ReportError(job.status(), place->rank);
  absl::StatusOr<bool> okay = request.options.csv
                                  ? RunCsv(*job, request)
                                  : RunTable(*job, request, report ? &*report : nullptr);
  if (report) {
    if (!okay.ok()) report->AddError(Message(okay.status()));
    const absl::Status written = report->Write();
    if (!written.ok()) okay = written;
    if (written.ok()) Print(fmt::format("# Wrote JSON output to {}\n", report->path()));
  }
  const std::string reason = okay.ok() ? "" : Message(okay.status());
  job->communicator.reset();
  const absl::Status left = job->world->Leave(reason);
  if (!okay.ok()) return ReportError(okay.status(), place->rank);
  if (!left.ok()) return ReportError(left, place->rank);
  // Every rank knows the verdict; one gives it, so that a launcher sees one failure, not many.
  return *okay || place->rank != 0 ? kDone : kFailed;
}

}  // namespace

void AddBench(CLI::App& root, Action& action) {
  CLI::App* command =
      root.add_subcommand("bench", "measure a collective or a link, in nccl-tests' format");
  command->require_subcommand(0, 1);
  command->callback([command] {
    if (!command->get_subcommands().empty()) return;
    std::string names;
    for (const bench::CollectiveInfo& collective : bench::AllCollectives()) {
      names += fmt::format("{}, ", collective.name);
    }
    throw CLI::ValidationError("what to measure is missing: " + names + "write_bw, ps");
  });
  for (const bench::CollectiveInfo& collective : bench::AllCollectives()) {
    CLI::App* subcommand = command->add_subcommand(
        std::string(collective.name), fmt::format("time and bandwidth of {}", collective.name));
    subcommand->alias(std::string(collective.alias));
    auto request = std::make_shared<Request>();
    request->collective = &collective;
    bench::AddFlags(*subcommand, collective, request->options);
    AddSettings(*subcommand, request->settings);
    subcommand->callback([&action, request] { action = [request] { return RunBench(*request); }; });
  }
  AddWriteBandwidth(*command, action);
  AddPsBench(*command, action);
}

}  // namespace gradwire::cli
