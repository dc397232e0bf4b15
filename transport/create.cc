#include "transport/rdma/transport.h"
#include "transport/tcp/transport.h"
#include "transport/transport.h"

namespace gradwire {
namespace {

// What a rank has for RDMA, as it tells the others before `auto` is decided: one letter, and behind
// kNone the reason.
enum class Kind : char {
  kNone = '-',
  kRoceV2 = 'r',     // a kernel's device that RoCE v2 peers reach
  kOther = 'o',      // InfiniBand or RoCE v1: reaches only its like
  kUserSpace = 'u',  // urxe, which speaks RoCE v2
};

Kind KindOf(const rdma::PortChoice& port) {
  if (port.user_space) return Kind::kUserSpace;
  return port.gid.type == rdma::GidType::kRoceV2 ? Kind::kRoceV2 : Kind::kOther;
}

// The settings with which all ranks reach each other over RDMA, or why they do not.
struct Decision {
  Settings settings;
  std::string why_not;
};

// Every rank decides the same, from what all tell each other.
absl::StatusOr<Decision> Decide(World& world, const Settings& settings, std::string_view name) {
  const auto port = rdma::RdmaTransport::FindPort(world, settings);
  // A filter that cannot be read is the user's mistake, not a missing device.
  if (absl::IsInvalidArgument(port.status())) return port.status();
  std::string mine(1, static_cast<char>(port.ok() ? KindOf(*port) : Kind::kNone));
  if (!port.ok()) {
    // The usual case gets few words, since it stands in every first line.
    mine += absl::IsNotFound(port.status()) && settings.device.empty() ? "no RDMA device"
                                                                       : Message(port.status());
  }
  GW_ASSIGN_OR_RETURN(
      const std::vector<std::string> all,
      world.AllGather(fmt::format("transport/{}", name), mine, {}, settings.join_timeout));

  Decision decision{settings, ""};
  if (!port.ok()) {
    decision.why_not = mine.substr(1);
    return decision;
  }
  bool mixed = false;
  for (int rank = 0; rank < world.size(); ++rank) {
    const std::string& said = all[static_cast<size_t>(rank)];
    if (said.empty() || said[0] == static_cast<char>(Kind::kNone)) {
      decision.why_not = fmt::format("{}: {}", world.peer(rank).Describe(),
                                     said.empty() ? "says nothing" : said.substr(1));
      return decision;
    }
    mixed |= said[0] != mine[0];
  }
  // A device that reaches only its like gives way to urxe, which reaches all that speak RoCE v2.
  if (mixed && KindOf(*port) == Kind::kOther && settings.device.empty()) {
    decision.settings.device = "urxe";
  }
  return decision;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Transport>> CreateTransport(World& world, const Settings& settings,
                                                           std::string_view name) {
  if (settings.transport == "tcp") return tcp::TcpTransport::Create(world, settings, name);
  if (settings.transport == "rdma") return rdma::RdmaTransport::Create(world, settings, name);
  GW_ASSIGN_OR_RETURN(const Decision decision, Decide(world, settings, name));
  if (decision.why_not.empty()) return rdma::RdmaTransport::Create(world, decision.settings, name);
  if (!settings.device.empty()) {
    return FailedPrecondition("--device {}: {}", settings.device, decision.why_not);
  }
  return tcp::TcpTransport::Create(world, settings, name, decision.why_not);
}

}  // namespace gradwire
