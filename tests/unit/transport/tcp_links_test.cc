// Links whose ends the caller carries, over TCP.
#include "tests/support/link_contract.h"
#include "transport/tcp/transport.h"

namespace gradwire::test {
namespace {

ContractCase Tcp(const std::string& name, int lanes, int spin_us) {
  Settings settings;
  settings.lanes = lanes;
  settings.spin_us = spin_us;
  return {name, [settings](World& world) -> absl::StatusOr<std::unique_ptr<Transport>> {
            return tcp::TcpTransport::Create(world, settings, "test");
          }};
}

INSTANTIATE_TEST_SUITE_P(Tcp, LinkContract,
                         ::testing::Values(Tcp("OneLane", 1, 200), Tcp("ThreeLanes", 3, 200),
                                           Tcp("NoSpinning", 1, 0)),
                         CaseName);

}  // namespace
}  // namespace gradwire::test
