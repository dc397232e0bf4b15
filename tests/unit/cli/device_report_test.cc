#include "cli/device_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <limits>
#include <sstream>

namespace gradwire::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

void ExpectFits(const std::string& text) {
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) EXPECT_LE(line.size(), 80u) << line;
}

std::vector<rdma::Port> SomePorts() {
  rdma::Port kernel{.device = "mlx5_0", .port = 1, .state = IBV_PORT_DOWN, .ethernet = true};
  kernel.mtu = 4096;
  rdma::Gid address;
  address.fill(0xfd);  // as long as an address can be
  kernel.gids = {{.index = 0, .type = rdma::GidType::kRoceV1, .gid = address},
                 {.index = 1, .type = rdma::GidType::kRoceV2, .gid = address}};
  rdma::Port user{.device = "urxe0", .port = 1, .state = IBV_PORT_ACTIVE, .ethernet = true};
  user.mtu = 1024;
  user.gids = {{.index = 0,
                .type = rdma::GidType::kRoceV2,
                .gid = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1}}};
  user.user_space = true;
  rdma::Port closed{.device = "rxe0", .port = 0};
  closed.problem = "cannot open rxe0: Permission denied; no permission for /dev/infiniband";
  return {kernel, user, closed};
}

TEST(DeviceReportTest, TableHasALineForEachGid) {
  const std::string table = DeviceTable(SomePorts());
  ExpectFits(table);
  EXPECT_THAT(table, HasSubstr("mlx5_0:1    kernel down   4096   0 v1   fdfd:fdfd:"));
  EXPECT_THAT(table, HasSubstr("\n                                 1 v2   fdfd:fdfd:"));
  EXPECT_THAT(table, HasSubstr("urxe0:1     user   active 1024   0 v2   10.0.0.1\n"));
  EXPECT_THAT(table, HasSubstr("    cannot be used: cannot open rxe0"));
}

TEST(DeviceReportTest, JsonHasTheSame) {
  const auto json = DevicesToJson(SomePorts());
  ASSERT_EQ(json.size(), 3u);
  EXPECT_EQ(json[0]["kind"], "kernel");
  EXPECT_EQ(json[0]["gids"].size(), 2u);
  EXPECT_EQ(json[1]["kind"], "user");
  EXPECT_EQ(json[1]["state"], "active");
  EXPECT_EQ(json[1]["gids"][0]["address"], "10.0.0.1");
  EXPECT_THAT(json[2]["problem"].get<std::string>(), HasSubstr("Permission denied"));
}

TEST(DeviceReportTest, CountersThatAreZeroAreLeftOutOfTheTableAlone) {
  UrxeProcess process{.pid = 7, .program = "ib_write_bw"};
  process.counters.packets_sent = 42;
  process.counters.unknown_queue_pairs = std::numeric_limits<uint64_t>::max();
  const std::string table = CounterTable(process);
  ExpectFits(table);
  EXPECT_THAT(table, HasSubstr("process 7 (ib_write_bw)\n"));
  EXPECT_THAT(table, HasSubstr("  packets_sent                    42  "
                               "packets put on the wire, retransmissions\n"));
  EXPECT_THAT(table, HasSubstr("18446744073709551615"));
  EXPECT_THAT(table, Not(HasSubstr("rnr_naks_sent")));
  const auto json = CountersToJson(std::vector{process});
  EXPECT_EQ(json[0]["counters"]["packets_sent"], 42);
  EXPECT_EQ(json[0]["counters"]["rnr_naks_sent"], 0);
}

TEST(DeviceReportTest, AProcessWithoutADeviceIsTold) {
  const auto self = ReadUrxeProcess("/proc", getppid());
  EXPECT_TRUE(absl::IsNotFound(self.status()) || absl::IsPermissionDenied(self.status()))
      << self.status();
  EXPECT_THAT(Message(ReadUrxeProcess("/proc", 1 << 30).status()),
              HasSubstr("there is no process"));
}

}  // namespace
}  // namespace gradwire::cli
