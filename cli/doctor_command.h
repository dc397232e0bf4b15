// Other programs as doctor and bench run them: without a shell, in bounded time.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "transport/status.h"

namespace gradwire::cli {

struct CommandResult {
  int exit_code = 0;   // 128 + signal when a signal ended it
  std::string output;  // standard output and standard error as they came, without the last newline
};

// Runs argv[0], a path, with the rest as its arguments and no standard input. DeadlineExceeded
// after `limit`, by when it and what it started have been killed.
using CommandRunner = std::function<absl::StatusOr<CommandResult>(
    const std::vector<std::string>& argv, std::chrono::milliseconds limit)>;
absl::StatusOr<CommandResult> RunCommand(const std::vector<std::string>& argv,
                                         std::chrono::milliseconds limit);
// The same with the variables NAME=value instead of a bare environment.
absl::StatusOr<CommandResult> RunCommandWith(const std::vector<std::string>& argv,
                                             std::chrono::milliseconds limit,
                                             const std::vector<std::string>& environment);

// `variables`, NAME=value, and behind them those of this process: of two the first one holds.
std::vector<std::string> EnvironmentWith(const std::vector<std::string>& variables);

// PATH of this process and the folders of system programs, which a user's PATH often leaves out.
std::vector<std::string> ProgramFolders();

// The first executable `name` in `folders` beneath `root`; empty when there is none.
std::string FindProgram(const std::vector<std::string>& folders, const std::string& root,
                        const std::string& name);

}  // namespace gradwire::cli
