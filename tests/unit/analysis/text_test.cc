#include "analysis/report/text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

#include "analysis/report/layout.h"
#include "tests/support/synthetic_report.h"

namespace gradwire::analysis {
namespace {

using testing::HasSubstr;
using testing::Not;

std::vector<std::string> Lines(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

// Words longer than a line are left whole in commands alone.
void ExpectFits(const std::string& text, int width) {
  for (const std::string& line : Lines(text)) EXPECT_LE(WidthOf(line), width) << line;
}

std::string WithoutColors(std::string text) {
  for (size_t at; (at = text.find("\x1b[")) != std::string::npos;) {
    text.erase(at, text.find('m', at) - at + 1);
  }
  return text;
}

TEST(Layout, CleanTextCannotControlATerminal) {
  EXPECT_EQ(Clean("a\tb\r\nc"), "a b  c");
  EXPECT_EQ(Clean("\x1b[2J\x07"), "?[2J?");
  EXPECT_EQ(Clean("\xff\xc3"), "??");
  EXPECT_EQ(Clean("\xc0\xaf"), "?");  // an overlong slash
  EXPECT_EQ(Clean("\xe2\x80\xae"
                  "txt"),
            "?txt");  // right-to-left override
  EXPECT_EQ(Clean("\xc2\x9b"
                  "31m"),
            "?31m");  // the one-byte escape
  EXPECT_EQ(Clean("\xc3\xa9t\xc3\xa9"), "\xc3\xa9t\xc3\xa9");
}

TEST(Layout, WidthIsColumns) {
  EXPECT_EQ(WidthOf("\xc3\xa9t\xc3\xa9"), 3);
  EXPECT_EQ(WidthOf("\xe6\x97\xa5\xe6\x9c\xac"), 4);  // two wide characters
  EXPECT_EQ(FitLeft("abcdef", 4), "abc~");
  EXPECT_EQ(FitRight("ab", 4), "  ab");
  EXPECT_EQ(WidthOf(FitLeft("\xe6\x97\xa5\xe6\x9c\xac\xe6\x97\xa5", 4)), 4);
}

TEST(Layout, WrapBreaksAtSpaces) {
  EXPECT_EQ(Wrap("one two three", 11, "- "), "- one two\n  three\n");
  EXPECT_EQ(Wrap("abcdefghijklmnopqrstuvwxyz", 12, "  "), "  abcdefghij\n  klmnopqrst\n  uvwxyz\n");
  EXPECT_EQ(Wrap("", 10, "- "), "- \n");
  EXPECT_EQ(Wrap("that is 46 % of all", 10, ""), "that is\n46 % of\nall\n");
}

TEST(Layout, CommandsCanBePasted) {
  EXPECT_EQ(WrapCommand("run --first 1 --second 2", 16, "  "),
            "  run --first \\\n    1 --second \\\n    2\n");
  EXPECT_EQ(WrapCommand("echo 'two  words' x", 14, ""), "echo \\\n  'two  words' \\\n  x\n");
}

TEST(Layout, TablesAlignAndFit) {
  const Table table{{"name", "time (us)"}, {{"a", "1.5"}, {"long name", "1200"}}};
  EXPECT_EQ(FormatTable(table, 80),
            "name       time (us)\n"
            "--------------------\n"
            "a                1.5\n"
            "long name       1200\n");
  ExpectFits(FormatTable(table, 12), 12);
  Table wide{std::vector<std::string>(60, "column"), {}};
  ExpectFits(FormatTable(wide, 40), 40);
}

TEST(Text, ARunFitsItsWidth) {
  for (const int ranks : {1, 2, 4, 7, 40}) {
    for (const int width : {60, 80, 120}) {
      const analysis::Run run = SyntheticRun({.ranks = ranks, .operations = 3, .steps = 3});
      ExpectFits(FormatRun(run, {width, false}), width);
      EXPECT_EQ(WithoutColors(FormatRun(run, {width, true})), FormatRun(run, {width, false}));
    }
  }
}

TEST(Text, ARunSaysWhereTheTimeGoes) {
  const std::string text = FormatRun(SyntheticRun({}));
  EXPECT_THAT(text, HasSubstr("rdma: 12 operations of 4 ranks, median 1.2"));
  EXPECT_THAT(text, HasSubstr("  rank 3        p"));
  EXPECT_THAT(text, HasSubstr("  = wire"));
  EXPECT_THAT(text, HasSubstr("Critical path: 1.2"));
  EXPECT_THAT(text, HasSubstr("1. 46 % of an operation rank 2 waits for writes of rank 1"));
  EXPECT_THAT(text, HasSubstr("-> Raise --slots from 16 to 32."));
  EXPECT_THAT(text, HasSubstr("Model: 4.2 us a message, 96.5 us a MB moved, 31 us a MB reduced;"));
  EXPECT_THAT(text, HasSubstr("Median error 7.1 %; 9.3 % for a size that"));
  EXPECT_THAT(text, HasSubstr("size     algorithm  measured us  model us  off by %  unseen %"));
  EXPECT_THAT(text, HasSubstr("ranks  slice    1 MiB us  16 MiB us"));
  EXPECT_THAT(text, HasSubstr("    2  256 KiB       210       3355"));
  EXPECT_THAT(text, Not(HasSubstr("send blocked")));  // TCP's alone
  EXPECT_THAT(text, Not(HasSubstr("\x1b")));
  EXPECT_THAT(FormatRun(SyntheticRun({}), {80, true}), HasSubstr("\x1b[38;5;"));
}

TEST(Text, BarsAreAsLongAsTheirTime) {
  analysis::Run run;
  run.name = "made up";
  run.world_size = 2;
  Operation operation;
  operation.number = 1;
  operation.what = "two ranks";
  operation.bytes = 8;
  operation.ranks = {{0, 0, 1000, {}, {}}, {1, 0, 500, {}, {}}};
  operation.ranks[0].total_ns[static_cast<size_t>(Class::kWire)] = 750;
  operation.ranks[0].total_ns[static_cast<size_t>(Class::kReducing)] = 250;
  operation.ranks[1].total_ns[static_cast<size_t>(Class::kReducing)] = 500;
  run.operations = {operation};
  std::vector<std::string> bars;
  for (const std::string& line : Lines(FormatRun(run))) {
    if (line.rfind("  rank ", 0) == 0) bars.push_back(line);
  }
  ASSERT_EQ(bars.size(), 2u);
  const auto count = [](const std::string& line, char c) {
    return std::count(line.begin() + 16, line.end() - 10, c);
  };
  EXPECT_EQ(count(bars[0], '='), 39);
  EXPECT_EQ(count(bars[0], 'r'), 13);
  EXPECT_EQ(count(bars[1], 'r'), 26);
  EXPECT_EQ(count(bars[1], '='), 0);
}

TEST(Text, NothingMeasuredIsSaidWithoutATable) {
  analysis::Run run;
  run.name = "empty";
  run.problems = {"No recording of rank 1 was found."};
  const std::string text = FormatRun(run);
  EXPECT_THAT(text, HasSubstr("empty: 0 operations"));
  EXPECT_THAT(text, HasSubstr("  - No recording of rank 1"));
  EXPECT_THAT(text, Not(HasSubstr("Where the time goes")));
}

TEST(Text, AStudyAnswersFirst) {
  const Study study = SyntheticReport(false).studies[0];
  const std::string text = FormatStudy(study);
  ExpectFits(text, 80);
  const std::vector<std::string> lines = Lines(text);
  EXPECT_EQ(lines[0], "signal_interval: How often should a write ask for a completion?");
  EXPECT_THAT(lines[1], HasSubstr("  Every 16th write"));
  EXPECT_THAT(text, HasSubstr("      16       1115      1290          2.82          288\n"));
  EXPECT_THAT(text, HasSubstr("To reproduce\n  gradwire study signal_interval"));
}

TEST(Text, HostileTextFitsAndIsHarmless) {
  const Report report = SyntheticReport(true);
  for (const analysis::Run& run : report.runs) {
    const std::string text = FormatRun(run);
    ExpectFits(text, 80);
    EXPECT_THAT(text, Not(HasSubstr("\x1b")));
    EXPECT_THAT(text, HasSubstr("?[2J"));
  }
  for (Study study : report.studies) {
    study.commands.clear();
    const std::string text = FormatStudy(study);
    ExpectFits(text, 80);
    EXPECT_THAT(text, Not(HasSubstr("\x1b")));
  }
}

}  // namespace
}  // namespace gradwire::analysis
