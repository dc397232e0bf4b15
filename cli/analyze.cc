// gradwire analyze: recordings made by --telemetry -> where the time went.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "analysis/analyse.h"
#include "analysis/model_json.h"
#include "analysis/report/csv.h"
#include "analysis/report/html.h"
#include "analysis/report/json.h"
#include "analysis/report/text.h"
#include "analysis/report/trace.h"
#include "cli/command.h"
#include "cli/report.h"
#include "cli/standard_output.h"
#include "cli/usage.h"

namespace gradwire::cli {
namespace {

constexpr const char* kAnalyzeFooter = R"(Make recordings by --telemetry DIR:
  gradwire launch -n 2 -- gradwire bench allreduce -b 1M -e 1M --telemetry rec
  gradwire analyze rec                      # bars, findings; rec/report.html
  gradwire analyze rec-rdma rec-tcp --out cmp   # two runs in one report
DIR gets report.html (opens from the disk, offline), trace.json (ui.perfetto.dev
or chrome://tracing) and CSV files; with several sizes of all-reduce model.json
as well, for `gradwire predict --from DIR/model.json`.)";

struct AnalyzeCommand {
  std::vector<std::string> folders;
  std::string out;
  std::string json;
  analysis::AnalyseOptions options;

  int Run();
};

absl::Status Write(const analysis::Report& report, const std::filesystem::path& out) {
  std::error_code error;
  std::filesystem::create_directories(out, error);
  if (error) return ErrnoError(error.value(), "cannot make the folder {}", out.string());
  GW_RETURN_IF_ERROR(analysis::WriteHtml(report, out / "report.html"));
  for (const analysis::Run& run : report.runs) {
    // Several runs in one folder are told apart by their names.
    const auto folder = report.runs.size() == 1 ? out : out / run.name;
    std::filesystem::create_directories(folder, error);
    GW_RETURN_IF_ERROR(analysis::WriteTrace(run, folder / "trace.json"));
    GW_RETURN_IF_ERROR(analysis::WriteCsv(run, folder));
    if (run.model) GW_RETURN_IF_ERROR(analysis::WriteModel(*run.model, folder / "model.json"));
  }
  return absl::OkStatus();
}

int AnalyzeCommand::Run() {
  absl::StatusOr<bench::JsonOutput> dumped = OpenJson(json);
  if (!dumped.ok()) return ReportError(dumped.status());
  const std::filesystem::path folder = out.empty() ? folders.front() : out;
  std::error_code error;
  // Recordings that are missing are told of below.
  if (!dumped->is_standard_output() && (!out.empty() || std::filesystem::exists(folder, error))) {
    const absl::Status writable = MakeOutputFolder(folder);
    if (!writable.ok()) return ReportError(writable);
  }
  analysis::Report report;
  report.title = "Where the time went";
  for (const std::string& folder : folders) {
    absl::StatusOr<analysis::Run> run = analysis::Analyse(folder, options);
    if (!run.ok()) return ReportError(run.status());
    if (folders.size() > 1) {
      // Also of "rec/", "." and "..".
      auto path = std::filesystem::absolute(folder).lexically_normal();
      if (!path.has_filename()) path = path.parent_path();
      run->name = path.filename().string();
      // Each has its own folder: a name that is there already gets a number.
      const std::string name = run->name.empty() ? "run" : run->name;
      run->name = name;
      for (int i = 2; std::ranges::count(report.runs, run->name, &analysis::Run::name) > 0; ++i) {
        run->name = fmt::format("{}-{}", name, i);
      }
    }
    report.runs.push_back(*std::move(run));
  }
  for (const analysis::Run& run : report.runs) {
    if (run.findings.empty()) continue;
    report.summary += fmt::format("{}{}: {}", report.summary.empty() ? "" : " ", run.name,
                                  run.findings.front().sentence);
  }
  if (dumped->is_standard_output()) {
    const absl::Status written = dumped->WriteText(analysis::Dump(report) + "\n");
    return written.ok() ? kDone : ReportError(written);
  }
  const bool terminal = isatty(STDOUT_FILENO) != 0;
  for (const analysis::Run& run : report.runs) {
    PrintNow(analysis::FormatRun(run, {.colored = terminal}));
  }
  const absl::Status written = Write(report, folder);
  if (!written.ok()) return ReportError(written);
  if (dumped->wanted()) {
    const absl::Status also = dumped->WriteText(analysis::Dump(report) + "\n");
    if (!also.ok()) return ReportError(also);
  }
  PrintText("Wrote {}\n", (folder / "report.html").string());
  return kDone;
}

}  // namespace

void AddAnalyze(CLI::App& root, Action& action) {
  auto command = std::make_shared<AnalyzeCommand>();
  CLI::App* app =
      root.add_subcommand("analyze", "tell from recordings where the time of collectives went");
  app->footer(kAnalyzeFooter);
  app->add_option("folders", command->folders, "folders with rank-N.gwr, one per run")
      ->type_name("DIR")
      ->required();
  app->add_option("--out", command->out, "folder for what is written; default: the first DIR");
  app->add_option("--json", command->json, "also writes all of it as JSON; -: prints only that");
  app->add_flag("--barriers", command->options.barriers,
                "also analyses collectives that move no data");
  app->add_option("--flows", command->options.flows, "most arrows in the timeline")
      ->check(Unsigned())
      ->capture_default_str();
  app->callback([&action, command] { action = [command] { return command->Run(); }; });
}

}  // namespace gradwire::cli
