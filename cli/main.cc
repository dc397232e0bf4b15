// gradwire: one program, its subcommands in files of their own.
#include <fmt/core.h>

#include <algorithm>
#include <cstdio>
#include <sstream>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/help_formatter.h"
#include "cli/standard_output.h"
#include "cli/usage.h"

namespace gradwire::cli {
namespace {

int ReportMisuse(const Misuse& misuse) {
  PrintError("gradwire: {} (see gradwire {}--help)\n", misuse.message,
             misuse.command.empty() ? "" : misuse.command + " ");
  return kMisuse;
}

int Main(int argc, char** argv) {
  // A reader at the other end of a pipe sees each line when it is complete.
  std::setvbuf(stdout, nullptr, _IOLBF, BUFSIZ);

  CLI::App root(
      "Gradwire moves gradients between machines: it trains a model across processes\n"
      "by ring all-reduce, measures what its collectives cost, and starts the ranks of\n"
      "your own programs. Ranks find each other through a rendezvous that rank 0 hosts;\n"
      "variables of torchrun, Open MPI, PMI, Slurm and Indexed Jobs are understood.",
      "gradwire");
  root.set_version_flag("--version", "gradwire " GRADWIRE_VERSION);
  root.require_subcommand(0, 1);
  root.formatter(std::make_shared<HelpFormatter>());
  std::vector<std::string> arguments(argv + std::min(argc, 1), argv + argc);
  Action action;
  AddDemo(root, action);
  AddTrain(root, action);
  AddLaunch(root, arguments, action);
  AddBench(root, action);
  AddAnalyze(root, action);
  AddStudy(root, action);
  AddPs(root, action);
  AddPredict(root, action);
  AddRendezvous(root, action);
  AddConfig(root, action);
  AddDevices(root, action);
  AddDoctor(root, action);
  // At last, or those without a footer of their own would have this one.
  root.footer(
      "Examples:\n"
      "  gradwire demo                              train digits on 4 local ranks\n"
      "  gradwire launch -n 2 gradwire train        the same by hand, on 2\n"
      "  gradwire devices                           RDMA devices that are here\n"
      "  gradwire doctor                            what this machine is ready for\n"
      "\n"
      "Exit codes: 0 done, 1 the work failed, 2 wrong usage or configuration.\n");

  if (const Misuse misuse = CheckSubcommands(root, arguments); !misuse.message.empty()) {
    return ReportMisuse(misuse);
  }
  try {
    root.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() != 0) return ReportMisuse(Explain(error, root));
    // Help and version are "errors" of exit code 0 that CLI11 prints itself.
    std::ostringstream text;
    root.exit(error, text, text);
    PrintNow(text.str());
    return kDone;
  }
  if (!action) return ReportMisuse(CheckSubcommands(root, {}));
  return action();
}

}  // namespace
}  // namespace gradwire::cli

int main(int argc, char** argv) {
  using namespace gradwire::cli;
  FillStandardDescriptors();
  const int code = Main(argc, argv);
  const absl::Status printed = FinishStandardOutput();
  if (printed.ok() || code != kDone) return code;
  ReportError(printed);
  return kFailed;
}
