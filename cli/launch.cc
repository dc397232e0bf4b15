// gradwire launch: N local ranks of any program.
#include <algorithm>

#include "cli/command.h"
#include "cli/usage.h"

namespace gradwire::cli {
namespace {

// True when `argument` is one of launch's flags whose value is the next argument.
bool TakesNext(const CLI::App& launch, const std::string& argument) {
  const bool alone = argument.starts_with("--") ? argument.find('=') == std::string::npos
                                                : argument.size() == 2;  // -n4 brings its value
  const CLI::Option* option = launch.get_option_no_throw(argument);
  return alone && option != nullptr && option->get_items_expected_min() > 0;
}

// Cuts the program and its arguments off: they start after "--" or at the first word that is
// neither a flag of launch nor the value of one.
std::vector<std::string> TakeProgram(const CLI::App& launch, std::vector<std::string>& arguments) {
  size_t at = 1;
  while (at < arguments.size() && arguments[at] != "--" && arguments[at].starts_with('-')) {
    at += TakesNext(launch, arguments[at]) ? 2 : 1;
  }
  at = std::min(at, arguments.size());
  const size_t begin = at < arguments.size() && arguments[at] == "--" ? at + 1 : at;
  std::vector<std::string> program(arguments.begin() + static_cast<ptrdiff_t>(begin),
                                   arguments.end());
  arguments.resize(at);
  return program;
}

void AddDuration(CLI::App& command, const std::string& flag, std::chrono::milliseconds& value,
                 const std::string& help) {
  command
      .add_option_function<std::string>(
          flag,
          [&value, flag](const std::string& text) {
            const auto duration = ParseDuration(text);
            if (!duration.ok()) throw CLI::ValidationError(flag, Message(duration.status()));
            value = *duration;
          },
          help)
      ->type_name("TIME");
}

}  // namespace

void AddLaunch(CLI::App& root, std::vector<std::string>& arguments, Action& action) {
  auto job = std::make_shared<LocalJob>();
  CLI::App* launch = root.add_subcommand("launch", "start N local ranks of a program");
  launch->add_option("-n,--ranks", job->ranks, "ranks on this node")
      ->required()
      ->check(Between(1, kMaxLocalRanks))
      ->option_text("N (required)");
  launch
      ->add_option("--port,--master-port", job->master_port,
                   "port of the rendezvous (MASTER_PORT); default: a free one")
      ->check(Between(1, 65535));
  launch->add_option("--nnodes", job->nodes, "nodes that run this command, each with -n N")
      ->check(Between(1, 65536))
      ->option_text("NODES");
  launch->add_option("--node-rank", job->node_rank, "which of the nodes this is, from 0")
      ->check(Between(0, 65535))
      ->option_text("NODE");
  launch->add_option("--master-addr", job->master_address, "host of rank 0 [default: 127.0.0.1]")
      ->option_text("HOST");
  AddDuration(*launch, "--settle", job->settle,
              "after the first failure, time for the other ranks to\nend by themselves "
              "[default: 5s]");
  AddDuration(*launch, "--grace", job->grace, "time between SIGTERM and SIGKILL [default: 5s]");
  launch->add_flag("--keep-going", job->keep_going,
                   "a rank that fails does not end the others; the exit code\nis rank 0's");
  launch
      ->add_option_function<std::string>(
          "--bind",
          [job](const std::string& to) {
            if (to != "none" && to != "core") {
              throw CLI::ValidationError("--bind", fmt::format("'{}' is none of none|core", to));
            }
            job->binding = to == "core" ? LocalJob::Binding::kCore : LocalJob::Binding::kNone;
          },
          "none, or core: rank r runs on the r-th usable core\n[default: none]")
      ->option_text("none|core");
  launch->footer(
      "gradwire launch -n N [flags] [--] PROGRAM [ARGUMENT...]\n\n"
      "Each rank gets RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, GROUP_RANK,\n"
      "MASTER_ADDR and MASTER_PORT as torchrun sets them, and a GRADWIRE_TOKEN of the\n"
      "job's own unless one is set or there are several nodes. Lines of output come\n"
      "behind \"[rank] \". The exit code is that of the first rank that failed; with\n"
      "--keep-going it is rank 0's, or on another node that of the first that failed.\n");

  if (!arguments.empty() && arguments[0] == "launch") {
    job->command = TakeProgram(*launch, arguments);
  }
  launch->callback([job, &action] {
    action = [job] {
      const absl::StatusOr<int> code = RunLocalJob(*job);
      return code.ok() ? *code : ReportError(code.status());
    };
  });
}

}  // namespace gradwire::cli
