#include "analysis/predict/simulator/network.h"

#include <array>
#include <cmath>
#include <simgrid/s4u.hpp>
#include <string>
#include <utility>

namespace gradwire::analysis {
namespace {

namespace sg = simgrid::s4u;
using NetPoint = simgrid::kernel::routing::NetPoint;
using Leaf = std::pair<NetPoint*, NetPoint*>;  // a zone, and its switch

void Configure(const Network& network) {
  sg::Engine::set_config("contexts/stack-size:64");  // KiB
  if (network.tcp) {
    sg::Engine::set_config("network/model:LV08");
    return;
  }
  // A flow gets its share of the slowest link: no factors on latency and bandwidth, no window that
  // bounds what is under way, no acknowledgements on the way back.
  sg::Engine::set_config("network/model:CM02");
  sg::Engine::set_config("network/latency-factor:1");
  sg::Engine::set_config("network/bandwidth-factor:1");
  sg::Engine::set_config("network/weight-S:0");
  sg::Engine::set_config("network/TCP-gamma:0");
  sg::Engine::set_config("network/crosstraffic:0");
}

class Builder {
 public:
  explicit Builder(const Network& network)
      : network_(network),
        nodes_(network.ranks / network.ranks_per_node),
        hosts_(static_cast<size_t>(network.ranks)) {}

  std::vector<sg::Host*> Build() {
    switch (network_.topology) {
      case Topology::kStar:
        Star();
        break;
      case Topology::kFatTree:
        FatTree();
        break;
      case Topology::kTorus:
        Torus();
        break;
    }
    return std::move(hosts_);
  }

 private:
  // A device sends one message after the other, in the order in which they were posted: this makes
  // a ring's first slice arrive before its last one has left.
  void SendInOrder(sg::SplitDuplexLink* link) { link->get_link_up()->set_concurrency_limit(1); }

  // Ranks of a node, each with a link to the node's switch. Half of the latency lies on either end
  // of a way, wherever it leads.
  Leaf Node(int node, const sg::NetZone* parent) {
    sg::NetZone* const zone = sg::create_star_zone("node " + std::to_string(node));
    zone->set_parent(parent);
    const bool alone = network_.ranks_per_node == 1;
    for (int i = 0; i < network_.ranks_per_node; ++i) {
      // Nodes that only fill the topology have a host that nobody uses.
      const int rank = node * network_.ranks_per_node + i;
      sg::Host* const host = zone->create_host("rank " + std::to_string(rank), 1e9);
      sg::SplitDuplexLink* const link = zone->create_split_duplex_link(
          "link " + std::to_string(rank),
          alone ? network_.link_bytes_per_s : network_.node_link_bytes_per_s);
      link->set_latency(network_.latency_us * 1e-6 / 2);
      SendInOrder(link);
      link->seal();
      zone->add_route(host->get_netpoint(), nullptr, nullptr, nullptr,
                      {{link, sg::LinkInRoute::Direction::UP}}, true);
      if (rank < network_.ranks) hosts_[static_cast<size_t>(rank)] = host;
    }
    NetPoint* const node_switch = zone->create_router("switch of node " + std::to_string(node));
    zone->seal();
    return {zone->get_netpoint(), node_switch};
  }

  void Star() {
    sg::NetZone* const star = sg::create_star_zone("network");
    for (int node = 0; node < nodes_; ++node) {
      const auto [zone, node_switch] = Node(node, star);
      std::vector<sg::LinkInRoute> uplink;
      if (network_.ranks_per_node > 1) {
        sg::SplitDuplexLink* const link = star->create_split_duplex_link(
            "uplink " + std::to_string(node), network_.link_bytes_per_s);
        link->set_latency(network_.hop_latency_us * 1e-6);
        link->seal();
        uplink.emplace_back(link, sg::LinkInRoute::Direction::UP);
      }
      star->add_route(zone, nullptr, node_switch, nullptr, uplink, true);
    }
    star->seal();
  }

  sg::ClusterCallbacks Leaves() {
    return sg::ClusterCallbacks(
        [this](sg::NetZone* zone, const std::vector<unsigned long>&, unsigned long id) {
          return Node(static_cast<int>(id), zone);
        });
  }

  // Two levels; as many spine switches as a leaf switch has nodes, so that no link is a bottleneck
  // by itself.
  void FatTree() {
    const auto nodes = static_cast<unsigned>(nodes_);
    const auto down = static_cast<unsigned>(std::ceil(std::sqrt(nodes)));
    const unsigned leaves = (nodes + down - 1) / down;
    sg::create_fatTree_zone("network", nullptr,
                            sg::FatTreeParams(2, {down, leaves}, {1, down}, {1, 1}), Leaves(),
                            network_.link_bytes_per_s, network_.hop_latency_us * 1e-6,
                            sg::Link::SharingPolicy::SPLITDUPLEX)
        ->seal();
  }

  void Torus() {
    std::vector<unsigned long> dimensions;
    for (const int size : TorusOf(nodes_)) dimensions.push_back(static_cast<unsigned long>(size));
    sg::create_torus_zone("network", nullptr, dimensions, Leaves(), network_.link_bytes_per_s,
                          network_.hop_latency_us * 1e-6, sg::Link::SharingPolicy::SPLITDUPLEX)
        ->seal();
  }

  const Network& network_;
  const int nodes_;
  std::vector<sg::Host*> hosts_;
};

}  // namespace

std::vector<sg::Host*> BuildNetwork(const Network& network) {
  Configure(network);
  return Builder(network).Build();
}

}  // namespace gradwire::analysis
