#include "transport/tcp/transport.h"
#include "transport/transport.h"

namespace gradwire {

absl::StatusOr<std::unique_ptr<Transport>> CreateTransport(World& world, const Settings& settings,
                                                           std::string_view name) {
  if (settings.transport == "rdma") {
    return InvalidArgument(
        "--transport rdma: this build moves data over TCP only; use tcp or auto");
  }
  if (!settings.device.empty()) {
    return InvalidArgument(
        "--device {}: it names an RDMA device, and this build moves data over TCP only; "
        "--socket-interface chooses where",
        settings.device);
  }
  return tcp::TcpTransport::Create(world, settings, name);
}

}  // namespace gradwire
