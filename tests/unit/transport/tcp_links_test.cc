// Links whose ends the caller carries, over TCP.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <iostream>
#include <utility>
#include <vector>

#include "tests/support/link_contract.h"
#include "transport/tcp/socket.h"
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

// More strangers than are greeted at a time, all of them silent, cost a newcomer their time and no
// more.
TEST(TcpLinks, SilentStrangersGiveWay) {
  const TransportMaker make = Tcp("", 1, 200).make;
  LinkServer server(make, kSmallLink);
  Loner client(make);
  auto end = client.transport->PrepareLink(3, "the server", kSmallLink);
  ASSERT_TRUE(end.ok()) << end.status();
  const auto theirs = server.Accept((*end)->facts());
  ASSERT_TRUE(theirs.ok()) << theirs.status();
  const auto address =
      tcp::SocketAddress::Parse(theirs->endpoints.front().address, theirs->endpoints.front().port);
  ASSERT_TRUE(address.ok());
  std::vector<FileDescriptor> strangers;
  for (int i = 0; i < 300; ++i) {
    strangers.emplace_back(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(connect(strangers.back().get(), address->get(), address->length), 0);
  }
  const auto link =
      client.transport->FinishLink(*std::move(end), *theirs, Role::kConnect, In(20'000));
  EXPECT_TRUE(link.ok()) << link.status();
}

// Room for `count` descriptors and no more; as many again when `hard` leaves the limit to raise.
void LimitDescriptors(rlim_t count, bool hard) {
  const FileDescriptor lowest(open("/dev/null", O_RDONLY | O_CLOEXEC));
  rlimit limit = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  limit.rlim_cur = static_cast<rlim_t>(lowest.get()) + count;
  if (hard) limit.rlim_max = limit.rlim_cur;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

// As many prepared ends as `wanted`, or why not.
absl::Status PrepareMany(Transport& transport, int wanted) {
  std::vector<std::unique_ptr<LinkEnd>> ends;
  while (static_cast<int>(ends.size()) < wanted) {
    GW_ASSIGN_OR_RETURN(auto end, transport.PrepareLink(3, "worker 5", kSmallLink));
    ends.push_back(std::move(end));
  }
  return absl::OkStatus();
}

TEST(TcpLinksDeathTest, DescriptorLimitIsRaisedAsFarAsItGoes) {
  ::testing::GTEST_FLAG(death_test_style) = "threadsafe";
  EXPECT_EXIT(
      {
        Loner loner(Tcp("", 1, 200).make);
        LimitDescriptors(100, /*hard=*/false);
        const absl::Status raised = PrepareMany(*loner.transport, 200);
        LimitDescriptors(100, /*hard=*/true);
        const absl::Status limited = PrepareMany(*loner.transport, 200);
        std::cerr << raised << "; " << limited << "\n";
        _exit(raised.ok() ? 0 : 1);
      },
      ::testing::ExitedWithCode(0),
      "OK; RESOURCE_EXHAUSTED: a link to worker 5: .* descriptors are needed.*ulimit -Hn");
}

INSTANTIATE_TEST_SUITE_P(Tcp, LinkContract,
                         ::testing::Values(Tcp("OneLane", 1, 200), Tcp("ThreeLanes", 3, 200),
                                           Tcp("NoSpinning", 1, 0)),
                         CaseName);

}  // namespace
}  // namespace gradwire::test
