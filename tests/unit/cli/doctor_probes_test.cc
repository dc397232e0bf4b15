#include "cli/doctor_probes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace gradwire::cli {
namespace {

using ::testing::HasSubstr;

// A tree that stands in for /proc and /sys.
class ProbesTest : public testing::Test {
 protected:
  ProbesTest() {
    root_ = testing::TempDir() + "probes_" +
            testing::UnitTest::GetInstance()->current_test_info()->name();
    options_.proc = root_ + "/proc";
    options_.sys = root_ + "/sys";
  }
  ~ProbesTest() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) {
    const std::filesystem::path file = root_ + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }

  std::string root_;
  ProbeOptions options_;
};

TEST_F(ProbesTest, NoRdmaDeviceIsSaidPlainly) {
  const Findings findings = ProbeRdma(options_);
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_EQ(findings[0].verdict, Verdict::kOk);
  EXPECT_THAT(findings[0].detail, HasSubstr("no RDMA device"));
}

TEST_F(ProbesTest, RdmaPortsAreListedWithTheirState) {
  const std::string device = "/sys/class/infiniband/mlx5_0/ports/";
  Write(device + "1/state", "4: ACTIVE\n");
  Write(device + "1/link_layer", "Ethernet\n");
  Write(device + "1/rate", "100 Gb/sec (4X EDR)\n");
  Write(device + "2/state", "1: DOWN\n");
  const Findings findings = ProbeRdma(options_);
  ASSERT_EQ(findings.size(), 2u);
  EXPECT_EQ(findings[0].subject, "rdma mlx5_0 port 1");
  EXPECT_EQ(findings[0].verdict, Verdict::kOk);
  EXPECT_THAT(findings[0].detail, HasSubstr("ACTIVE, link layer Ethernet, rate 100 Gb/sec"));
  EXPECT_EQ(findings[1].verdict, Verdict::kNote);
  EXPECT_FALSE(findings[1].remedy.empty());
}

TEST_F(ProbesTest, VectorInstructionsComeFromCpuinfo) {
  Write("/proc/cpuinfo", "processor : 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 fma\n");
  const Findings findings = ProbeCpu(options_);
  ASSERT_EQ(findings.size(), 2u);
  EXPECT_THAT(findings[0].detail, HasSubstr("Some CPU"));
  EXPECT_EQ(findings[1].detail, "avx2 fma");
}

TEST_F(ProbesTest, ACpuQuotaBelowTheCoresIsNoted) {
  Write("/sys/fs/cgroup/cpu.max", "50000 100000\n");
  const Findings findings = ProbeCpu(options_);
  ASSERT_EQ(findings.size(), 3u);
  EXPECT_EQ(findings[1].verdict, Verdict::kNote);
  EXPECT_THAT(findings[1].detail, HasSubstr("0.50 cores"));
  Write("/sys/fs/cgroup/cpu.max", "max 100000\n");
  EXPECT_EQ(ProbeCpu(options_).size(), 2u);
}

TEST_F(ProbesTest, LittleMemoryIsNoted) {
  Write("/proc/meminfo", "MemTotal: 4194304 kB\nMemAvailable: 2097152 kB\n");
  EXPECT_EQ(ProbeMemory(options_)[0].verdict, Verdict::kOk);
  EXPECT_EQ(ProbeMemory(options_)[0].detail, "4.0 GiB, 2.0 GiB available");
  Write("/proc/meminfo", "MemTotal: 4194304 kB\nMemAvailable: 1024 kB\n");
  EXPECT_EQ(ProbeMemory(options_)[0].verdict, Verdict::kNote);
}

TEST_F(ProbesTest, EmptyTreesAreSurvived) {
  for (const auto& probe : {ProbeCpu, ProbeMemory, ProbeCongestion, ProbeLimits, ProbeRdma}) {
    for (const Finding& finding : probe(options_)) {
      EXPECT_NE(finding.verdict, Verdict::kProblem) << finding.subject;
    }
  }
}

TEST_F(ProbesTest, NotesAndProblemsSayWhatToDo) {
  for (const Finding& finding : ProbeAll(ProbeOptions())) {
    EXPECT_EQ(finding.remedy.empty(), finding.verdict == Verdict::kOk) << finding.subject;
  }
}

}  // namespace
}  // namespace gradwire::cli
