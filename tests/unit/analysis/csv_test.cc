#include "analysis/report/csv.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/synthetic_report.h"
#include "tests/unit/analysis/file_size_limit.h"
#include "tests/unit/training/temporary_folder.h"

namespace gradwire::analysis {
namespace {

using training::TemporaryFolder;
using Rows = std::vector<std::vector<std::string>>;

// A reader of RFC 4180, strict: rows end with CRLF, quotes stand at the ends of cells or doubled.
Rows Parse(const std::string& text) {
  Rows rows;
  std::vector<std::string> row;
  size_t i = 0;
  while (i < text.size()) {
    std::string cell;
    if (text[i] == '"') {
      for (++i; i < text.size(); ++i) {
        if (text[i] != '"') {
          cell += text[i];
        } else if (i + 1 < text.size() && text[i + 1] == '"') {
          cell += text[i++];
        } else {
          break;
        }
      }
      ++i;  // the closing quote
    } else {
      while (i < text.size() && text[i] != ',' && text[i] != '\r') {
        EXPECT_NE(text[i], '"') << "a quote inside a bare cell";
        EXPECT_NE(text[i], '\n') << "a line end without CR";
        cell += text[i++];
      }
    }
    row.push_back(cell);
    if (text.compare(i, 2, "\r\n") == 0) {
      rows.push_back(std::move(row));
      row.clear();
      i += 2;
    } else {
      EXPECT_EQ(text[i], ',') << "at " << i;
      ++i;
    }
  }
  EXPECT_TRUE(row.empty()) << "the last row does not end";
  return rows;
}

Run HostileRun() { return SyntheticReport(true).runs[0]; }

TEST(Csv, CellsAreQuotedWhenTheyMustBe) {
  EXPECT_EQ(CsvCell("plain text"), "plain text");
  EXPECT_EQ(CsvCell(""), "");
  EXPECT_EQ(CsvCell("a,b"), "\"a,b\"");
  EXPECT_EQ(CsvCell("say \"a\""), "\"say \"\"a\"\"\"");
  EXPECT_EQ(CsvCell("two\nlines"), "\"two\nlines\"");
}

TEST(Csv, EverythingComesBack) {
  const TemporaryFolder folder;
  const analysis::Run run = HostileRun();
  ASSERT_EQ(WriteCsv(run, folder.path() / "deep" / "csv"), absl::OkStatus());
  EXPECT_THAT(folder.Names(), testing::ElementsAre("deep"));

  const Rows classes = Parse(folder.Read("deep/csv/classes.csv"));
  ASSERT_EQ(classes.size(), 1 + run.operations.size() * run.operations[0].ranks.size());
  ASSERT_EQ(classes[0].size(), 6u + kClassCount);
  size_t line = 1;
  for (const Operation& operation : run.operations) {
    for (const RankTimes& times : operation.ranks) {
      const std::vector<std::string>& row = classes[line++];
      ASSERT_EQ(row.size(), classes[0].size());
      EXPECT_EQ(row[0], std::to_string(operation.number));
      EXPECT_EQ(row[1], operation.what);
      EXPECT_EQ(row[3], std::to_string(times.rank));
      int64_t sum = 0;
      for (int i = 0; i < kClassCount; ++i) sum += std::stoll(row[6 + i]);
      EXPECT_EQ(sum, std::stoll(row[5]) - std::stoll(row[4]));
    }
  }

  const Rows intervals = Parse(folder.Read("deep/csv/intervals.csv"));
  EXPECT_THAT(intervals[0],
              testing::ElementsAre("operation", "rank", "begin_ns", "end_ns", "class", "peer"));
  const Interval& first = run.operations[0].ranks[0].intervals[0];
  EXPECT_THAT(intervals[1],
              testing::ElementsAre("1", "0", std::to_string(first.begin_ns),
                                   std::to_string(first.end_ns), NameOf(first.in), ""));
  size_t count = 0, steps = 0;
  for (const Operation& operation : run.operations) {
    for (const RankTimes& times : operation.ranks) count += times.intervals.size();
    steps += operation.critical.size();
  }
  EXPECT_EQ(intervals.size(), 1 + count);
  EXPECT_EQ(Parse(folder.Read("deep/csv/critical_path.csv")).size(), 1 + steps);

  const Rows findings = Parse(folder.Read("deep/csv/findings.csv"));
  ASSERT_EQ(findings.size(), 1 + run.findings.size());
  for (size_t i = 0; i < run.findings.size(); ++i) {
    EXPECT_EQ(findings[1 + i][5], run.findings[i].sentence);
    EXPECT_EQ(findings[1 + i][6], run.findings[i].advice);
  }
  EXPECT_EQ(findings[2][2], "");  // no peer
}

TEST(Csv, AFullDiskLeavesNoFile) {
  const TemporaryFolder folder;
  const FileSizeLimit limit(4'000);  // enough for the findings, not for the intervals
  const absl::Status status = WriteCsv(SyntheticRun({}), folder.path());
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(Message(status), testing::HasSubstr("cannot write"));
  EXPECT_THAT(folder.Names(), testing::IsEmpty());
}

TEST(Csv, AFileInPlaceOfTheFolderIsNamed) {
  const TemporaryFolder folder;
  folder.Write("csv", "a file");
  const absl::Status status = WriteCsv({}, folder.path() / "csv");
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(Message(status), testing::HasSubstr((folder.path() / "csv").string()));
  EXPECT_EQ(folder.Read("csv"), "a file");
}

}  // namespace
}  // namespace gradwire::analysis
