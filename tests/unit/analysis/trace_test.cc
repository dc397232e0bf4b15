#include "analysis/report/trace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>

#include "tests/support/synthetic_report.h"
#include "tests/unit/analysis/file_size_limit.h"
#include "tests/unit/training/temporary_folder.h"

namespace gradwire::analysis {
namespace {

using nlohmann::json;
using training::TemporaryFolder;

std::vector<json> Events(const Run& run) {
  const TemporaryFolder folder;
  EXPECT_EQ(WriteTrace(run, folder.path() / "trace.json"), absl::OkStatus());
  EXPECT_THAT(folder.Names(), testing::ElementsAre("trace.json"));
  const json trace = json::parse(folder.Read("trace.json"));
  return trace["traceEvents"].get<std::vector<json>>();
}

int64_t Nanos(const json& microseconds) { return std::llround(microseconds.get<double>() * 1e3); }

TEST(Trace, IntervalsAreEventsInsideTheirOperation) {
  const analysis::Run run = SyntheticRun({.ranks = 2, .operations = 2, .steps = 3});
  std::map<std::pair<int, int>, std::vector<json>> threads;
  for (const json& event : Events(run)) {
    if (event["ph"] == "X") threads[{event["pid"], event["tid"]}].push_back(event);
  }
  for (int rank = 0; rank < 2; ++rank) {
    const std::vector<json>& classes = threads[{rank, 1}];
    const std::vector<json>& operations = threads[{rank, 2}];
    ASSERT_EQ(operations.size(), 2u);
    size_t i = 0;
    for (size_t o = 0; o < 2; ++o) {
      const RankTimes& times = run.operations[o].ranks[rank];
      EXPECT_EQ(operations[o]["name"], run.operations[o].what);
      EXPECT_EQ(Nanos(operations[o]["ts"]), times.begin_ns);
      EXPECT_EQ(Nanos(operations[o]["dur"]), times.end_ns - times.begin_ns);
      for (const Interval& interval : times.intervals) {
        ASSERT_LT(i, classes.size());
        const json& event = classes[i++];
        EXPECT_EQ(event["name"], LabelOf(interval.in));
        EXPECT_EQ(Nanos(event["ts"]), interval.begin_ns);
        EXPECT_EQ(Nanos(event["ts"]) + Nanos(event["dur"]), interval.end_ns);
      }
    }
    EXPECT_EQ(i, classes.size());
  }
}

TEST(Trace, EachWriteLeavesOneRankAndArrivesAtAnother) {
  const analysis::Run run = SyntheticRun({.ranks = 3, .operations = 2, .steps = 6});
  ASSERT_GT(run.flows.size(), 10u);
  std::map<int, json> starts, ends;
  for (const json& event : Events(run)) {
    if (event["ph"] != "s" && event["ph"] != "f") continue;
    EXPECT_TRUE((event["ph"] == "s" ? starts : ends).emplace(event["id"], event).second);
  }
  ASSERT_EQ(starts.size(), run.flows.size());
  ASSERT_EQ(ends.size(), run.flows.size());
  for (const auto& [id, start] : starts) {
    ASSERT_TRUE(ends.count(id)) << id;
    const json& end = ends[id];
    EXPECT_EQ(end["bp"], "e");  // bound to the slice around it, not to the next
    EXPECT_EQ(start["cat"], end["cat"]);
    EXPECT_EQ(start["name"], end["name"]);
    EXPECT_NE(start["pid"], end["pid"]);
    EXPECT_LT(start["ts"], end["ts"]);
  }
}

TEST(Trace, ProcessesAreNamedAfterRanks) {
  std::map<int, std::string> names;
  for (const json& event : Events(SyntheticRun({.ranks = 2, .operations = 1, .steps = 1}))) {
    if (event["ph"] == "M" && event["name"] == "process_name") {
      names[event["pid"]] = event["args"]["name"];
    }
  }
  EXPECT_THAT(names, testing::ElementsAre(testing::Pair(0, "rank 0 (node1, rdma)"),
                                          testing::Pair(1, "rank 1 (node1, rdma)")));
}

TEST(Trace, HostileTextIsOneString) {
  const analysis::Run run = SyntheticReport(true).runs[0];
  bool seen = false;
  for (const json& event : Events(run)) {
    if (event["name"] != "process_name") continue;
    const std::string name = event["args"]["name"];
    seen = seen || name.find("</script><script>") != std::string::npos;
  }
  EXPECT_TRUE(seen);
}

TEST(Trace, AnEmptyRunIsATrace) { EXPECT_THAT(Events({}), testing::IsEmpty()); }

TEST(Trace, AFullDiskLeavesNothing) {
  const TemporaryFolder folder;
  const FileSizeLimit limit(10'000);
  const absl::Status status = WriteTrace(SyntheticRun({}), folder.path() / "trace.json");
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(Message(status), testing::HasSubstr("trace.json"));
  EXPECT_THAT(folder.Names(), testing::IsEmpty());
}

}  // namespace
}  // namespace gradwire::analysis
