// Runs gradwire-simulate, the only program that knows SimGrid.
#pragma once

#include <chrono>
#include <string>

#include "analysis/predict/simulation.h"

namespace gradwire::analysis {

// Where the simulator is installed: beside this program. NotFound, with the package to install,
// when Gradwire was built without SimGrid.
absl::StatusOr<std::string> FindSimulator();

// Simulates in a process of its own. InvalidArgument before that for what Validate() refuses;
// DeadlineExceeded when it takes longer than `patience`.
absl::StatusOr<SimulationResult> Simulate(const std::string& simulator,
                                          const Simulation& simulation,
                                          std::chrono::milliseconds patience);

}  // namespace gradwire::analysis
