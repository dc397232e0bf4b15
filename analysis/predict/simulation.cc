#include "analysis/predict/simulation.h"

#include <array>
#include <bit>
#include <cmath>

namespace gradwire::analysis {
namespace {

using Json = nlohmann::json;

constexpr int kMaxRanks = 16384;
constexpr std::array<std::string_view, 3> kTopologies = {"star", "fat_tree", "torus"};
constexpr std::array<std::string_view, 4> kAlgorithms = {"ring", "recursive_doubling", "tree",
                                                         "parameter_server"};

ServerCase ServersOf(const Simulation& simulation) {
  const Work& work = simulation.work;
  return {.workers = simulation.network.ranks - work.servers,
          .servers = work.servers,
          .bytes = work.bytes,
          .slice_bytes = work.slice_bytes,
          .window = work.window};
}

absl::Status Within(std::string_view what, double value, double least, double most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return InvalidArgument("{} {}: {} to {} is wanted", what, value, least, most);
}

}  // namespace

std::string_view NameOf(Topology topology) { return kTopologies[static_cast<size_t>(topology)]; }
std::string_view NameOf(Algorithm algorithm) { return kAlgorithms[static_cast<size_t>(algorithm)]; }

absl::Status Validate(const Simulation& simulation) {
  const Network& network = simulation.network;
  GW_RETURN_IF_ERROR(Within("ranks", network.ranks, 2, kMaxRanks));
  GW_RETURN_IF_ERROR(Within("ranks per node", network.ranks_per_node, 1, network.ranks));
  if (network.ranks % network.ranks_per_node != 0) {
    return InvalidArgument("{} ranks do not fill nodes of {}", network.ranks,
                           network.ranks_per_node);
  }
  GW_RETURN_IF_ERROR(Within("link bytes per second", network.link_bytes_per_s, 1e3, 1e15));
  GW_RETURN_IF_ERROR(
      Within("node link bytes per second", network.node_link_bytes_per_s, 1e3, 1e15));
  GW_RETURN_IF_ERROR(Within("latency in us", network.latency_us, 0, 1e7));
  GW_RETURN_IF_ERROR(Within("latency of a hop in us", network.hop_latency_us, 0, 1e7));
  GW_RETURN_IF_ERROR(Within("overhead in us", network.overhead_us, 0, 1e7));
  GW_RETURN_IF_ERROR(Within("us per MB reduced", network.gamma_us_per_mb, 0, 1e9));
  if (simulation.work.algorithm != Algorithm::kParameterServer) return Validate(CaseOf(simulation));
  if (simulation.work.servers < 1 || simulation.work.servers >= network.ranks) {
    return InvalidArgument("{} servers of {} ranks: at least one rank each must serve and work",
                           simulation.work.servers, network.ranks);
  }
  return Validate(ServersOf(simulation));
}

Case CaseOf(const Simulation& simulation) {
  const Work& work = simulation.work;
  return {.algorithm = static_cast<AllReduceAlgorithm>(work.algorithm),
          .ranks = simulation.network.ranks,
          .bytes = work.bytes,
          .slice_bytes = work.slice_bytes,
          .window = work.window};
}
static_assert(static_cast<int>(Algorithm::kRing) == static_cast<int>(AllReduceAlgorithm::kRing));
static_assert(static_cast<int>(Algorithm::kRecursiveDoubling) ==
              static_cast<int>(AllReduceAlgorithm::kRecursiveDoubling));
static_assert(static_cast<int>(Algorithm::kTree) == static_cast<int>(AllReduceAlgorithm::kTree));

double UnitsOf(const Simulation& simulation) {
  const Work& work = simulation.work;
  const double slices = static_cast<double>(work.bytes) / static_cast<double>(work.slice_bytes);
  switch (work.algorithm) {
    case Algorithm::kRing:
      return simulation.network.ranks - 1;
    case Algorithm::kParameterServer:
      return slices / work.servers;
    default:
      return slices;
  }
}

double MessagesPerUnit(const Simulation& simulation) {
  const Work& work = simulation.work;
  const double ranks = simulation.network.ranks;
  switch (work.algorithm) {
    case Algorithm::kRing:
      return 2 * ranks * static_cast<double>(PlanRing(CaseOf(simulation)).slices);
    case Algorithm::kRecursiveDoubling:
      return ranks * std::bit_width(static_cast<unsigned>(simulation.network.ranks));
    case Algorithm::kTree:
      return 2 * (ranks - 1);
    case Algorithm::kParameterServer:
      return 2 * (ranks - work.servers) * work.servers;
  }
  return 0;
}

Costs CostsOf(const Network& network) {
  return {.alpha_us = network.latency_us + 2 * network.overhead_us,
          .beta_us_per_mb = 1e12 / network.link_bytes_per_s,
          .gamma_us_per_mb = network.gamma_us_per_mb,
          .overlaps = true,
          .overhead_us = network.overhead_us,
          .acknowledge_us = network.tcp ? 0 : network.latency_us};
}

double ModelMicroseconds(const Simulation& simulation, const Costs& costs) {
  if (simulation.work.algorithm == Algorithm::kParameterServer) {
    return CriticalPath(ServersOf(simulation), costs).Microseconds(costs);
  }
  return CriticalPath(CaseOf(simulation), costs).Microseconds(costs);
}

std::array<int, 3> TorusOf(int nodes) {
  // The least product that holds all; among equals the one nearest to a cube.
  std::array<int, 3> best = {nodes, 1, 1};
  int least_places = nodes, least_reach = nodes;
  const int top = static_cast<int>(std::ceil(std::cbrt(nodes))) + 1;
  const int slack = nodes / 8;
  for (int x = 1; x <= top; ++x) {
    for (int y = x; y * y <= nodes + slack; ++y) {
      const int z = (nodes + x * y - 1) / (x * y);
      const int places = x * y * z, reach = x + y + z;
      if (z < y || places > nodes + slack) continue;
      if (reach < least_reach || (reach == least_reach && places < least_places)) {
        best = {z, y, x};
        least_places = places;
        least_reach = reach;
      }
    }
  }
  return best;
}

Json ToJson(const Network& network) {
  return {{"topology", NameOf(network.topology)},
          {"ranks", network.ranks},
          {"ranks_per_node", network.ranks_per_node},
          {"link_bytes_per_s", network.link_bytes_per_s},
          {"node_link_bytes_per_s", network.node_link_bytes_per_s},
          {"latency_us", network.latency_us},
          {"hop_latency_us", network.hop_latency_us},
          {"overhead_us", network.overhead_us},
          {"gamma_us_per_mb", network.gamma_us_per_mb},
          {"tcp", network.tcp}};
}

Json ToJson(const Simulation& simulation) {
  const Work& work = simulation.work;
  Json json = ToJson(simulation.network);
  json.update({{"algorithm", NameOf(work.algorithm)},
               {"bytes", work.bytes},
               {"slice_bytes", work.slice_bytes},
               {"window", work.window},
               {"servers", work.servers},
               {"units", work.units}});
  return json;
}

absl::StatusOr<Simulation> SimulationFromJson(std::string_view text) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return InvalidArgument("a simulation is a JSON object");
  const auto number = [&](const char* name) -> absl::StatusOr<double> {
    if (!json.contains(name) || !json[name].is_number()) {
      return InvalidArgument("{} is missing, or no number", name);
    }
    const double value = json[name].get<double>();
    // Every number of a simulation lies between.
    GW_RETURN_IF_ERROR(Within(name, value, 0, 1e15));
    return value;
  };
  const auto one_of = [&](const char* name, auto names) -> absl::StatusOr<uint8_t> {
    for (size_t i = 0; i < names.size(); ++i) {
      if (json.contains(name) && json[name] == names[i]) return static_cast<uint8_t>(i);
    }
    return InvalidArgument("{} is missing, or none that there is", name);
  };
  Simulation simulation;
  Network& network = simulation.network;
  Work& work = simulation.work;
  GW_ASSIGN_OR_RETURN(const uint8_t topology, one_of("topology", kTopologies));
  GW_ASSIGN_OR_RETURN(const uint8_t algorithm, one_of("algorithm", kAlgorithms));
  network.topology = static_cast<Topology>(topology);
  work.algorithm = static_cast<Algorithm>(algorithm);
  const auto whole = [&](const char* name, int& to) -> absl::Status {
    GW_ASSIGN_OR_RETURN(const double value, number(name));
    GW_RETURN_IF_ERROR(Within(name, value, 0, 1e9));
    to = static_cast<int>(value);
    return absl::OkStatus();
  };
  GW_RETURN_IF_ERROR(whole("ranks", network.ranks));
  GW_RETURN_IF_ERROR(whole("ranks_per_node", network.ranks_per_node));
  GW_RETURN_IF_ERROR(whole("window", work.window));
  GW_RETURN_IF_ERROR(whole("servers", work.servers));
  GW_ASSIGN_OR_RETURN(network.link_bytes_per_s, number("link_bytes_per_s"));
  GW_ASSIGN_OR_RETURN(network.node_link_bytes_per_s, number("node_link_bytes_per_s"));
  GW_ASSIGN_OR_RETURN(network.latency_us, number("latency_us"));
  GW_ASSIGN_OR_RETURN(network.hop_latency_us, number("hop_latency_us"));
  GW_ASSIGN_OR_RETURN(network.overhead_us, number("overhead_us"));
  GW_ASSIGN_OR_RETURN(network.gamma_us_per_mb, number("gamma_us_per_mb"));
  if (!json.contains("tcp") || !json["tcp"].is_boolean()) {
    return InvalidArgument("tcp is missing, or neither true nor false");
  }
  network.tcp = json["tcp"].get<bool>();
  GW_ASSIGN_OR_RETURN(const double bytes, number("bytes"));
  GW_ASSIGN_OR_RETURN(const double slice_bytes, number("slice_bytes"));
  GW_ASSIGN_OR_RETURN(const double units, number("units"));
  work.bytes = static_cast<uint64_t>(bytes);
  work.slice_bytes = static_cast<uint64_t>(slice_bytes);
  work.units = static_cast<uint64_t>(units);
  GW_RETURN_IF_ERROR(Validate(simulation));
  return simulation;
}

}  // namespace gradwire::analysis
