#include "transport/rdma/transport.h"
#include "transport/tcp/transport.h"
#include "transport/transport.h"

namespace gradwire {
namespace {

// Why `auto` does not take RDMA: the reason of the first rank that has no device, empty when all
// have one. Every rank decides the same, from what all tell each other.
absl::StatusOr<std::string> WhyNotRdma(World& world, const Settings& settings,
                                       std::string_view name) {
  const auto port = rdma::RdmaTransport::FindPort(world, settings);
  // A filter that cannot be read is the user's mistake, not a missing device.
  if (absl::IsInvalidArgument(port.status())) return port.status();
  // The usual case gets few words, since it stands in every first line.
  const std::string mine = port.ok() ? ""
                           : absl::IsNotFound(port.status()) && settings.device.empty()
                               ? "no RDMA device"
                               : Message(port.status());
  GW_ASSIGN_OR_RETURN(
      const std::vector<std::string> reasons,
      world.AllGather(fmt::format("transport/{}", name), mine, {}, settings.join_timeout));
  if (!reasons[static_cast<size_t>(world.rank())].empty()) {
    return reasons[static_cast<size_t>(world.rank())];
  }
  for (int rank = 0; rank < world.size(); ++rank) {
    const std::string& reason = reasons[static_cast<size_t>(rank)];
    if (!reason.empty()) return fmt::format("{}: {}", world.peer(rank).Describe(), reason);
  }
  return std::string();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Transport>> CreateTransport(World& world, const Settings& settings,
                                                           std::string_view name) {
  if (settings.transport == "tcp") return tcp::TcpTransport::Create(world, settings, name);
  if (settings.transport == "rdma") return rdma::RdmaTransport::Create(world, settings, name);
  GW_ASSIGN_OR_RETURN(const std::string reason, WhyNotRdma(world, settings, name));
  if (reason.empty()) return rdma::RdmaTransport::Create(world, settings, name);
  if (!settings.device.empty()) {
    return FailedPrecondition("--device {}: {}", settings.device, reason);
  }
  return tcp::TcpTransport::Create(world, settings, name, reason);
}

}  // namespace gradwire
