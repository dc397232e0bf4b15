// Training by a parameter server as a function: `gradwire train --strategy ps` is this behind
// flags.
//
// In a job of n ranks the last `servers` are servers and the others workers; or all are workers of
// servers that stand elsewhere. The job's World brings them together and is left before the first
// step: from then on a worker knows the servers alone, and what the loss of another means is theirs
// to say.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "examples/training/training.h"
#include "parameter_server/consistency.h"
#include "parameter_server/server.h"
#include "transport/bootstrap/world.h"
#include "transport/settings.h"
#include "transport/status.h"

namespace gradwire::training {

struct PsOptions {
  int servers = 1;  // of the job
  std::vector<std::string>
      standing;  // HOST:PORT of servers elsewhere, by index; `servers` is unused
  // What servers of the job start with; addresses, numbers, optimizer and limits are filled in.
  ps::ServerOptions server;
  DataType wire = DataType::kFloat32;
};

// What can be known to be wrong without data or peers. InvalidArgument names the flag.
absl::Status Validate(const TrainingOptions& options, const PsOptions& ps);

// Every rank calls it with the same options; leaves `world` on the way. A server returns when all
// workers have left. Rank 0, a worker, prints to stdout and writes the files. The summary is a
// worker's own; a server's has nothing but the strategy.
absl::StatusOr<TrainingSummary> RunPsTraining(World& world, const TrainingOptions& options,
                                              const PsOptions& ps, const Settings& settings);

}  // namespace gradwire::training
