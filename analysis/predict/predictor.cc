#include "analysis/predict/predictor.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "analysis/predict/simulator_process.h"
#include "collectives/kernels.h"

namespace gradwire::analysis {
namespace {

// A beginning shorter than this has not settled: windows must have filled and turned.
constexpr uint64_t kLeastUnits = 24;

// The same on fewer ranks, small enough to simulate `units` many times over.
Simulation Smaller(Simulation simulation, uint64_t units) {
  Network& network = simulation.network;
  Work& work = simulation.work;
  const int before = network.ranks;
  const bool ring = work.algorithm == Algorithm::kRing;
  const uint64_t segment = PlanRing(CaseOf(simulation)).segment_bytes;
  const int wanted = ring ? static_cast<int>(3 * units) + 1 : 16;
  const int nodes = std::max(2, (wanted + network.ranks_per_node - 1) / network.ranks_per_node);
  network.ranks = std::min(before, nodes * network.ranks_per_node);
  if (ring) {
    work.bytes = segment * static_cast<uint64_t>(network.ranks);
    return simulation;
  }
  work.servers = std::max(1, work.servers * network.ranks / before);
  const uint64_t shards =
      work.algorithm == Algorithm::kParameterServer ? static_cast<uint64_t>(work.servers) : 1;
  work.bytes = std::min(work.bytes, 4 * units * work.slice_bytes * shards);
  return simulation;
}

}  // namespace

double Prediction::algorithm_bandwidth() const {
  return static_cast<double>(of.work.bytes) / (simulated_us * 1e3);
}

double Prediction::bus_bandwidth() const {
  if (of.work.algorithm == Algorithm::kParameterServer) return 0;
  const double ranks = of.network.ranks;
  return algorithm_bandwidth() * 2 * (ranks - 1) / ranks;
}

absl::StatusOr<double> Predictor::Run(Simulation simulation, uint64_t units) const {
  simulation.work.units = units;
  GW_ASSIGN_OR_RETURN(const SimulationResult result,
                      Simulate(simulator_, simulation, options_.patience));
  return result.microseconds;
}

absl::StatusOr<double> Predictor::Shortened(const Simulation& simulation, uint64_t units) const {
  const uint64_t few = units / 3;
  GW_ASSIGN_OR_RETURN(const double early, Run(simulation, few));
  GW_ASSIGN_OR_RETURN(const double late, Run(simulation, units));
  const double pace = (late - early) / static_cast<double>(units - few);
  return late + (UnitsOf(simulation) - static_cast<double>(units)) * pace;
}

absl::StatusOr<Prediction> Predictor::Predict(const Simulation& simulation) const {
  GW_RETURN_IF_ERROR(Validate(simulation));
  Prediction prediction;
  prediction.of = simulation;
  prediction.units = UnitsOf(simulation);
  prediction.model_us = ModelMicroseconds(simulation, CostsOf(simulation.network));
  const double per_unit = MessagesPerUnit(simulation);
  const auto affordable =
      std::max(kLeastUnits, static_cast<uint64_t>(options_.messages / per_unit));
  if (static_cast<double>(affordable) * 4 / 3 >= prediction.units) {
    prediction.simulated_units = prediction.units;
    GW_ASSIGN_OR_RETURN(prediction.simulated_us, Run(simulation, 0));
    return prediction;
  }
  prediction.simulated_units = static_cast<double>(affordable);
  GW_ASSIGN_OR_RETURN(prediction.simulated_us, Shortened(simulation, affordable));
  return prediction;
}

absl::StatusOr<double> Predictor::ShorteningError(const Prediction& prediction, int* ranks) const {
  *ranks = prediction.of.network.ranks;
  if (!prediction.shortened()) return 0.0;
  // Short enough that a world of three times as many steps is cheap.
  const auto units = std::min(static_cast<uint64_t>(prediction.simulated_units), kLeastUnits);
  const Simulation smaller = Smaller(prediction.of, units);
  *ranks = smaller.network.ranks;
  GW_ASSIGN_OR_RETURN(const double whole, Run(smaller, 0));
  GW_ASSIGN_OR_RETURN(const double shortened, Shortened(smaller, units));
  return std::abs(shortened / whole - 1);
}

double MeasureGamma() {
  constexpr size_t kElements = 64 << 10;  // a slice, which the cache holds
  constexpr std::chrono::milliseconds kLong{30};
  std::vector<float> sum(kElements, 1), theirs(kElements, 1);
  const ReduceKernel kernel = KernelFor(DataType::kFloat32, ReduceOp::kSum);
  // The fastest of many: what else runs here is no property of the kernel.
  auto least = std::chrono::steady_clock::duration::max();
  const auto start = std::chrono::steady_clock::now();
  while (std::chrono::steady_clock::now() - start < kLong) {
    const auto before = std::chrono::steady_clock::now();
    kernel(sum.data(), theirs.data(), sum.data(), kElements);
    least = std::min(least, std::chrono::steady_clock::now() - before);
  }
  return std::chrono::duration<double, std::micro>(least).count() /
         (static_cast<double>(kElements * sizeof(float)) / 1e6);
}

}  // namespace gradwire::analysis
