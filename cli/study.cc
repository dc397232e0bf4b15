// gradwire study: one question each, measured, answered and drawn.
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "analysis/report/html.h"
#include "analysis/report/json.h"
#include "analysis/report/layout.h"
#include "analysis/report/text.h"
#include "bench/study/plan.h"
#include "bench/study/runner.h"
#include "cli/command.h"
#include "cli/doctor_command.h"
#include "cli/report.h"
#include "cli/standard_output.h"
#include "cli/temporary_folder.h"
#include "cli/usage.h"
#include "transport/machine.h"

namespace gradwire::cli {
namespace {

struct StudyCommand {
  std::vector<std::string> names;
  std::string out = "study";
  std::string json;
  std::string device = "urxe";
  int rounds = 5;
  bool quick = false;
  bool list = false;

  int Run();
  // Those that failed are told, and stand in the report with the reason.
  absl::StatusOr<analysis::Report> Measure(const std::vector<const bench::StudyPlan*>& plans,
                                           int& failed);
};

std::string Footer() {
  std::string text = "Studies:\n";
  for (const bench::StudyPlan& plan : bench::AllStudies()) {
    text += analysis::Wrap(plan.question, 80, fmt::format("  {:<17} ", plan.name));
  }
  return text + "Example: gradwire study all --out study   # study/report.html";
}

absl::StatusOr<analysis::Report> StudyCommand::Measure(
    const std::vector<const bench::StudyPlan*>& plans, int& failed) {
  std::error_code error;
  bench::StudyOptions options;
  options.program = std::filesystem::read_symlink("/proc/self/exe", error).string();
  if (error) return InternalError("/proc/self/exe: {}", error.message());
  // Beside the report, where there is room for recordings; nothing that was there is touched.
  GW_ASSIGN_OR_RETURN(const TemporaryFolder files,
                      TemporaryFolder::Create(std::filesystem::path(out) / ".study"));
  options.folder = files.path();
  options.device = device;
  options.rounds = quick ? 1 : rounds;
  options.scale = quick ? 0.25 : 1;
  options.run =
      [](const std::vector<std::string>& argv, std::chrono::milliseconds limit,
         const std::vector<std::string>& environment) -> absl::StatusOr<bench::StudyProgram> {
    GW_ASSIGN_OR_RETURN(CommandResult result,
                        RunCommandWith(argv, limit, EnvironmentWith(environment)));
    return bench::StudyProgram{result.exit_code, std::move(result.output)};
  };
  const bool terminal = isatty(STDERR_FILENO) != 0;
  analysis::Report report;
  report.title = "Gradwire studies";
  for (const bench::StudyPlan* plan : plans) {
    if (!terminal) PrintError("gradwire: study {}\n", plan->name);
    options.progress = [&](int done, int all, const std::string& what) {
      if (!terminal) return;
      constexpr int kBar = 20;
      const int filled = kBar * done / all;
      PrintError("\r\033[K{} [{:#<{}}{:.<{}}] {:.40}", plan->name, "", filled, "", kBar - filled,
                 what);
      std::fflush(stderr);
    };
    absl::StatusOr<analysis::Study> study = bench::RunStudy(*plan, options);
    if (terminal) PrintError("\r\033[K");
    if (!study.ok()) {
      ++failed;
      const absl::Status why = study.status();
      ReportError(why);
      study = analysis::Study{};
      study->name = plan->name;
      study->question = plan->question;
      study->answer = fmt::format("It failed: {}.", Message(why));
    }
    PrintNow(analysis::FormatStudy(*study, {.colored = isatty(STDOUT_FILENO) != 0}));
    report.studies.push_back(*std::move(study));
  }
  return report;
}

int StudyCommand::Run() {
  if (list) {
    PrintText("{}\n", Footer());
    return kDone;
  }
  std::vector<const bench::StudyPlan*> plans;
  for (const std::string& name : names) {
    const size_t before = plans.size();
    for (const bench::StudyPlan& plan : bench::AllStudies()) {
      if (name == "all" || name == plan.name) plans.push_back(&plan);
    }
    if (plans.size() == before) {
      return ReportError(
          InvalidArgument("there is no study {}; `gradwire study --list` names them", name));
    }
  }
  if (plans.empty()) {
    return ReportError(InvalidArgument("which study? `gradwire study --list` names them"));
  }
  absl::StatusOr<bench::JsonOutput> output = OpenJson(json);
  if (!output.ok()) return ReportError(output.status());
  const absl::Status writable = MakeOutputFolder(out);
  if (!writable.ok()) return ReportError(writable);
  int failed = 0;
  absl::StatusOr<analysis::Report> report = Measure(plans, failed);
  if (!report.ok()) return ReportError(report.status());
  const size_t count = report->studies.size();
  report->summary = fmt::format(
      "{} {} on this machine. Where configurations are compared they take turns, {} {} "
      "each.",
      count, count == 1 ? "study" : "studies", quick ? 1 : rounds,
      quick || rounds == 1 ? "time" : "times");
  const Machine machine = ThisMachine();
  report->machine = fmt::format("{}, {} {}, {}; {}", machine.cpu, machine.cores,
                                machine.cores == 1 ? "core" : "cores", machine.kernel, UtcNow());
  const auto path = std::filesystem::path(out) / "report.html";
  absl::Status written = analysis::WriteHtml(*report, path);
  if (written.ok()) written = output->WriteText(analysis::Dump(*report) + "\n");
  if (!written.ok()) return ReportError(written);
  PrintText("Wrote {}\n", path.string());
  return failed > 0 ? kFailed : kDone;
}

}  // namespace

void AddStudy(CLI::App& root, Action& action) {
  auto command = std::make_shared<StudyCommand>();
  CLI::App* app = root.add_subcommand(
      "study", "ask one question of the pipeline, measure it, and draw the answer");
  app->footer([] { return Footer(); });
  app->add_option("names", command->names, "studies, or all")->type_name("NAME");
  app->add_option("--out", command->out, "folder for report.html")->capture_default_str();
  app->add_option("--json", command->json, "also writes the results as JSON, - for stdout alone");
  app->add_option("--device", command->device,
                  "RDMA device that is studied; only urxe can lose packets on purpose")
      ->capture_default_str();
  app->add_option("--rounds", command->rounds, "times that each configuration is run")
      ->check(Between(1, 100))
      ->capture_default_str();
  app->add_flag("--quick", command->quick, "one round of a quarter of the calls");
  app->add_flag("--list", command->list, "names the studies and ends");
  app->callback([&action, command] { action = [command] { return command->Run(); }; });
}

}  // namespace gradwire::cli
