#include "bench/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/resource.h>

#include <filesystem>
#include <fstream>

namespace gradwire::bench {
namespace {

using testing::HasSubstr;
using testing::Not;

class ReportTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "gradwire_report_XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string Path(const std::string& name) const { return folder_ / name; }
  static std::string Read(const std::string& path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  std::filesystem::path folder_;
};

TEST_F(ReportTest, KeepsExistingFiles) {
  std::ofstream(Path("r.json")) << "mine";
  auto first = JsonOutput::Create(Path("r.json"));
  auto second = JsonOutput::Create(Path("r.json"));
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(first->path(), Path("r.json.0"));
  EXPECT_EQ(second->path(), Path("r.json.1"));
  ASSERT_TRUE(first->Write({{"a", 1}}).ok());
  EXPECT_EQ(Read(Path("r.json")), "mine");
  EXPECT_EQ(Read(Path("r.json.0")), "{\n  \"a\": 1\n}\n");
}

TEST_F(ReportTest, LeavesNothingThatWasNotWritten) {
  { ASSERT_TRUE(JsonOutput::Create(Path("r.json")).ok()); }
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
}

TEST_F(ReportTest, TheSecondTextReplacesTheFirst) {
  auto output = JsonOutput::Create(Path("r.json"));
  ASSERT_TRUE(output.ok());
  ASSERT_TRUE(output->WriteText("longer\n").ok() && output->WriteText("short\n").ok());
  EXPECT_EQ(Read(Path("r.json")), "short\n");
}

TEST_F(ReportTest, ReplacesWhatIsNoUtf8) {
  auto output = JsonOutput::Create(Path("r.json"));
  ASSERT_TRUE(output.ok() && output->Write({{"name", "eth\xff"}}).ok());
  EXPECT_EQ(nlohmann::json::parse(Read(Path("r.json")))["name"], "eth\xef\xbf\xbd");
}

TEST_F(ReportTest, DevicesAreWrittenAsTheyAre) {
  std::filesystem::create_symlink("/dev/null", Path("null"));
  auto output = JsonOutput::Create(Path("null"));
  ASSERT_TRUE(output.ok());
  EXPECT_EQ(output->path(), Path("null"));
  EXPECT_TRUE(output->Write({}).ok());
  EXPECT_FALSE(std::filesystem::exists(Path("null.0")));
}

// A file-size limit stands for a full disk; its signal must not end the process.
TEST_F(ReportTest, OneThatDoesNotFitLeavesNothing) {
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit limit = before;
  limit.rlim_cur = 4096;
  {
    auto output = JsonOutput::Create(Path("r.json"));
    ASSERT_TRUE(output.ok()) << output.status();
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
    const absl::Status status = output->WriteText(std::string(10'000, 'x'));
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
    EXPECT_THAT(Message(status), HasSubstr("r.json: cannot write"));
  }
  EXPECT_FALSE(std::filesystem::exists(Path("r.json")));
}

TEST_F(ReportTest, StandardOutputHasTwoNames) {
  EXPECT_TRUE(JsonOutput::Create("-")->is_standard_output());
  EXPECT_TRUE(JsonOutput::Create("/dev/stdout")->is_standard_output());
  EXPECT_FALSE(JsonOutput::Create("")->wanted());
  EXPECT_FALSE(std::filesystem::exists("-"));
}

TEST_F(ReportTest, NamesAPathThatCannotBeWritten) {
  for (const std::string& path : {Path("missing/r.json"), folder_.string()}) {
    const absl::Status status = JsonOutput::Create(path).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status));
    EXPECT_THAT(Message(status), HasSubstr("--json " + path));
  }
}

TEST_F(ReportTest, HoldsWhatTheTableShows) {
  Row row;
  row.measured = MakeCase(AllCollectives()[0], DataType::kFloat32, ReduceOp::kMax, 0, 4096, 2);
  row.bytes = 4096;
  row.out_of_place.time_us = 10;
  row.in_place.time_us = 20;
  row.in_place.wrong = 2;
  row.in_place.samples = {3, 1, 2};
  row.in_place.per_call = Summarize(row.in_place.samples);
  row.in_place.cost = {.user_seconds_per_gb = 0.375,
                       .system_seconds_per_gb = 0.125,
                       .voluntary_switches = 9,
                       .involuntary_switches = 1,
                       .syscalls = 4,
                       .blocks = 2,
                       .copies_per_byte = 2.5};

  auto output = JsonOutput::Create(Path("r.json"));
  ASSERT_TRUE(output.ok());
  Report report(*std::move(output));
  Settings settings;
  settings.token = "hidden";
  PeerInfo peer;
  peer.rank = 0;
  peer.host = "caf\xe9";  // no UTF-8
  report.Begin({"gradwire", "bench", "--token", "hidden", "--token=hidden"}, AllCollectives()[0],
               {}, settings, {{peer, "tcp", "eth0"}});
  report.Add(row);
  report.End({}, {2, 0.25});
  report.AddError("rank 1 left");
  ASSERT_TRUE(report.Write().ok());

  const std::string text = Read(Path("r.json"));
  EXPECT_THAT(text, Not(HasSubstr("hidden")));
  const auto json = nlohmann::json::parse(text);
  const auto& result = json.at("results").at(0);
  EXPECT_EQ(result.at("size"), 4096);
  EXPECT_EQ(result.at("count"), 1024);
  EXPECT_EQ(result.at("type"), "float");
  EXPECT_EQ(result.at("redop"), "max");
  EXPECT_EQ(result.at("root"), -1);
  EXPECT_EQ(result.at("out_of_place").at("time"), 10);
  EXPECT_TRUE(result.at("out_of_place").at("nwrong").is_null());
  EXPECT_EQ(result.at("in_place").at("nwrong"), 2);
  EXPECT_EQ(result.at("in_place").at("cpu_s_per_gb"), 0.5);
  EXPECT_EQ(result.at("in_place").at("user_s_per_gb"), 0.375);
  EXPECT_EQ(result.at("in_place").at("system_s_per_gb"), 0.125);
  EXPECT_EQ(result.at("in_place").at("voluntary_switches_per_call"), 9);
  EXPECT_EQ(result.at("in_place").at("involuntary_switches_per_call"), 1);
  EXPECT_EQ(result.at("in_place").at("syscalls_per_call"), 4);
  EXPECT_EQ(result.at("in_place").at("blocks_per_call"), 2);
  EXPECT_EQ(result.at("in_place").at("copies_per_byte"), 2.5);
  EXPECT_FALSE(result.at("out_of_place").contains("copies_per_byte"));  // not counted
  EXPECT_EQ(result.at("in_place_per_iter").at("p50_us"), 2);
  EXPECT_EQ(result.at("in_place_per_iter").at("times_us"), nlohmann::json({3, 1, 2}));
  EXPECT_EQ(json.at("out_of_bounds").at("okay"), false);
  EXPECT_EQ(json.at("average_bus_bandwidth").at("bandwidth"), 0.25);
  EXPECT_EQ(json.at("average_bus_bandwidth").at("okay"), "unchecked");
  EXPECT_EQ(json.at("config").at("iterations"), 20);
  EXPECT_EQ(json.at("settings").at("slots"), fmt::format("{}", Settings{}.slots));
  EXPECT_EQ(json.at("errors").at(0), "rank 1 left");
  EXPECT_GT(json.at("machine").at("cores"), 0);
  EXPECT_THAT(json.at("machine").at("kernel"), HasSubstr("Linux"));
}

}  // namespace
}  // namespace gradwire::bench
