#include "cli/doctor_rdma.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "tests/unit/cli/doctor_tree.h"

namespace gradwire::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class RdmaTest : public DoctorTest {
 protected:
  static constexpr const char* kPort = "/sys/class/infiniband/rxe0/ports/1";

  void WriteGid(int index, const std::string& gid, const std::string& type) {
    const std::string number = std::to_string(index);
    Write(std::string(kPort) + "/gids/" + number, gid + "\n");
    if (type.empty()) return;
    Write(std::string(kPort) + "/gid_attrs/types/" + number, type + "\n");
    Write(std::string(kPort) + "/gid_attrs/ndevs/" + number, "eth0\n");
  }

  // rxe0 on eth0 as it should be, seen by libibverbs too.
  void WriteGoodDevice() {
    WriteInterface("eth0", true, 4200);
    WriteDevice("rxe0", "4: ACTIVE", "eth0");
    WriteGid(0, "fe80:0000:0000:0000:5054:00ff:fe12:3456", "IB/RoCE v1");
    WriteGid(1, "0000:0000:0000:0000:0000:ffff:0a00:0001", "RoCE v2");
    WriteGid(2, "0000:0000:0000:0000:0000:0000:0000:0000", "");
    rdma::Port port{.device = "rxe0", .port = 1, .state = IBV_PORT_ACTIVE, .ethernet = true};
    port.mtu = 4096;
    port.gids = {{.index = 1,
                  .type = rdma::GidType::kRoceV2,
                  .gid = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1}}};
    seen_ = {port};
  }
};

TEST_F(RdmaTest, NoDeviceIsSaidPlainlyWithTheWayToOne) {
  Findings findings = ProbeRdma(options_);
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_EQ(findings[0].verdict, Verdict::kNote);
  EXPECT_EQ(findings[0].detail, "the kernel has no RDMA device; data move over TCP");
  EXPECT_THAT(findings[0].remedy, Not(HasSubstr("--fix")));
  WriteModule("rdma_rxe");
  findings = ProbeRdma(options_);
  EXPECT_THAT(findings[0].remedy, HasSubstr("gradwire doctor --fix"));
  EXPECT_TRUE(ran_.empty());  // asking the rdma tool would load ib_core
}

TEST_F(RdmaTest, WithoutADeviceOfTheKernelDataMoveOverUrxe) {
  seen_ = {UserSpacePort()};
  const Findings findings = ProbeRdma(options_);
  EXPECT_EQ(FindingAbout(findings, "rdma").detail,
            "the kernel has no RDMA device; data move over urxe0, in user space");
  EXPECT_THAT(FindingAbout(findings, "rdma choice").detail, HasSubstr("rdma on urxe0"));
}

TEST_F(RdmaTest, AGoodDeviceIsDescribedInFull) {
  WriteGoodDevice();
  const Findings findings = ProbeRdma(options_);
  for (const Finding& finding : findings)
    EXPECT_EQ(finding.verdict, Verdict::kOk) << finding.detail;
  EXPECT_THAT(FindingAbout(findings, "rdma rxe0").detail, HasSubstr("/dev/infiniband/uverbs0"));
  EXPECT_EQ(FindingAbout(findings, "rdma rxe0 port 1").detail,
            "state 4: ACTIVE, link layer Ethernet, rate 2.5 Gb/sec (1X SDR), active MTU 4096, on "
            "eth0 with MTU 4200");
  EXPECT_EQ(FindingAbout(findings, "rdma rxe0 port 1 gids").detail,
            "0: fe80::5054:ff:fe12:3456 IB/RoCE v1 eth0, 1: ::ffff:10.0.0.1 RoCE v2 eth0");
  EXPECT_THAT(FindingAbout(findings, "rdma choice").detail,
              AllOf(HasSubstr("rxe0 port 1"), HasSubstr("10.0.0.1")));
}

TEST_F(RdmaTest, AnInterfaceThatIsDownIsNamed) {
  WriteGoodDevice();
  Write(std::string(kPort) + "/state", "1: DOWN\n");
  WriteInterface("eth0", false);
  const Finding finding = FindingAbout(ProbeRdma(options_), "rdma rxe0 port 1");
  EXPECT_EQ(finding.verdict, Verdict::kNote);
  EXPECT_THAT(finding.remedy, HasSubstr("`ip link set eth0 up`"));
}

TEST_F(RdmaTest, AnInfiniBandPortWaitsForItsSubnetManager) {
  WriteGoodDevice();
  Write(std::string(kPort) + "/state", "2: INIT\n");
  Write(std::string(kPort) + "/link_layer", "InfiniBand\n");
  EXPECT_THAT(FindingAbout(ProbeRdma(options_), "rdma rxe0 port 1").remedy, HasSubstr("opensm"));
}

TEST_F(RdmaTest, AnIWarpPortIsSaidToBeOfNoUseToGradwire) {
  WriteGoodDevice();
  Write("/sys/class/infiniband/rxe0/node_type", "4: RNIC\n");
  const Finding finding = FindingAbout(ProbeRdma(options_), "rdma rxe0 port 1");
  EXPECT_EQ(finding.verdict, Verdict::kNote);
  EXPECT_THAT(finding.detail, HasSubstr("iWARP"));
}

TEST_F(RdmaTest, APortWithoutGidsWantsAnAddress) {
  WriteInterface("eth0", true);
  WriteDevice("rxe0", "4: ACTIVE", "eth0");
  const Finding finding = FindingAbout(ProbeRdma(options_), "rdma rxe0 port 1 gids");
  EXPECT_EQ(finding.verdict, Verdict::kNote);
  EXPECT_THAT(finding.remedy, HasSubstr("dev eth0"));
}

TEST_F(RdmaTest, ALongTableIsCutAndCounted) {
  WriteGoodDevice();
  for (int index = 2; index < 20; ++index) {
    WriteGid(index, "fe80:0000:0000:0000:0000:0000:0000:00" + std::to_string(10 + index),
             "RoCE v2");
  }
  EXPECT_THAT(FindingAbout(ProbeRdma(options_), "rdma rxe0 port 1 gids").detail,
              HasSubstr(" and 4 more"));
}

TEST_F(RdmaTest, WhatKeepsProgramsOutIsSaidOneByOne) {
  WriteGoodDevice();
  const auto detail = [&] { return FindingAbout(ProbeRdma(options_), "rdma rxe0"); };

  seen_.clear();
  EXPECT_THAT(detail().remedy, HasSubstr("apt install ibverbs-providers"));

  std::filesystem::remove(root_ + "/dev/infiniband/uverbs0");
  EXPECT_THAT(detail().detail, HasSubstr("there is no /dev/infiniband/uverbs0"));
  EXPECT_THAT(detail().remedy, HasSubstr("rdma-core"));
  Write("/run/.containerenv", "");
  EXPECT_THAT(detail().remedy, HasSubstr("--device /dev/infiniband"));

  std::filesystem::remove_all(root_ + "/sys/class/infiniband_verbs");
  EXPECT_THAT(detail().remedy, HasSubstr("modprobe ib_uverbs"));
}

TEST_F(RdmaTest, AMissingRightIsNamed) {
  if (geteuid() == 0) GTEST_SKIP() << "root has every right";
  WriteGoodDevice();
  chmod((root_ + "/dev/infiniband/uverbs0").c_str(), 0400);
  const Finding finding = FindingAbout(ProbeRdma(options_), "rdma rxe0");
  EXPECT_THAT(finding.detail, HasSubstr("no right to open /dev/infiniband/uverbs0"));
  EXPECT_THAT(finding.remedy, HasSubstr("chmod 0666"));
}

TEST_F(RdmaTest, ADeviceThatDoesNotOpenSaysWhy) {
  WriteGoodDevice();
  seen_ = {{.device = "rxe0", .problem = "cannot open rxe0: Operation not permitted"}};
  EXPECT_THAT(FindingAbout(ProbeRdma(options_), "rdma rxe0").detail,
              HasSubstr("Operation not permitted"));
}

TEST_F(RdmaTest, TheRdmaToolIsQuotedOrItsFailureNoted) {
  WriteGoodDevice();
  WriteProgram("/usr/bin/rdma");
  CommandResult result{0, "link rxe0/1 state ACTIVE \nlink rxe1/1 state DOWN "};
  options_.run = [&](const std::vector<std::string>& argv, std::chrono::milliseconds) {
    EXPECT_THAT(argv, testing::ElementsAre(root_ + "/usr/bin/rdma", "link", "show"));
    return result;
  };
  EXPECT_EQ(FindingAbout(ProbeRdma(options_), "rdma link").detail,
            "link rxe0/1 state ACTIVE; link rxe1/1 state DOWN");
  result = {2, "Error: no such thing"};
  const Finding failed = FindingAbout(ProbeRdma(options_), "rdma link");
  EXPECT_EQ(failed.verdict, Verdict::kNote);
  EXPECT_THAT(failed.detail, HasSubstr("no such thing"));
}

TEST_F(RdmaTest, EachMissingPackageHasItsSentence) {
  WriteProgram("/usr/bin/rdma");
  Write("/usr/sbin/modprobe", "not executable");
  const Findings findings = ProbePackages(options_);
  EXPECT_EQ(FindingAbout(findings, "rdma packages").detail, "installed: iproute2");
  EXPECT_EQ(FindingAbout(findings, "package perftest").remedy, "`apt install perftest`");
  EXPECT_EQ(FindingAbout(findings, "package kmod").verdict, Verdict::kNote);
  EXPECT_EQ(findings.size(), 6u);
}

}  // namespace
}  // namespace gradwire::cli
