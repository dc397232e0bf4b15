#include <filesystem>
#include <system_error>

#include "cli/command.h"
#include "cli/standard_output.h"
#include "transport/rdma/interface.h"

namespace gradwire::cli {

absl::StatusOr<std::unique_ptr<World>> JoinJobWorld(const Settings& settings) {
  GW_ASSIGN_OR_RETURN(const LaunchPlace place,
                      FindLaunchPlace(ProcessEnvironment(), settings, /*allow_single=*/true));
  SetUpLogging(settings.log_level, place.rank);
  IgnoreBrokenConnections();
  if (place.family == "single") GW_RETURN_IF_ERROR(CheckDevice(settings));
  return JoinWorld(place, settings);
}

absl::StatusOr<Job> JoinJob(const Settings& settings) {
  Job job;
  GW_ASSIGN_OR_RETURN(job.world, JoinJobWorld(settings));
  GW_ASSIGN_OR_RETURN(job.communicator, Communicator::Create(*job.world, settings));
  return job;
}

absl::Status CheckDevice(const Settings& settings) {
  if (settings.transport == "tcp" || settings.device.empty()) return absl::OkStatus();
  GW_ASSIGN_OR_RETURN(const std::vector<rdma::Port> ports, rdma::ListPorts());
  const absl::Status status = rdma::ChoosePort(ports, settings, /*local_address=*/"").status();
  // A port that is there but cannot be used is no wrong usage.
  return absl::IsInvalidArgument(status) || absl::IsNotFound(status) ? status : absl::OkStatus();
}

int RunCommandLocally(const Settings& settings, int ranks) {
  // Each rank would tell the same.
  const absl::Status device = CheckDevice(settings);
  if (!device.ok()) return ReportError(device);
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
