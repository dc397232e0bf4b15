#include "cli/command.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

namespace gradwire::cli {
namespace {

using ::testing::HasSubstr;

// A program with one subcommand that takes settings, as main() builds it.
class CommandLine {
 public:
  CommandLine() : root_("test", "test") {
    CLI::App* command = root_.add_subcommand("work", "");
    command->add_option("--own", own_);
    AddSettings(*command, settings_);
    command->callback([this] { ran_ = true; });
  }

  // The message of the parse error, empty for success.
  std::string Parse(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "work");
    std::reverse(arguments.begin(), arguments.end());
    try {
      root_.parse(arguments);
    } catch (const CLI::ParseError& error) {
      return error.get_exit_code() == 0 ? "help" : error.what();
    }
    return "";
  }
  const Settings& settings() const { return settings_; }
  bool ran() const { return ran_; }

 private:
  CLI::App root_;
  Settings settings_;
  std::string own_;
  bool ran_ = false;
};

class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
  ~Variable() { unsetenv(name_); }

 private:
  const char* name_;
};

TEST(AddSettings, EverySettingHasAFlagThatReachesIt) {
  for (const SettingInfo& info : AllSettings()) {
    CommandLine line;
    // A value that differs from the default yet is in range: the default's text, unless empty.
    const std::string standard = info.get(Settings());
    const std::string flag = fmt::format("--{}", info.name);
    EXPECT_EQ(line.Parse({flag, standard.empty() ? "" : standard}), "") << flag;
    EXPECT_EQ(info.get(line.settings()), standard) << flag;
  }
}

TEST(AddSettings, FlagsGoOverVariablesOverDefaults) {
  const Variable slots("GRADWIRE_SLOTS", "4"), lanes("GRADWIRE_LANES", "3");
  CommandLine line;
  ASSERT_EQ(line.Parse({"--slots", "16", "--own", "x"}), "");
  EXPECT_EQ(line.settings().slots, 16);
  EXPECT_EQ(line.settings().lanes, 3);
  EXPECT_EQ(line.settings().slice_bytes, Settings().slice_bytes);
  EXPECT_TRUE(line.ran());
}

TEST(AddSettings, AVariableThatRelatesBadlyIsRepairedByAFlag) {
  const Variable interval("GRADWIRE_HEARTBEAT_INTERVAL", "1s");
  EXPECT_EQ(CommandLine().Parse({"--heartbeat-timeout", "2s"}), "");
  EXPECT_THAT(CommandLine().Parse({"--heartbeat-timeout", "1s"}), HasSubstr("--heartbeat-timeout"));
}

TEST(AddSettings, ErrorsNameFlagOrVariable) {
  CommandLine line;
  EXPECT_THAT(line.Parse({"--slots", "1"}), HasSubstr("--slots: 1 is outside 2.."));
  EXPECT_FALSE(line.ran());
  const Variable bad("GRADWIRE_SLOTS", "few");
  EXPECT_THAT(CommandLine().Parse({}), HasSubstr("GRADWIRE_SLOTS"));
  EXPECT_EQ(CommandLine().Parse({"--help"}), "help");
}

TEST(AddSettings, AnUnknownVariableIsAnError) {
  const Variable unknown("GRADWIRE_SLICEBYTES", "8");
  EXPECT_THAT(CommandLine().Parse({}), HasSubstr("GRADWIRE_SLICEBYTES"));
}

TEST(ReportError, PrintsOneLineAndTellsMisuseFromFailure) {
  testing::internal::CaptureStderr();
  EXPECT_EQ(ReportError(InvalidArgument("a\nb")), kMisuse);
  EXPECT_EQ(ReportError(Unavailable("rank 2 died"), 1), kFailed);
  EXPECT_EQ(ReportError(MakeError(absl::StatusCode::kNotFound, "no file")), kMisuse);
  EXPECT_EQ(testing::internal::GetCapturedStderr(),
            "gradwire: a b\ngradwire: rank 1: rank 2 died\ngradwire: no file\n");
}

TEST(FindProgram, LooksInPathAndNeverInTheCurrentFolder) {
  const auto found = FindProgram("sh");
  ASSERT_TRUE(found.ok());
  EXPECT_THAT(*found, HasSubstr("/sh"));
  EXPECT_EQ(*FindProgram("/bin/sh"), "/bin/sh");
  EXPECT_TRUE(absl::IsNotFound(FindProgram("no-such-program").status()));
  EXPECT_TRUE(absl::IsNotFound(FindProgram("/bin").status())) << "a folder";
}

TEST(RunLocalJob, RejectsJobsThatMakeNoSense) {
  LocalJob job;
  EXPECT_TRUE(absl::IsInvalidArgument(RunLocalJob(job).status()));
  job.command = {"true"};
  for (int ranks : {0, -1, kMaxLocalRanks + 1}) {
    job.ranks = ranks;
    EXPECT_TRUE(absl::IsInvalidArgument(RunLocalJob(job).status())) << ranks;
  }
  job.ranks = 1;
  job.nodes = 2;
  EXPECT_THAT(Message(RunLocalJob(job).status()), HasSubstr("--master-port"));
}

TEST(RunLocalJob, ReturnsTheExitCode) {
  LocalJob job;
  job.ranks = 2;
  job.command = {"sh", "-c", "exit $((RANK + 0))"};
  job.plain_rank0 = true;
  testing::internal::CaptureStderr();
  EXPECT_EQ(*RunLocalJob(job), 1);
  EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr("rank 1"));
  job.command = {"true"};
  EXPECT_EQ(*RunLocalJob(job), 0);
}

}  // namespace
}  // namespace gradwire::cli
