#include <csignal>
#include <filesystem>
#include <system_error>

#include "cli/command.h"

namespace gradwire::cli {

absl::StatusOr<std::unique_ptr<World>> JoinJobWorld(const Settings& settings) {
  GW_ASSIGN_OR_RETURN(const LaunchPlace place,
                      FindLaunchPlace(ProcessEnvironment(), settings, /*allow_single=*/true));
  SetUpLogging(settings.log_level, place.rank);
  std::signal(SIGPIPE, SIG_IGN);
  return JoinWorld(place, settings);
}

absl::StatusOr<Job> JoinJob(const Settings& settings) {
  Job job;
  GW_ASSIGN_OR_RETURN(job.world, JoinJobWorld(settings));
  GW_ASSIGN_OR_RETURN(job.communicator, Communicator::Create(*job.world, settings));
  return job;
}

int RunCommandLocally(int ranks) {
  LocalJob job;
  job.ranks = ranks;
  job.command = CommandLine();
  // The program by its file, wherever it was started from.
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error || job.command.empty()) {
    return ReportError(
        InternalError("/proc does not tell this program's file; use gradwire launch"));
  }
  job.command[0] = program;
  job.plain_rank0 = true;
  const absl::StatusOr<int> code = RunLocalJob(job);
  return code.ok() ? *code : ReportError(code.status());
}

}  // namespace gradwire::cli
