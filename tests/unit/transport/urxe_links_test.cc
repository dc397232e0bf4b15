// Links whose ends the caller carries, over urxe.
#include "tests/support/link_contract.h"
#include "transport/rdma/transport.h"

namespace gradwire::test {
namespace {

ContractCase Urxe(const std::string& name, const std::string& receive_queue,
                  const std::string& completion) {
  Settings settings;
  settings.device = "urxe";
  settings.receive_queue = receive_queue;
  settings.completion = completion;
  settings.queue_depth = 16;
  return {name, [settings](World& world) -> absl::StatusOr<std::unique_ptr<Transport>> {
            return rdma::RdmaTransport::Create(world, settings, "test");
          }};
}

INSTANTIATE_TEST_SUITE_P(Urxe, LinkContract,
                         ::testing::Values(Urxe("OwnReceives", "own", "adaptive"),
                                           Urxe("SharedReceives", "shared", "adaptive"),
                                           Urxe("Channel", "shared", "channel")),
                         CaseName);

}  // namespace
}  // namespace gradwire::test
