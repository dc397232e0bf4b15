// What the subcommands of `gradwire` share. A subcommand is one source file with one Add function,
// which declares its flags and sets `action`; main() parses and runs the action. The work itself is
// done by the libraries.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cli/local_job.h"
#include "collectives/communicator.h"
#include "transport/bootstrap/world.h"
#include "transport/machine.h"
#include "transport/settings.h"
#include "transport/status.h"

namespace gradwire::cli {

// Exit codes of every program.
inline constexpr int kDone = 0;
inline constexpr int kFailed = 1;  // the work failed
inline constexpr int kMisuse = 2;  // wrong usage or configuration

// Runs the chosen subcommand; returns the exit code.
using Action = std::function<int()>;

// Adds one flag per setting (--transport, --device, --slice-bytes, ...), in a group of their own.
// When `command` is parsed, `settings` becomes the defaults, overlaid with GRADWIRE_* variables,
// overlaid with flags; a bad or unknown one ends the parse with an error that names it, and so does
// a bad URXE_* variable unless --transport is tcp. `settings` must live as long as `command`.
void AddSettings(CLI::App& command, Settings& settings);
// The flags alone, which write to `settings` as it stands.
void AddSettingFlags(CLI::App& command, Settings& settings);

// Prints "gradwire: [rank N: ]message" as one line on stderr; returns kMisuse for InvalidArgument
// and NotFound, else kFailed.
int ReportError(const absl::Status& status, int rank = -1);

// Logs go to stderr from `level` on (a value of --log-level), with the rank unless it is -1.
void SetUpLogging(const std::string& level, int rank = -1);

// This process's membership in a job, with the collectives ready.
struct Job {
  std::unique_ptr<World> world;
  std::unique_ptr<Communicator> communicator;
};
// Finds this process's rank in the environment and joins. Without launcher variables: a job of one.
// From here on a broken connection is an error value, not SIGPIPE; see IgnoreBrokenConnections().
absl::StatusOr<Job> JoinJob(const Settings& settings);
// The same without the collectives.
absl::StatusOr<std::unique_ptr<World>> JoinJobWorld(const Settings& settings);

// NotFound when --device names nothing that is here, InvalidArgument when it cannot be read.
absl::Status CheckDevice(const Settings& settings);

// Starts this very command once per local rank, which find themselves inside a job; returns the
// exit code.
int RunCommandLocally(const Settings& settings, int ranks);

// Takes the program to launch out of `arguments` (the command line without the program's name),
// so that its flags are never taken for ours. To be called before `arguments` are parsed.
void AddLaunch(CLI::App& root, std::vector<std::string>& arguments, Action& action);
void AddTrain(CLI::App& root, Action& action);
void AddDemo(CLI::App& root, Action& action);
void AddBench(CLI::App& root, Action& action);
void AddLinkBenches(CLI::App& bench, Action& action);
void AddPsBench(CLI::App& bench, Action& action);
void AddCompareBench(CLI::App& bench, Action& action);
void AddPeersBench(CLI::App& bench, Action& action);
void AddPs(CLI::App& root, Action& action);
void AddRendezvous(CLI::App& root, Action& action);
void AddAnalyze(CLI::App& root, Action& action);
void AddStudy(CLI::App& root, Action& action);
void AddConfig(CLI::App& root, Action& action);
void AddPredict(CLI::App& root, Action& action);
void AddDevices(CLI::App& root, Action& action);
void AddDoctor(CLI::App& root, Action& action);

}  // namespace gradwire::cli
