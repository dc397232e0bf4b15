#include "cli/doctor_kernel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include "tests/unit/cli/doctor_tree.h"

namespace gradwire::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

using KernelTest = DoctorTest;

TEST_F(KernelTest, LoadedModulesAreToldFromBuiltInOnes) {
  WriteLoaded("ib_core");
  Write("/sys/module/ib_uverbs/parameters/x", "1");
  EXPECT_EQ(FindModule(options_, "ib_core"), ModuleState::kLoaded);
  EXPECT_EQ(FindModule(options_, "ib_uverbs"), ModuleState::kBuiltIn);
}

TEST_F(KernelTest, BuiltInModulesAreInTheirList) {
  Write("/lib/modules/6.1.0-9-generic/modules.builtin",
        "kernel/fs/ext4/ext4.ko\nkernel/drivers/infiniband/core/ib_core.ko\n");
  EXPECT_EQ(FindModule(options_, "ib_core"), ModuleState::kBuiltIn);
  EXPECT_EQ(FindModule(options_, "ext"), ModuleState::kNotInstalled);
}

TEST_F(KernelTest, AFileIsLoadableOnceItIsIndexed) {
  Write("/lib/modules/6.1.0-9-generic/updates/dkms/siw.ko", "");
  EXPECT_EQ(FindModule(options_, "siw"), ModuleState::kNotIndexed);
  EXPECT_THAT(ModuleRemedy(options_, "siw", ModuleState::kNotIndexed),
              HasSubstr("depmod 6.1.0-9-generic"));
  WriteModule("rdma_rxe");
  EXPECT_EQ(FindModule(options_, "rdma_rxe"), ModuleState::kLoadable);
  // A dependency on another module's line is not the module's own line.
  EXPECT_EQ(FindModule(options_, "other"), ModuleState::kNotInstalled);
}

TEST_F(KernelTest, ADashInAFileNameIsAnUnderscoreInTheModules) {
  WriteModule("rdma-rxe");
  EXPECT_EQ(FindModule(options_, "rdma_rxe"), ModuleState::kLoadable);
}

TEST_F(KernelTest, TheConfigurationSaysWhatTheKernelCanHave) {
  Write("/boot/config-6.1.0-9-generic",
        "CONFIG_INFINIBAND=y\nCONFIG_RDMA_RXE=m\n# CONFIG_RDMA_SIW is not set\n");
  EXPECT_EQ(FindModule(options_, "ib_core"), ModuleState::kBuiltIn);
  EXPECT_EQ(FindModule(options_, "rdma_rxe"), ModuleState::kNotInstalled);
  EXPECT_EQ(FindModule(options_, "siw"), ModuleState::kLeftOut);
}

TEST_F(KernelTest, TheRunningKernelsConfigurationGoesFirst) {
  Write("/boot/config-6.1.0-9-generic", "CONFIG_RDMA_RXE=m\n");
  std::filesystem::create_directories(options_.proc);
  gzFile file = gzopen((options_.proc + "/config.gz").c_str(), "wb");
  gzputs(file, "CONFIG_NET=y\n");
  gzclose(file);
  EXPECT_EQ(FindModule(options_, "rdma_rxe"), ModuleState::kLeftOut);
}

TEST_F(KernelTest, WithoutModulesAndConfigurationTheHostDecides) {
  EXPECT_EQ(FindModule(options_, "rdma_rxe"), ModuleState::kHostDecides);
  Write("/.dockerenv", "");
  EXPECT_TRUE(InContainer(options_));
  EXPECT_THAT(ModuleRemedy(options_, "rdma_rxe", ModuleState::kHostDecides),
              HasSubstr("`modprobe rdma_rxe` there"));
}

TEST_F(KernelTest, EachSystemHasItsOwnRemedy) {
  const auto remedy = [&](ModuleState state) { return ModuleRemedy(options_, "rdma_rxe", state); };
  WriteSystem("ubuntu");
  EXPECT_EQ(remedy(ModuleState::kNotInstalled),
            "`apt install linux-modules-extra-6.1.0-9-generic`");
  EXPECT_THAT(remedy(ModuleState::kLeftOut), HasSubstr("linux-image-generic"));
  WriteSystem("debian");
  EXPECT_THAT(remedy(ModuleState::kLeftOut), AllOf(HasSubstr("linux-image-"), HasSubstr("cloud")));
  WriteSystem("linuxmint\nID_LIKE=\"ubuntu debian\"");
  EXPECT_THAT(remedy(ModuleState::kNotInstalled), HasSubstr("linux-modules-extra"));
  WriteSystem("fedora");
  EXPECT_EQ(remedy(ModuleState::kLeftOut), "boot a kernel with CONFIG_RDMA_RXE=m");
  EXPECT_EQ(remedy(ModuleState::kLoaded), "");
}

TEST_F(KernelTest, AnAbsentModuleIsNotedWithItsRemedyOnce) {
  WriteSystem("debian");
  Write("/boot/config-6.1.0-9-generic", "CONFIG_NET=y\n");
  const Findings findings = ProbeModules(options_);
  ASSERT_EQ(findings.size(), 5u);
  const Finding core = FindingAbout(findings, "kernel module ib_core");
  EXPECT_EQ(core.verdict, Verdict::kNote);
  EXPECT_THAT(core.detail, HasSubstr("built without it"));
  EXPECT_THAT(core.remedy, HasSubstr("apt install linux-image-"));
  EXPECT_EQ(FindingAbout(findings, "kernel module rdma_rxe").remedy, "as for ib_core");
  // Nothing needs these two.
  EXPECT_EQ(FindingAbout(findings, "kernel module siw").verdict, Verdict::kOk);
  EXPECT_EQ(FindingAbout(findings, "kernel module rdma_ucm").verdict, Verdict::kOk);
}

TEST_F(KernelTest, WithADeviceOnlyTheModuleForProgramsIsMissed) {
  WriteLoaded("ib_core");
  WriteDevice("mlx5_0", "4: ACTIVE", "eth0");
  WriteModule("ib_uverbs");
  const Findings findings = ProbeModules(options_);
  EXPECT_EQ(FindingAbout(findings, "kernel module rdma_rxe").verdict, Verdict::kOk);
  const Finding verbs = FindingAbout(findings, "kernel module ib_uverbs");
  EXPECT_EQ(verbs.verdict, Verdict::kNote);
  EXPECT_THAT(verbs.remedy, HasSubstr("doctor --fix"));
}

}  // namespace
}  // namespace gradwire::cli
