#include <csignal>

#include "cli/command.h"

namespace gradwire::cli {

absl::StatusOr<Job> JoinJob(const Settings& settings) {
  GW_ASSIGN_OR_RETURN(const LaunchPlace place,
                      FindLaunchPlace(ProcessEnvironment(), settings, /*allow_single=*/true));
  SetUpLogging(settings.log_level, place.rank);
  std::signal(SIGPIPE, SIG_IGN);
  Job job;
  GW_ASSIGN_OR_RETURN(job.world, JoinWorld(place, settings));
  GW_ASSIGN_OR_RETURN(job.communicator, Communicator::Create(*job.world, settings));
  return job;
}

}  // namespace gradwire::cli
