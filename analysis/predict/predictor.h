// What an operation takes on a network that is not here: simulated, and by the model.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "analysis/predict/simulation.h"

namespace gradwire::analysis {

struct PredictorOptions {
  // A simulation with more messages is shortened: SimGrid takes some ten microseconds for each.
  double messages = 100'000;
  std::chrono::milliseconds patience{180'000};  // for one simulation
};

struct Prediction {
  Simulation of;
  double simulated_us = 0;
  double model_us = 0;
  // Units of the schedule that were simulated, and that there are. When the first are fewer, the
  // rest goes on at the pace of the last ones simulated.
  double simulated_units = 0;
  double units = 0;

  bool shortened() const { return simulated_units < units; }
  double algorithm_bandwidth() const;  // GB/s
  double bus_bandwidth() const;        // GB/s; of an all-reduce, 0 for parameter servers
};

// Schedules repeat the same unit over and over: a ring's steps, pieces, slices of a shard. What
// depends on one another settles at a fixed pace (a max-plus linear system), so a beginning shows
// it. Slices keep their size: coarser ones would take the overlap of wire and reduction away.
class Predictor {
 public:
  Predictor(std::string simulator, const PredictorOptions& options)
      : simulator_(std::move(simulator)), options_(options) {}

  absl::StatusOr<Prediction> Predict(const Simulation& simulation) const;
  // How wrong it is to shorten `prediction`, as a part of the time: both ways on a smaller world of
  // the same kind. 0 for one that was not shortened.
  absl::StatusOr<double> ShorteningError(const Prediction& prediction, int* ranks) const;

 private:
  absl::StatusOr<double> Run(Simulation simulation, uint64_t units) const;
  // From simulations of a third of `units` and of `units`.
  absl::StatusOr<double> Shortened(const Simulation& simulation, uint64_t units) const;

  const std::string simulator_;
  const PredictorOptions options_;
};

// Microseconds that this machine takes to reduce a MB of float32, by a run of some milliseconds.
double MeasureGamma();

}  // namespace gradwire::analysis
