// gradwire-simulate: runs the one simulation that it reads from standard input, as JSON, and writes
// its result to standard output. A process of its own, since SimGrid runs one simulation per
// process and ends the process where something is wrong. Started by `gradwire predict`.
#include <xbt/log.h>

#include <cstdio>
#include <exception>
#include <iostream>
#include <iterator>
#include <simgrid/s4u.hpp>
#include <string>

#include "analysis/predict/simulator/fabric.h"
#include "analysis/predict/simulator/network.h"
#include "analysis/predict/simulator/schedules.h"

namespace gradwire::analysis {
namespace {

int Simulate(int argc, char** argv) {
  const std::string text{std::istreambuf_iterator<char>(std::cin), {}};
  const absl::StatusOr<Simulation> simulation = SimulationFromJson(text);
  if (!simulation.ok()) {
    fmt::print(stderr, "{}\n", Message(simulation.status()));
    return 2;
  }
  xbt_log_control_set("xbt_cfg.thresh:warning");  // settings are not news
  simgrid::s4u::Engine engine(&argc, argv);
  Fabric fabric(*simulation, BuildNetwork(simulation->network));
  switch (simulation->work.algorithm) {
    case Algorithm::kRing:
      RunRing(fabric);
      break;
    case Algorithm::kRecursiveDoubling:
      RunRecursiveDoubling(fabric);
      break;
    case Algorithm::kTree:
      RunTree(fabric);
      break;
    case Algorithm::kParameterServer:
      RunParameterServer(fabric);
      break;
  }
  fabric.Run();
}

}  // namespace
}  // namespace gradwire::analysis

int main(int argc, char** argv) {
  try {
    return gradwire::analysis::Simulate(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
