#include "cli/doctor_fix.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/cli/doctor_tree.h"

namespace gradwire::cli {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr const char* kRouteHead =
    "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n";

// A machine on which --fix would succeed, and a runner that does what the programs would do.
class FixTest : public DoctorTest {
 protected:
  FixTest() {
    WriteProgram("/usr/sbin/modprobe");
    WriteProgram("/usr/bin/rdma");
    WriteModule("ib_uverbs");
    WriteModule("rdma_rxe");
    WriteInterface("lo", true);
    WriteInterface("eth0", true);
    WriteInterface("eth1", true);
    Write("/proc/net/route", std::string(kRouteHead) +
                                 "eth1\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0\n"
                                 "eth0\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n");
    fix_.root = true;
    fix_.ready_limit = std::chrono::milliseconds(200);
    fix_.say = [this](const std::string& line) { said_.push_back(line); };
    options_.run = [this](const std::vector<std::string>& argv, std::chrono::milliseconds) {
      ran_.push_back(argv);
      EXPECT_THAT(said_, Contains(HasSubstr(argv.back())));  // said before it runs
      if (argv[0] == root_ + "/usr/sbin/modprobe") WriteLoaded(argv[1]);
      if (argv[0] == root_ + "/usr/bin/rdma" && result_.exit_code == 0) {
        WriteDevice(argv[3], state_, argv[7]);
      }
      return result_;
    };
  }

  FixReport RunFix() {
    fix_.probe = options_;
    return Fix(fix_);
  }
  std::vector<std::string> Commands() {
    std::vector<std::string> commands;
    for (const FixStep& step : RunFix().plan.steps) commands.push_back(step.Text());
    return commands;
  }
  std::string Error() { return Message(RunFix().status); }

  FixOptions fix_;
  std::vector<std::string> said_;
  CommandResult result_;             // of each command
  std::string state_ = "4: ACTIVE";  // of the device that is made
};

TEST_F(FixTest, LoadsModulesAndMakesRxeOnTheDefaultRoute) {
  const FixReport report = RunFix();
  ASSERT_TRUE(report.status.ok()) << report.status;
  EXPECT_THAT(ran_, ElementsAre(ElementsAre(root_ + "/usr/sbin/modprobe", "ib_uverbs"),
                                ElementsAre(root_ + "/usr/sbin/modprobe", "rdma_rxe"),
                                ElementsAre(root_ + "/usr/bin/rdma", "link", "add", "rxe0", "type",
                                            "rxe", "netdev", "eth0")));
  EXPECT_THAT(said_, ElementsAre("+ modprobe ib_uverbs", "  done", "+ modprobe rdma_rxe", "  done",
                                 "+ rdma link add rxe0 type rxe netdev eth0", "  done",
                                 "rxe0 is usable on eth0"));
  EXPECT_EQ(report.plan.device, "rxe0");
}

TEST_F(FixTest, ASecondRunFindsNothingToDo) {
  ASSERT_TRUE(RunFix().status.ok());
  ran_.clear();
  said_.clear();
  EXPECT_TRUE(RunFix().status.ok());
  EXPECT_THAT(ran_, IsEmpty());
  EXPECT_THAT(said_, ElementsAre("nothing to do: rxe0 is usable on eth0"));
  // Nor does a user without root have anything to do.
  fix_.root = false;
  EXPECT_TRUE(RunFix().status.ok());
}

TEST_F(FixTest, AnotherInterfaceGetsADeviceOfItsOwn) {
  ASSERT_TRUE(RunFix().status.ok());
  fix_.interface = "eth1";
  EXPECT_THAT(Commands(), ElementsAre("rdma link add rxe1 type rxe netdev eth1"));
}

TEST_F(FixTest, WithoutRootTheCommandsAreSaidAndNothingRuns) {
  fix_.root = false;
  const FixReport report = RunFix();
  EXPECT_FALSE(report.status.ok());
  EXPECT_THAT(Message(report.status), HasSubstr("needs root"));
  EXPECT_THAT(said_, ElementsAre("sudo modprobe ib_uverbs", "sudo modprobe rdma_rxe",
                                 "sudo rdma link add rxe0 type rxe netdev eth0"));
  EXPECT_THAT(ran_, IsEmpty());
}

TEST_F(FixTest, SiwServesWhereTheKernelHasNoRxe) {
  std::filesystem::remove_all(root_ + "/lib/modules");
  WriteModule("ib_uverbs");
  WriteModule("siw");
  EXPECT_THAT(Commands(), ElementsAre("modprobe ib_uverbs", "modprobe siw",
                                      "rdma link add siw0 type siw netdev eth0"));
}

TEST_F(FixTest, AnIWarpDeviceServesOnlyWhereRxeDoesNot) {
  WriteDevice("siw0", "4: ACTIVE", "eth0", "uverbs7");
  Write("/sys/class/infiniband/siw0/node_type", "4: RNIC\n");
  WriteLoaded("ib_uverbs");
  EXPECT_THAT(Commands(),
              ElementsAre("modprobe rdma_rxe", "rdma link add rxe0 type rxe netdev eth0"));
  std::filesystem::remove_all(root_ + "/sys/class/infiniband/rxe0");
  std::filesystem::remove_all(root_ + "/sys/module/rdma_rxe");
  std::filesystem::remove_all(root_ + "/lib/modules");
  said_.clear();
  EXPECT_THAT(Commands(), IsEmpty());
  EXPECT_THAT(said_, ElementsAre("nothing to do: siw0 is usable on eth0", HasSubstr("iWARP")));
}

TEST_F(FixTest, AKernelWithNeitherIsNamedWithTheRemedy) {
  std::filesystem::remove_all(root_ + "/lib/modules");
  WriteModule("ib_uverbs");
  WriteSystem("ubuntu");
  EXPECT_THAT(Error(), HasSubstr("`apt install linux-modules-extra-6.1.0-9-generic`"));
  EXPECT_THAT(ran_, IsEmpty());
}

TEST_F(FixTest, InAContainerWithoutModulesTheHostsKernelIsAsked) {
  std::filesystem::remove_all(root_ + "/lib/modules");
  Write("/.dockerenv", "");
  EXPECT_THAT(Commands(), ElementsAre("rdma link add rxe0 type rxe netdev eth0"));
}

TEST_F(FixTest, AnUnknownInterfaceIsTheUsersMistake) {
  fix_.interface = "../../etc";
  const FixReport report = RunFix();
  EXPECT_EQ(report.status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Message(report.status), HasSubstr("there are: eth0, eth1"));
}

TEST_F(FixTest, AnInterfaceThatIsDownIsNotTouched) {
  WriteInterface("eth0", false);
  EXPECT_THAT(Error(), HasSubstr("interface eth0 is down; `ip link set eth0 up`"));
  EXPECT_THAT(ran_, IsEmpty());
}

TEST_F(FixTest, WithoutADefaultRouteTheUserMustNameOne) {
  Write("/proc/net/route", kRouteHead);
  EXPECT_THAT(Error(), HasSubstr("--interface: eth0, eth1"));
  fix_.interface = "eth1";
  EXPECT_TRUE(RunFix().status.ok());
}

TEST_F(FixTest, AMissingProgramIsNamedWithItsPackage) {
  std::filesystem::remove(root_ + "/usr/bin/rdma");
  EXPECT_THAT(Error(), HasSubstr("`apt install iproute2`"));
  std::filesystem::remove(root_ + "/usr/sbin/modprobe");
  EXPECT_THAT(Error(), HasSubstr("`apt install kmod`"));
  EXPECT_THAT(ran_, IsEmpty());
}

TEST_F(FixTest, AFailedCommandEndsItAndIsQuoted) {
  result_ = {1, "modprobe: FATAL: Module ib_uverbs not found"};
  const FixReport report = RunFix();
  EXPECT_THAT(Message(report.status),
              HasSubstr("`modprobe ib_uverbs` failed with code 1: modprobe: FATAL"));
  EXPECT_EQ(ran_.size(), 1u);
  EXPECT_TRUE(report.plan.steps[0].done);
  EXPECT_FALSE(report.plan.steps[1].done);
}

TEST_F(FixTest, ACommandThatHangsIsAnError) {
  options_.run = [](const std::vector<std::string>& argv, std::chrono::milliseconds) {
    return absl::StatusOr<CommandResult>(DeadlineExceeded("{} did not end", argv[0]));
  };
  EXPECT_THAT(Error(), HasSubstr("did not end"));
}

TEST_F(FixTest, ADeviceThatDoesNotComeUpIsAnError) {
  state_ = "1: DOWN";
  EXPECT_THAT(Error(), HasSubstr("rxe0 has no active port"));
  // And the next run does not make a second one on top.
  ran_.clear();
  EXPECT_THAT(Error(), HasSubstr("rxe0 is there already, but its port 1 is in state 1: DOWN"));
  EXPECT_THAT(ran_, IsEmpty());
}

TEST_F(FixTest, ADeviceThatIsDownIsTheReasonWhereNoRouteIs) {
  WriteDevice("rxe0", "1: DOWN", "eth0");
  WriteInterface("eth0", false);
  Write("/proc/net/route", kRouteHead);
  EXPECT_THAT(Error(), HasSubstr("interface eth0 is down: `ip link set eth0 up`"));
}

TEST_F(FixTest, ADeviceWithoutADeviceFileIsNotUsable) {
  WriteLoaded("ib_uverbs");
  WriteDevice("rxe0", "4: ACTIVE", "eth0");
  std::filesystem::remove_all(root_ + "/dev");
  EXPECT_THAT(Error(), HasSubstr("there is no /dev/infiniband/uverbs0"));
}

TEST_F(FixTest, AnActiveDeviceWithoutVerbsNeedsOnlyTheirModule) {
  WriteDevice("mlx5_0", "4: ACTIVE", "eth0");
  EXPECT_THAT(Commands(), ElementsAre("modprobe ib_uverbs"));
}

TEST_F(FixTest, TheDefaultRouteWithTheLowestMetricCounts) {
  Write("/proc/net/route", std::string(kRouteHead) +
                               "wlan0\t00000000\t0100000A\t0003\t0\t0\t600\t00000000\t0\t0\t0\n"
                               "eth9\t00000000\t0100000A\t0203\t0\t0\t1\t00000000\t0\t0\t0\n"
                               "eth0\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"
                               "eth2\t00000000\t0100000A\t0003\t0\t0\t50\t000000FF\t0\t0\t0\n");
  EXPECT_EQ(DefaultRouteInterface(options_.proc), "eth0");
}

TEST_F(FixTest, IPv6ServesWhereThereIsNoIPv4Route) {
  const std::string zero(32, '0');
  Write("/proc/net/route", kRouteHead);
  Write("/proc/net/ipv6_route",
        zero + " 00 " + zero + " 00 " + zero + " ffffffff 00000001 00000000 00200200 lo\n" +  //
            zero + " 00 " + zero + " 00 fe80" + zero.substr(4) +
            " 00000400 00000001 00000000 00450003 eth1\n" +  //
            "fe80" + zero.substr(4) + " 40 " + zero + " 00 " + zero +
            " 00000100 00000001 00000000 00000001 eth0\n");
  EXPECT_EQ(DefaultRouteInterface(options_.proc), "eth1");
  EXPECT_EQ(DefaultRouteInterface(root_ + "/nothing"), "");
}

}  // namespace
}  // namespace gradwire::cli
