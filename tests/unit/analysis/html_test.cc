#include "analysis/report/html.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <regex>

#include "tests/support/synthetic_report.h"
#include "tests/unit/analysis/file_size_limit.h"
#include "tests/unit/training/temporary_folder.h"

namespace gradwire::analysis {
namespace {

using testing::HasSubstr;
using testing::Not;
using training::TemporaryFolder;

std::string Page(const Report& report) {
  const TemporaryFolder folder;
  EXPECT_EQ(WriteHtml(report, folder.path() / "page.html"), absl::OkStatus());
  EXPECT_THAT(folder.Names(), testing::ElementsAre("page.html"));
  return folder.Read("page.html");
}

int Count(const std::string& text, const std::string& what) {
  int count = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++count;
  return count;
}

std::string DataOf(const std::string& page) {
  const std::string open = "id=\"data\">";
  const size_t begin = page.find(open) + open.size();
  return page.substr(begin, page.find("</script>", begin) - begin);
}

TEST(Html, IsWhole) {
  const std::string page = Page(SyntheticReport(false));
  EXPECT_THAT(page, HasSubstr("<title>All-reduce on four ranks: RDMA against TCP</title>"));
  EXPECT_THAT(page, HasSubstr("var d3={version:"));
  EXPECT_THAT(page, HasSubstr("Redistribution and use in source and binary forms"));
  EXPECT_THAT(page, HasSubstr("default-src 'none'"));
  for (const char* mark : {"{{title}}", "{{data}}", "{{style}}", "{{script}}", "{{licence}}"}) {
    EXPECT_THAT(page, Not(HasSubstr(mark)));
  }
  // Nothing is loaded from anywhere.
  EXPECT_FALSE(std::regex_search(page, std::regex("(src|href)=\"?(https?:|//|file:)")));
  EXPECT_THAT(page, Not(HasSubstr("@import")));
}

TEST(Html, HostileTextStaysText) {
  const std::string clean = Page(SyntheticReport(false));
  const std::string page = Page(SyntheticReport(true));
  for (const char* tag : {"<script", "</script", "<!--", "<img"}) {
    EXPECT_EQ(Count(page, tag), Count(clean, tag)) << tag;
  }
  const auto data = nlohmann::json::parse(DataOf(page));
  const std::string host = data["runs"][0]["ranks"][0]["host"];
  EXPECT_THAT(host, HasSubstr("</script><script>window.injected=1"));
  EXPECT_THAT(page, HasSubstr("&lt;/script&gt;"));  // in the title
}

TEST(Html, LargeRunsAreBoundedAndSumsKept) {
  Report report{"large", "", {}, {}};
  report.runs = {SyntheticRun({.ranks = 8, .operations = 400, .steps = 20})};
  size_t intervals = 0;
  int64_t total_ns = 0;
  for (const Operation& operation : report.runs[0].operations) {
    for (const RankTimes& times : operation.ranks) intervals += times.intervals.size();
    total_ns += operation.ranks[3].end_ns - operation.ranks[3].begin_ns;
  }
  ASSERT_GT(intervals, 300'000u);
  const std::string page = Page(report);
  EXPECT_LT(page.size(), 8u << 20);
  const auto run = nlohmann::json::parse(DataOf(page))["runs"][0];
  EXPECT_EQ(run["operation_count"], 400);
  EXPECT_EQ(run["totals"]["ranks"][3]["total_ns"], total_ns);
  EXPECT_FALSE(run["left_out"].empty());
}

TEST(Html, AnEmptyReportIsAPage) {
  EXPECT_THAT(Page({"Nothing", "", {}, {}}), HasSubstr("<title>Nothing</title>"));
}

TEST(Html, NoFileIsLeftWhereItCannotBeWritten) {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder.path() / "page.html");  // a folder has the name
  const absl::Status status = WriteHtml({}, folder.path() / "page.html");
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(Message(status), HasSubstr("page.html"));
  EXPECT_THAT(folder.Names(), testing::ElementsAre("page.html"));
}

TEST(Html, AFullDiskLeavesNothing) {
  const TemporaryFolder folder;
  const FileSizeLimit limit(100'000);  // d3 alone is longer
  const absl::Status status = WriteHtml({}, folder.path() / "page.html");
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(Message(status), HasSubstr("page.html: cannot write"));
  EXPECT_THAT(folder.Names(), testing::IsEmpty());
}

}  // namespace
}  // namespace gradwire::analysis
