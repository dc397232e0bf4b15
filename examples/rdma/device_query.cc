// Which device, port, GID and MTU would Gradwire use here, and where are their limits?
//
// Run it on one host, by itself: example_rdma_device_query. GRADWIRE_DEVICE and GRADWIRE_GID_INDEX
// change the choice as they do everywhere.
#include <fmt/format.h>
#include <sys/resource.h>

#include "transport/rdma/interface.h"
#include "transport/rdma/verbs.h"
#include "transport/settings.h"

namespace gradwire {
namespace {

void Print(const rdma::Port& port) {
  if (!port.problem.empty()) {
    fmt::print("{}: {}\n", port.device, port.problem);
    return;
  }
  fmt::print("{} port {}: {}, {}, MTU {}\n", port.device, port.port, ibv_port_state_str(port.state),
             port.ethernet ? "RoCE" : "InfiniBand", port.mtu);
  for (const rdma::GidEntry& entry : port.gids) {
    fmt::print("  GID {}: {} ({})\n", entry.index, rdma::FormatGid(entry.gid),
               rdma::GidTypeName(entry.type));
  }
}

const char* NameOf(ibv_atomic_cap atomics) {
  return atomics == IBV_ATOMIC_NONE  ? "none"
         : atomics == IBV_ATOMIC_HCA ? "among queue pairs of this device"
                                     : "with this host's processors too";
}

absl::Status Run() {
  GW_ASSIGN_OR_RETURN(const Settings settings, SettingsFromEnvironment());
  GW_ASSIGN_OR_RETURN(const auto ports, rdma::ListPorts());
  for (const rdma::Port& port : ports) Print(port);
  GW_ASSIGN_OR_RETURN(const rdma::PortChoice choice,
                      rdma::ChoosePort(ports, settings, /*local_address=*/""));
  fmt::print("\nGradwire would use {}\n\n", choice.Describe());

  GW_ASSIGN_OR_RETURN(rdma::Device device, rdma::Device::Open(choice.device));
  const ibv_device_attr& most = device.attributes();
  fmt::print("queue pairs                     {}\n", most.max_qp);
  fmt::print("work requests of a queue pair   {}\n", most.max_qp_wr);
  fmt::print("pieces of a work request        {}\n", most.max_sge);
  fmt::print("completions of a queue          {}\n", most.max_cqe);
  fmt::print("receives of a shared queue      {}\n", most.max_srq_wr);
  fmt::print("regions                         {} of up to {} bytes\n", most.max_mr,
             most.max_mr_size);
  fmt::print("READs and atomics under way     {} per queue pair\n", most.max_qp_rd_atom);
  fmt::print("atomics                         {}\n", NameOf(most.atomic_cap));

  // How much a request can carry itself is in no table: the answer comes with a queue pair.
  GW_ASSIGN_OR_RETURN(rdma::ProtectionDomain domain, device.AllocateProtectionDomain());
  GW_ASSIGN_OR_RETURN(rdma::CompletionQueue completions,
                      device.CreateCompletionQueue(16, /*with_channel=*/false));
  rdma::QueuePairOptions options;
  options.completion_queue = &completions;
  options.send_depth = 4;
  options.receive_depth = 4;
  options.inline_bytes = static_cast<int>(settings.inline_bytes);
  GW_ASSIGN_OR_RETURN(const rdma::QueuePair queue_pair, domain.CreateQueuePair(options));
  fmt::print("inline bytes, {:>3} wanted        {}\n", options.inline_bytes,
             queue_pair.inline_bytes());

  rlimit locked{};
  getrlimit(RLIMIT_MEMLOCK, &locked);
  fmt::print(
      "memory this user may register   {}\n",
      locked.rlim_cur == RLIM_INFINITY ? "unlimited" : fmt::format("{} bytes", locked.rlim_cur));
  return absl::OkStatus();
}

}  // namespace
}  // namespace gradwire

int main(int argc, char** argv) {
  if (argc != 1) {
    fmt::print(stderr, "usage: {}\n", argv[0]);
    return 2;
  }
  const absl::Status status = gradwire::Run();
  if (!status.ok()) fmt::print(stderr, "{}\n", gradwire::Message(status));
  return status.ok() ? 0 : 1;
}
