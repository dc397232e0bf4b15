// The platform that a simulation runs on.
#pragma once

#include <vector>

#include "analysis/predict/simulation.h"

namespace simgrid::s4u {
class Host;
}

namespace gradwire::analysis {

// Sets SimGrid's network model and builds the platform; returns the ranks' hosts, in order. Of a
// valid simulation, after the engine was made, once per process.
std::vector<simgrid::s4u::Host*> BuildNetwork(const Network& network);

}  // namespace gradwire::analysis
