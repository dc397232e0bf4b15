// Studies with programs that were never run: what is asked of them, and what is made of their
// answers.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "bench/study/plan.h"
#include "bench/study/runner.h"
#include "tests/unit/analysis/script.h"
#include "tests/unit/training/temporary_folder.h"

namespace gradwire::bench {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;
using Words = std::vector<std::string>;

const StudyPlan& Plan(std::string_view name) {
  return *std::ranges::find(AllStudies(), name, &StudyPlan::name);
}

std::string After(const Words& words, std::string_view flag) {
  const auto found = std::ranges::find(words, flag);
  return found == words.end() ? "" : *(found + 1);
}

// Stands for `gradwire bench`: takes as long as `time_us` says, and leaves its files.
class FakeBench {
 public:
  explicit FakeBench(std::function<double(const Words&)> time_us) : time_us_(std::move(time_us)) {}

  absl::StatusOr<StudyProgram> Run(const Words& words, const Words& environment) {
    commands.push_back(words);
    environments.push_back(environment);
    const double time = time_us_(words);
    if (time < 0) return StudyProgram{static_cast<int>(-time), "first line\ngradwire: refused\n"};
    analysis::Script script(2, After(words, "--transport") == "tcp" ? "tcp" : "rdma");
    for (const int rank : {0, 1}) {
      script.rank(rank).facts.device = "device of " + After(words, "--transport");
      script.Operation(rank, 0, time);
    }
    GW_RETURN_IF_ERROR(script.Save(After(words, "--telemetry")));
    const nlohmann::json half = {{"time", time}, {"bus_bw", 1.0}, {"cpu_s_per_gb", 0.5}};
    const nlohmann::json report = {{"results", {{{"in_place", half}, {"out_of_place", half}}}}};
    std::ofstream(After(words, "-J")) << report;
    return StudyProgram{0, "fine\n"};
  }

  std::vector<Words> commands;
  std::vector<Words> environments;

 private:
  std::function<double(const Words&)> time_us_;
};

class StudyTest : public ::testing::Test {
 protected:
  absl::StatusOr<analysis::Study> Run(std::string_view name, FakeBench& bench) {
    StudyOptions options;
    options.program = "gradwire";
    options.folder = folder_.path();
    options.device = device_;
    options.rounds = rounds_;
    options.run = [&bench](const Words& words, std::chrono::milliseconds,
                           const Words& environment) { return bench.Run(words, environment); };
    return RunStudy(Plan(name), options);
  }

  training::TemporaryFolder folder_;
  std::string device_ = "urxe";
  int rounds_ = 2;
};

TEST_F(StudyTest, TakesTurnsAndNamesTheQuickestAndTheSlowest) {
  FakeBench bench([](const Words& words) {
    const std::string depth = After(words, "--queue-depth");
    return depth == "2" ? 900.0 : depth == "64" ? 100.0 : 300.0;
  });
  const auto study = Run("queue_depth", bench);
  ASSERT_TRUE(study.ok()) << study.status();
  EXPECT_THAT(study->answer, HasSubstr("Quickest: 64 with 100 us; slowest: 2 with 900 us "
                                       "(9.00 times)."));
  const size_t points = Plan("queue_depth").points.size();
  ASSERT_EQ(bench.commands.size(), 2 * points);
  // A round takes each once, before the next begins.
  EXPECT_EQ(bench.commands[0], bench.commands[points]);
  EXPECT_NE(bench.commands[0], bench.commands[1]);
  EXPECT_THAT(bench.environments[0], Contains("URXE_PATH=udp"));
  EXPECT_EQ(study->table.rows.size(), points);
  EXPECT_EQ(study->commands.size(), points);
  EXPECT_THAT(study->devices, Contains("device of rdma"));
  ASSERT_EQ(study->charts.size(), 2u);
  EXPECT_EQ(study->charts[0].series[0].y.size(), points);
}

TEST_F(StudyTest, DoesNotTakeNoiseForADifference) {
  int calls = 0;
  FakeBench bench([&calls](const Words&) { return 100.0 + 37 * (calls++ % 3); });
  const auto study = Run("inline_size", bench);
  ASSERT_TRUE(study.ok()) << study.status();
  EXPECT_THAT(study->answer, HasSubstr("No difference beyond the spread"));
  EXPECT_THAT(study->answer, Not(HasSubstr("Quickest")));
  EXPECT_THAT(study->answer, HasSubstr("In theory: "));
}

// A slow round of the quickest, among the slowest's: one in ten pairs may contradict.
TEST_F(StudyTest, AFewPairsOfRoundsMayContradict) {
  rounds_ = 5;
  for (const double disturbed : {310.0, 330.0}) {
    int quick = 0, slow = 0;
    FakeBench bench([&](const Words& words) {
      const std::string inlined = After(words, "--inline-bytes");
      if (inlined == "256") return slow++ < 2 ? 300.0 : 320.0;
      return inlined == "0" && quick++ == 0 ? disturbed : 200.0;
    });
    const auto study = Run("inline_size", bench);
    ASSERT_TRUE(study.ok()) << study.status();
    EXPECT_THAT(study->answer, HasSubstr(disturbed < 320 ? "Quickest: 0 " : "No difference"));
  }
}

TEST_F(StudyTest, ComparesEachTransportWithItself) {
  FakeBench bench([](const Words& words) {
    if (After(words, "--transport") == "tcp")
      return After(words, "--tcp-loss") == "0.01" ? 7000.0 : 700.0;
    return 500.0;
  });
  const auto study = Run("loss", bench);
  ASSERT_TRUE(study.ok()) << study.status();
  EXPECT_THAT(study->answer, HasSubstr("slowest: tcp, 1 % with 7.00 ms (10.0 times)"));
  bool dropped = false;
  for (const Words& each : bench.environments) {
    dropped |= std::ranges::find(each, "URXE_FAULTS=drop=0.01,seed=1") != each.end();
  }
  EXPECT_TRUE(dropped);
}

TEST_F(StudyTest, ComparesTransportsWhereTheyAreTheQuestion) {
  for (const char* device : {"urxe", "rxe0"}) {
    device_ = device;
    FakeBench bench([](const Words& words) {
      const double bytes = std::stod(After(words, "--sizes"));
      return After(words, "--transport") == "tcp" ? bytes / 100 : bytes / 1000;
    });
    const auto study = Run("rdma_vs_tcp", bench);
    ASSERT_TRUE(study.ok()) << study.status();
    for (const char* size : {"4 KiB", "1 MiB", "16 MiB"}) {
      EXPECT_THAT(study->answer, HasSubstr(fmt::format("slowest: tcp {} with ", size))) << device;
      EXPECT_THAT(study->answer, HasSubstr(fmt::format("uickest: rdma {} with ", size))) << device;
    }
    // The slowest of all, whose timeline is shown.
    ASSERT_EQ(study->runs.size(), 1u);
    EXPECT_EQ(study->runs[0].ranks[0].device, "device of tcp");
  }
}

TEST_F(StudyTest, LeavesOutWhatOnlyUrxeCanDo) {
  device_ = "rxe0";
  FakeBench bench([](const Words&) { return 100.0; });
  const auto study = Run("loss", bench);
  ASSERT_TRUE(study.ok()) << study.status();
  EXPECT_THAT(study->notes, Contains(HasSubstr("rdma, 1 % is not measured")));
  for (const Words& each : bench.environments) EXPECT_TRUE(each.empty());
  EXPECT_EQ(study->table.rows.size(), 5u);  // TCP's four, and RDMA without loss
}

TEST_F(StudyTest, ARefusalIsPartOfTheAnswer) {
  FakeBench bench([](const Words& words) {
    return After(words, "--signal-interval") == After(words, "--queue-depth") ? -2.0 : 100.0;
  });
  const auto study = Run("signal_interval", bench);
  ASSERT_TRUE(study.ok()) << study.status();
  EXPECT_THAT(study->notes, Contains("signal interval 16 is refused: gradwire: refused"));
  EXPECT_EQ(study->table.rows.size(), Plan("signal_interval").points.size() - 1);

  // One that is not refused although it must be is an error, and so is one that fails.
  FakeBench accepts([](const Words&) { return 100.0; });
  EXPECT_THAT(Message(Run("signal_interval", accepts).status()),
              HasSubstr("signal interval 16: it was to be refused, but ended with 0"));
  FakeBench fails([](const Words&) { return -1.0; });
  EXPECT_THAT(Message(Run("lanes", fails).status()),
              HasSubstr("study lanes: lanes rdma 1 ended with 1: gradwire: refused"));
}

TEST(AllStudies, AskOneQuestionEach) {
  std::vector<std::string_view> names;
  for (const StudyPlan& plan : AllStudies()) {
    names.push_back(plan.name);
    EXPECT_TRUE(plan.question.ends_with("?")) << plan.name;
    EXPECT_TRUE(plan.measure != nullptr || plan.points.size() > 1) << plan.name;
  }
  EXPECT_THAT(names,
              ::testing::UnorderedElementsAre(
                  "signal_interval", "queue_depth", "chain_length", "inline_size", "slice_size",
                  "completion_mode", "receive_depth", "lanes", "loss", "rdma_vs_tcp",
                  "write_vs_read", "oversubscription", "straggler", "allreduce_vs_ps"));
}

}  // namespace
}  // namespace gradwire::bench
