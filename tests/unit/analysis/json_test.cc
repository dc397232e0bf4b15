#include "analysis/report/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/synthetic_report.h"

namespace gradwire::analysis {
namespace {

TEST(Json, HoldsAllOfARun) {
  const analysis::Run run = SyntheticRun({.ranks = 3, .operations = 2, .steps = 4});
  const Json json = Json::parse(Dump(run));
  EXPECT_EQ(json["name"], "rdma");
  EXPECT_EQ(json["world_size"], 3);
  ASSERT_EQ(json["operations"].size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    const Operation& operation = run.operations[i];
    const Json& entry = json["operations"][i];
    EXPECT_EQ(entry["what"], operation.what);
    EXPECT_EQ(entry["bytes"], operation.bytes);
    ASSERT_EQ(entry["ranks"].size(), 3u);
    for (size_t r = 0; r < 3; ++r) {
      const Json& columns = entry["ranks"][r]["intervals"];
      const std::vector<Interval>& intervals = operation.ranks[r].intervals;
      for (const auto& [name, column] : columns.items()) {
        ASSERT_EQ(column.size(), intervals.size()) << name;
      }
      for (size_t k = 0; k < intervals.size(); ++k) {
        EXPECT_EQ(columns["begin_ns"][k], intervals[k].begin_ns);
        EXPECT_EQ(columns["end_ns"][k], intervals[k].end_ns);
        EXPECT_EQ(columns["class"][k], NameOf(intervals[k].in));
        if (intervals[k].peer < 0) {
          EXPECT_TRUE(columns["peer"][k].is_null());
        } else {
          EXPECT_EQ(columns["peer"][k], intervals[k].peer);
        }
      }
    }
    EXPECT_EQ(entry["critical_path"]["rank"].size(), operation.critical.size());
  }
  EXPECT_EQ(json["flows"]["arrived_ns"].size(), run.flows.size());
  EXPECT_EQ(json["model"]["points"].size(), run.model->points.size());
  EXPECT_EQ(json["findings"][1]["peer"], nullptr);
  EXPECT_DOUBLE_EQ(json["findings"][0]["share"], 0.46);
}

TEST(Json, SumsAreThoseOfTheIntervals) {
  const analysis::Run run = SyntheticRun({.ranks = 2, .operations = 3, .steps = 5});
  const Json totals = Json(run)["totals"];
  for (size_t r = 0; r < 2; ++r) {
    int64_t wire = 0, all = 0;
    for (const Operation& operation : run.operations) {
      for (const Interval& interval : operation.ranks[r].intervals) {
        const int64_t length = interval.end_ns - interval.begin_ns;
        all += length;
        if (interval.in == Class::kWire) wire += length;
      }
    }
    EXPECT_EQ(totals["ranks"][r]["class_ns"]["wire"], wire);
    EXPECT_EQ(totals["ranks"][r]["total_ns"], all);
  }
  int64_t critical = 0;
  for (const Operation& operation : run.operations) critical += DurationOf(operation);
  EXPECT_EQ(totals["critical_path"]["total_ns"], critical);
  EXPECT_EQ(totals["kinds"].size(), 3u);
}

TEST(Json, ValuesThatWereNotMeasuredAreNull) {
  const Json json = SyntheticReport(false);
  const Json& values = json["studies"][0]["charts"][0]["series"][2]["y"];
  EXPECT_EQ(values[1], 36.0);
  EXPECT_TRUE(values[2].is_null());
  EXPECT_TRUE(Json(analysis::Run{})["model"].is_null());
}

TEST(Json, HostileTextComesBackAsText) {
  const Json json = Json::parse(Dump(SyntheticReport(true)));
  const std::string host = json["runs"][0]["ranks"][0]["host"];
  EXPECT_THAT(host, testing::HasSubstr("</script><script>"));
  EXPECT_THAT(host, testing::HasSubstr("\xef\xbf\xbd"));  // for bytes that are no UTF-8
  EXPECT_EQ(json["version"], kJsonVersion);
  EXPECT_EQ(json["classes"].size(), kClassCount);
}

}  // namespace
}  // namespace gradwire::analysis
