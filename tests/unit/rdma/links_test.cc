// Links whose ends the caller carries, over queue pairs of the fake fabric, which keeps account of
// every verbs object.
#include "tests/support/fake_verbs.h"
#include "tests/support/link_contract.h"
#include "transport/rdma/transport.h"

namespace gradwire::test {
namespace {

ContractCase Fake(const std::string& name, int lanes, const std::string& receive_queue,
                  const std::string& completion) {
  Settings settings;
  settings.lanes = lanes;
  settings.receive_queue = receive_queue;
  settings.completion = completion;
  settings.queue_depth = 16;
  return {name,
          [settings](World& world) -> absl::StatusOr<std::unique_ptr<Transport>> {
            return rdma::RdmaTransport::Create(world, settings, "test");
          },
          ResetFakeVerbs,
          [] {
            EXPECT_EQ(GetFakeCounters().alive.total(), 0);
            EXPECT_EQ(GetFakeCounters().not_ready, 0u);
            EXPECT_EQ(GetFakeCounters().overruns, 0u);
          }};
}

INSTANTIATE_TEST_SUITE_P(Fake, LinkContract,
                         ::testing::Values(Fake("Own", 1, "own", "adaptive"),
                                           Fake("OwnLanes", 3, "own", "adaptive"),
                                           Fake("Shared", 1, "shared", "adaptive"),
                                           Fake("SharedLanes", 3, "shared", "polling"),
                                           Fake("Channel", 1, "own", "channel")),
                         CaseName);

}  // namespace
}  // namespace gradwire::test
