// Which rank am I? Reads the variables of the launchers in use: torchrun's, Open MPI's, PMI's
// (MPICH, Intel MPI), Slurm's and those of a Kubernetes Indexed Job. Rank and size always come from
// the same family; a malformed value is an error that names its variable.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "transport/settings.h"
#include "transport/status.h"

namespace gradwire {

// A process's place in its job.
struct LaunchPlace {
  int rank = 0;
  int world_size = 1;
  int local_rank = 0;        // -1 when the launcher does not say
  int local_world_size = 1;  // -1 when the launcher does not say
  std::string rendezvous_host;
  int rendezvous_port = 0;
  bool hosts_rendezvous = true;  // rank 0 starts it; false when --rendezvous names a standing one
  std::string family;            // "torchrun", "Open MPI", "PMI", "Slurm", "Indexed Job", "single"
};

using Environment = std::map<std::string, std::string>;
// This process's environment.
Environment ProcessEnvironment();

// Finds the place. Order: torchrun, Open MPI, PMI, Slurm, Indexed Job. When none fits: the error
// lists what was looked for, unless `allow_single`, which yields a world of one on a free port.
absl::StatusOr<LaunchPlace> FindLaunchPlace(const Environment& environment,
                                            const Settings& settings, bool allow_single);

// Slurm's host list "n[01-04,07],login" -> n01 n02 n03 n04 n07 login. At most 65536 names.
absl::StatusOr<std::vector<std::string>> ExpandNodeList(std::string_view list);
// Slurm's tasks per node "4(x2),3" -> 4 4 3. At most 65536 numbers.
absl::StatusOr<std::vector<int>> ExpandTasksPerNode(std::string_view list);

// "host:port", "[v6]:port". InvalidArgument says what is wrong.
absl::StatusOr<std::pair<std::string, int>> ParseHostPort(std::string_view text);

}  // namespace gradwire
