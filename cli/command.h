// What the subcommands of `gradwire` share. A subcommand is one source file with one Add function,
// which declares its flags and sets `action`; main() parses and runs the action. The work itself is
// done by the libraries.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <string>

#include "collectives/communicator.h"
#include "transport/bootstrap/world.h"
#include "transport/settings.h"
#include "transport/status.h"

namespace gradwire::cli {

// Exit codes of every program.
inline constexpr int kDone = 0;
inline constexpr int kFailed = 1;   // the work failed
inline constexpr int kMisuse = 2;   // wrong usage or configuration

// Runs the chosen subcommand; returns the exit code.
using Action = std::function<int()>;

// Adds one flag per setting (--transport, --device, --slice-bytes, ...), in a group of their own.
// Values are laid over `settings`, which holds defaults and GRADWIRE_* variables.
void AddSettings(CLI::App& command, Settings& settings);

// Prints "gradwire: [rank N: ]message" as one line on stderr; returns kMisuse for InvalidArgument
// and NotFound, else kFailed.
int ReportError(const absl::Status& status, int rank = -1);

// This process's membership in a job, with the collectives ready.
struct Job {
  std::unique_ptr<World> world;
  std::unique_ptr<Communicator> communicator;
};
// Finds this process's rank in the environment and joins. Without launcher variables: a job of one.
absl::StatusOr<Job> JoinJob(const Settings& settings);

void AddLaunch(CLI::App& root, Action& action);
void AddTrain(CLI::App& root, Action& action);
void AddDemo(CLI::App& root, Action& action);
void AddBench(CLI::App& root, Action& action);
void AddRendezvous(CLI::App& root, Action& action);
void AddConfig(CLI::App& root, Action& action);
void AddDoctor(CLI::App& root, Action& action);

// Starts `ranks` local processes of `command` with torchrun's variables and waits for them. Output
// is passed on line by line behind "[rank] "; with `plain_rank0`, rank 0 keeps this process's own
// stdout and stderr instead. The first failure ends all (SIGTERM, then SIGKILL after a grace).
// Returns the exit code of the first rank that failed (128 + signal when killed), or 0.
struct LocalJob {
  int ranks = 1;
  std::vector<std::string> command;
  bool plain_rank0 = false;
};
absl::StatusOr<int> RunLocalJob(const LocalJob& job);

}  // namespace gradwire::cli
