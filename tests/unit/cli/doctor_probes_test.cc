#include "cli/doctor_probes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/cli/doctor_tree.h"

namespace gradwire::cli {
namespace {

using ::testing::HasSubstr;

using ProbesTest = DoctorTest;

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
  for (const auto& probe : {ProbeCpu, ProbeMemory, ProbeCongestion, ProbeLimits, ProbeModules,
                            ProbePackages, ProbeRdma}) {
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
