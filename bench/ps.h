// Push-pull of a whole model through parameter servers beside all-reduce of the same bytes, one
// after the other in the same run: what the choice between both costs on this machine.
//
// The last ranks of the world are servers, the others workers; the workers alone all-reduce.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bench/options.h"
#include "bench/resources.h"
#include "bench/statistics.h"
#include "collectives/communicator.h"
#include "parameter_server/server.h"
#include "transport/bootstrap/world.h"
#include "transport/settings.h"
#include "transport/status.h"

namespace gradwire::bench {

struct PsOptions {
  Options sweep;  // sizes, iterations, warmups, checks, ranks, report_file
  int servers = 1;
  // Of each server; consistency, threads, slice_bytes and window are free.
  ps::ServerOptions server;
};

// For a world of `ranks`.
absl::Status Validate(const PsOptions& options, int ranks);

// One way to bring all workers to the same values.
struct PsSide {
  Summary time_us;  // of one call, the slowest worker's
  // Of all ranks together, per GB of the model and per step; system calls and blocking waits of the
  // workers alone.
  Cost cost;

  // GB/s of the model at the median.
  double algorithm_bandwidth(size_t bytes) const;
};

// One line of the table.
struct PsRow {
  size_t bytes = 0;  // of the model
  size_t count = 0;
  PsSide push_pull;
  PsSide all_reduce;
  Summary copy_us;               // memcpy of as many bytes by worker 0 while the others wait
  std::optional<int64_t> wrong;  // elements, over all workers and checks; none: not checked

  double copy_bandwidth() const;  // GB/s at the median
};

class PsBench {
 public:
  // Collective over `world`, as is all that follows; `world` outlives it.
  static absl::StatusOr<std::unique_ptr<PsBench>> Create(World& world, const Settings& settings,
                                                         const PsOptions& options);
  // Every worker returns the same; servers know only what was spent and found. They are started
  // anew for each size, since they keep one model.
  absl::StatusOr<PsRow> Measure(size_t bytes);

  int workers() const { return workers_; }
  // The transport's line for either side; on workers, after the first Measure().
  const std::string& push_pull_description() const { return push_pull_description_; }
  std::string all_reduce_description() const { return communicator_->description(); }

 private:
  class Row;
  PsBench(World& world, const Settings& settings, const PsOptions& options);
  absl::StatusOr<PsRow> Serve(size_t bytes, const std::string& name);
  absl::StatusOr<PsRow> Work(size_t bytes, const std::string& name);
  // All ranks tell each other what they spent and found.
  absl::Status Total(const std::string& name, const ResourceUse& push_pull,
                     const ResourceUse& all_reduce, double wrong, PsRow& row);
  // How long one rank may wait for the others' whole row.
  std::chrono::milliseconds patience() const;

  World& world_;
  const Settings settings_;
  const PsOptions options_;
  const int workers_;
  std::unique_ptr<World> part_;  // the workers
  std::unique_ptr<Communicator> communicator_;
  int rows_ = 0;
  std::string push_pull_description_;
};

// The comments before the rows, with what crosses the network; the rows; the verdict.
std::string PsHeader(const PsBench& bench, const PsOptions& options);
std::string PsHeader(const PsOptions& options, int workers, const std::string& push_pull,
                     const std::string& all_reduce);
std::string PsTableRow(const PsRow& row, const PsOptions& options);
std::string PsFooter(int64_t wrong, bool checked);

}  // namespace gradwire::bench
