#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>

#include "tests/unit/cli/doctor_tree.h"

namespace gradwire::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class UrxeTest : public DoctorTest {
 protected:
  UrxeTest() {
    seen_ = {UserSpacePort()};
    Write("/proc/sys/net/core/rmem_max", "212992\n");
  }
  void WriteSocket(const std::string& address, int uid) {
    Write("/proc/net/udp",
          "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  "
          "timeout inode ref pointer drops\n"
          "  136: 0100007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0      "
          "  0 11 2 0000000000000000 0\n  137: " +
              address + " 00000000:0000 07 00000000:00000000 00:00000000 00000000  " +
              std::to_string(uid) + "        0 12 2 0000000000000000 0\n");
  }
};

TEST_F(UrxeTest, AMalformedVariableIsAProblem) {
  options_.urxe_problem = [] { return "URXE_FAULTS=drop=2: must have a rate"; };
  const Findings findings = ProbeUrxe(options_);
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_EQ(findings[0].verdict, Verdict::kProblem);
  EXPECT_THAT(findings[0].detail, HasSubstr("URXE_FAULTS=drop=2"));
}

TEST_F(UrxeTest, AGoodDeviceIsDescribed) {
  const Findings findings = ProbeUrxe(options_);
  EXPECT_EQ(findings.size(), 4u);
  for (const Finding& finding : findings) {
    EXPECT_EQ(finding.verdict, Verdict::kOk) << finding.subject << ": " << finding.detail;
    EXPECT_EQ(finding.remedy, "") << finding.subject;
  }
  EXPECT_EQ(FindingAbout(findings, "urxe0").detail, "RoCE v2 in user space, 10.0.0.1, MTU 1024");
  EXPECT_THAT(FindingAbout(findings, "urxe receive buffer").detail, HasSubstr("212992"));
}

TEST_F(UrxeTest, OnlyAKernelsDeviceIsNoneOfItsOwn) {
  seen_[0].user_space = false;
  EXPECT_THAT(FindingAbout(ProbeUrxe(options_), "urxe").remedy, HasSubstr("bring it up"));
}

TEST_F(UrxeTest, APortThatIsDownIsNoted) {
  seen_[0].state = IBV_PORT_DOWN;
  const Finding finding = FindingAbout(ProbeUrxe(options_), "urxe0");
  EXPECT_EQ(finding.verdict, Verdict::kNote);
  EXPECT_THAT(finding.remedy, HasSubstr("URXE_INTERFACES"));
}

TEST_F(UrxeTest, TheHolderOfThePortIsTold) {
  const auto port = [&] { return FindingAbout(ProbeUrxe(options_), "urxe0 UDP port 4791"); };
  WriteSocket("00000000:12B7", 0);  // rdma_rxe's
  EXPECT_EQ(port().verdict, Verdict::kNote);
  EXPECT_THAT(port().detail, HasSubstr("rdma_rxe"));
  EXPECT_THAT(port().remedy, HasSubstr("modprobe -r rdma_rxe"));

  const int other = static_cast<int>(geteuid()) + 7;
  WriteSocket("0100000A:12B7", other);
  EXPECT_THAT(port().detail, AllOf(HasSubstr("10.0.0.1"), HasSubstr(std::to_string(other))));
  WriteSocket("0200000A:12B7", other);  // of another address
  EXPECT_EQ(port().verdict, Verdict::kOk);
  WriteSocket("0100000A:12B7", static_cast<int>(geteuid()));
  EXPECT_EQ(port().verdict, Verdict::kOk);

  Write("/proc/net/udp", "");
  Write("/proc/net/udp6",
        "  sl  local_address                         remote_address ...\n"
        "  137: 00000000000000000000000000000000:12B7 00000000000000000000000000000000:0000 07 "
        "00000000:00000000 00:00000000 00000000     0        0 12 2 0000000000000000 0\n");
  EXPECT_EQ(port().verdict, Verdict::kNote);
}

TEST_F(UrxeTest, WhatForbidsTheSameHostPathIsNamed) {
  const auto path = [&] { return FindingAbout(ProbeUrxe(options_), "urxe same-host path"); };
  copy_error_ = EPERM;
  EXPECT_EQ(path().verdict, Verdict::kNote);
  EXPECT_THAT(path().detail, HasSubstr("reached by UDP"));
  EXPECT_THAT(path().remedy, HasSubstr("seccomp"));
  Write("/proc/sys/kernel/yama/ptrace_scope", "1\n");
  EXPECT_THAT(path().remedy, HasSubstr("kernel.yama.ptrace_scope=0"));
  Write("/proc/sys/kernel/yama/ptrace_scope", "3\n");
  EXPECT_THAT(path().remedy, HasSubstr("until the next boot"));
}

TEST_F(UrxeTest, TheCopyIsReallyTried) {
  // What it says depends on this machine; that it ends and leaves no child does not.
  const int error = TryCopyBetweenProcesses();
  EXPECT_TRUE(error == 0 || error == EPERM || error == ENOSYS || error == EACCES) << error;
}

TEST_F(UrxeTest, ASmallReceiveBufferIsNoted) {
  Write("/proc/sys/net/core/rmem_max", "65536\n");
  const Finding finding = FindingAbout(ProbeUrxe(options_), "urxe receive buffer");
  EXPECT_EQ(finding.verdict, Verdict::kNote);
  EXPECT_THAT(finding.remedy, HasSubstr("net.core.rmem_max=212992"));
}

}  // namespace
}  // namespace gradwire::cli
