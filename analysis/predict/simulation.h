// One simulation: a network, and the work that our implementation would do on it. Plain data, which
// travels to the simulator's process as JSON.
#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>

#include "analysis/model.h"
#include "transport/status.h"

namespace gradwire::analysis {

enum class Topology : uint8_t { kStar, kFatTree, kTorus };
std::string_view NameOf(Topology topology);

enum class Algorithm : uint8_t { kRing, kRecursiveDoubling, kTree, kParameterServer };
std::string_view NameOf(Algorithm algorithm);

// Nodes hang on a network by one link each; the ranks of a node have links to the node's switch.
struct Network {
  Topology topology = Topology::kStar;
  int ranks = 2;
  int ranks_per_node = 1;
  double link_bytes_per_s = 50e9;       // of a node, either direction
  double node_link_bytes_per_s = 50e9;  // of a rank inside its node; where nodes have several
  double latency_us = 5;      // of an empty message between neighbours, without Costs::overhead_us
  double hop_latency_us = 0;  // of each link between two switches
  // The processor of a rank.
  double overhead_us = 0;
  double gamma_us_per_mb = 0;
  // SimGrid's corrections for TCP flows (its model LV08) instead of plain latency and bandwidth.
  bool tcp = false;
};

struct Work {
  Algorithm algorithm = Algorithm::kRing;
  uint64_t bytes = 0;
  uint64_t slice_bytes = 256 << 10;
  int window = 16;
  int servers = 1;  // kParameterServer: the last so many ranks
  // How much of the schedule is simulated, in units that all take as long: a ring's steps of either
  // half, pieces of recursive doubling and tree, slices of a shard. 0: all.
  uint64_t units = 0;
};

struct Simulation {
  Network network;
  Work work;
};

struct SimulationResult {
  double microseconds = 0;  // until the last rank is done
  uint64_t messages = 0;
};

// InvalidArgument names what is out of range.
absl::Status Validate(const Simulation& simulation);

// Units of the whole schedule, the last one perhaps a part.
double UnitsOf(const Simulation& simulation);
// Messages that a unit takes on all ranks together, without those that carry credits alone.
double MessagesPerUnit(const Simulation& simulation);

// What the model says of the same; its terms know neither hops nor shared links.
Costs CostsOf(const Network& network);
double ModelMicroseconds(const Simulation& simulation, const Costs& costs);
// The work of a collective as the model takes it.
Case CaseOf(const Simulation& simulation);
// Dimensions of the torus that `nodes` lie on, nearly a cube; some places may stay empty.
std::array<int, 3> TorusOf(int nodes);

nlohmann::json ToJson(const Network& network);
nlohmann::json ToJson(const Simulation& simulation);
absl::StatusOr<Simulation> SimulationFromJson(std::string_view text);

}  // namespace gradwire::analysis
