#include "cli/doctor_command.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <cstdlib>
#include <thread>

namespace gradwire::cli {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::HasSubstr;
using ::testing::SizeIs;

// /bin/sh serves as a program that does as it is told; RunCommand itself uses no shell.
absl::StatusOr<CommandResult> Shell(const std::string& script, milliseconds limit = seconds(20)) {
  return RunCommand({"/bin/sh", "-c", script}, limit);
}

TEST(DoctorCommandTest, OutputAndCodeComeBack) {
  const auto result = Shell("echo one; echo two >&2; exit 3");
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->exit_code, 3);
  EXPECT_EQ(result->output, "one\ntwo");
  EXPECT_EQ(Shell("kill -TERM $$")->exit_code, 128 + SIGTERM);
}

TEST(DoctorCommandTest, ArgumentsAreNoShellText) {
  const auto result = RunCommand({"/bin/echo", "$HOME; `id` *"}, seconds(20));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->output, "$HOME; `id` *");
}

TEST(DoctorCommandTest, AMissingProgramIsAnError) {
  const auto result = RunCommand({"/nowhere/modprobe"}, seconds(20));
  ASSERT_FALSE(result.ok());
  EXPECT_THAT(Message(result.status()), HasSubstr("/nowhere/modprobe"));
}

TEST(DoctorCommandTest, TheLimitEndsItAndWhatItStarted) {
  const std::string mark = testing::TempDir() + "doctor_command_pid";
  const auto begin = std::chrono::steady_clock::now();
  const auto result = Shell("sleep 300 & echo $! > " + mark + "; wait", milliseconds(500));
  EXPECT_EQ(result.status().code(), absl::StatusCode::kDeadlineExceeded) << result.status();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, seconds(20));
  // The grandchild is gone as well, or a zombie for the moment until init takes it.
  const auto alive = Shell("read pid < " + mark +
                           "; grep -q '^State:.[RSD]' /proc/$pid/status && echo alive; rm " + mark);
  EXPECT_EQ(alive->output, "");
}

TEST(DoctorCommandTest, OutputWithoutEndIsBoundedInSizeAndTime) {
  const auto result =
      Shell("while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done", milliseconds(300));
  EXPECT_EQ(result.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(Shell("head -c 200000 /dev/zero")->output, SizeIs(64 << 10));
}

TEST(DoctorCommandTest, WhatStaysBehindDoesNotHoldUsUp) {
  const auto begin = std::chrono::steady_clock::now();
  const auto result = Shell("sleep 3 & echo started");
  EXPECT_LT(std::chrono::steady_clock::now() - begin, milliseconds(2500));
  EXPECT_EQ(result->output, "started");
}

TEST(DoctorCommandTest, SystemFoldersAreSearchedAndRelativeOnesAreNot) {
  const std::vector<std::string> folders = ProgramFolders();
  EXPECT_THAT(folders, testing::Contains("/usr/sbin"));
  EXPECT_THAT(folders, testing::Each(testing::StartsWith("/")));
  EXPECT_THAT(FindProgram(folders, "", "sh"), testing::EndsWith("/sh"));
  EXPECT_EQ(FindProgram(folders, "", "no_such_program"), "");
}

}  // namespace
}  // namespace gradwire::cli
