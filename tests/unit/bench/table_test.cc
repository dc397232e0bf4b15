#include "bench/table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <iterator>
#include <sstream>

namespace gradwire::bench {
namespace {

using testing::HasSubstr;

Row SampleRow() {
  Row row;
  row.measured = MakeCase(AllCollectives()[0], DataType::kFloat32, ReduceOp::kSum, 0, 4096, 2);
  row.bytes = 4096;
  row.out_of_place = {.time_us = 12.345, .algorithm_bandwidth = 0.33, .bus_bandwidth = 0.33};
  row.in_place = {.time_us = 1234567.8, .algorithm_bandwidth = 123456, .bus_bandwidth = 1.5};
  row.in_place.wrong = 3;
  row.in_place.per_call = Summarize({1, 2, 3});
  row.in_place.cost = {.user_seconds_per_gb = 0.5,
                       .system_seconds_per_gb = 0.25,
                       .voluntary_switches = 3,
                       .involuntary_switches = 0.125,
                       .syscalls = 12345.67,
                       .blocks = 2,
                       .copies_per_byte = 2.25};
  return row;
}

std::vector<std::string> Columns(const std::string& line) {
  std::istringstream stream(line);
  return {std::istream_iterator<std::string>(stream), {}};
}

TEST(FormatNumber, LosesDecimalsBeforeItOverflows) {
  EXPECT_EQ(FormatNumber(1234.567, 7), "1234.57");
  EXPECT_EQ(FormatNumber(12345.67, 7), "12345.7");
  EXPECT_EQ(FormatNumber(123456.7, 7), "123457");
  EXPECT_EQ(FormatNumber(99999.96, 7), "100000");
  EXPECT_EQ(FormatNumber(123456789, 7), "1.2e+08");
  EXPECT_EQ(FormatNumber(123456789, 6), "1e+08");
  EXPECT_EQ(FormatNumber(0, 6), "0.00");
}

TEST(TableRow, HasNcclTestsWidths) {
  EXPECT_EQ(TableRow(SampleRow()),
            "        4096          1024     float     sum      -1"
            "    12.35    0.33    0.33     N/A"
            "  1234568  123456    1.50       3"
            "     2.00     3.00     3.00     0.75     0.50     0.25     3.00     0.12  12345.7"
            "     2.00     2.25\n");
}

TEST(TableRow, OfANarrowTerminalFitsIt) {
  EXPECT_EQ(TableRow(SampleRow()).size(), kTableColumns + 1u);
  const std::string row = TableRow(SampleRow(), /*narrow=*/true);
  EXPECT_EQ(row, "        4096    float  1234568  123456    1.50       3    2.00    3.00   0.75\n");
  EXPECT_LE(row.size(), 80u);
  const std::string header = TableHeader(AllCollectives()[0], Options(), {}, /*narrow=*/true);
  EXPECT_EQ(header.size() - header.rfind('#'), row.size());
}

TEST(TableRow, SaysWhereCopiesAreNotCounted) {
  Row row = SampleRow();
  row.in_place.cost.copies_per_byte.reset();
  EXPECT_EQ(Columns(TableRow(row)).back(), "N/A");
}

TEST(TableRow, NamesRootsAndMissingOperations) {
  Row row = SampleRow();
  row.measured.collective = &AllCollectives()[3];
  row.measured.root = 2;
  const std::vector<std::string> words = Columns(TableRow(row));
  EXPECT_EQ(words[3], "none");
  EXPECT_EQ(words[4], "2");
}

TEST(TableHeader, IsAllComments) {
  Options options;
  options.step_factor = 2;
  PeerInfo peer;
  peer.rank = 0;
  peer.host = "node1";
  peer.pid = 4711;
  const std::string header =
      TableHeader(AllCollectives()[0], options, {{peer, "tcp", "lo, asked for"}});
  std::istringstream stream(header);
  std::vector<std::string> lines;
  for (std::string line; std::getline(stream, line);) {
    EXPECT_EQ(line[0], '#') << line;
    lines.push_back(line);
  }
  EXPECT_EQ(lines[0], "# gradwire: lo, asked for");
  EXPECT_THAT(header, HasSubstr("# Collective test starting: all_reduce_perf\n"));
  EXPECT_THAT(header, HasSubstr("step: 2(factor) warmup iters: 1 iters: 20"));
  EXPECT_THAT(header, HasSubstr("#  Rank  0 Group  0 Pid   4711 on      node1 device  0 [tcp]"));
  // Names, units and numbers end in the same columns.
  const std::string row = TableRow(SampleRow());
  EXPECT_EQ(lines[lines.size() - 2].size() + 1, row.size());
  EXPECT_EQ(lines.back().size() + 1, row.size());
  const std::string& names = lines[lines.size() - 2];
  EXPECT_EQ(names.find("busbw"), row.find("0.33  ", row.find("0.33") + 1) - 1);
}

TEST(TableFooter, HasTheLabelsThatScriptsParse) {
  Options options;
  EXPECT_EQ(TableFooter(AllCollectives()[0], options, {0, 1.25}),
            "# Out of bounds values : 0 OK\n"
            "# Avg bus bandwidth    : 1.25 \n"
            "#\n"
            "# Collective test concluded: all_reduce_perf\n"
            "#\n");
  options.min_bandwidth = 2;
  const std::string failed = TableFooter(AllCollectives()[0], options, {7, 1.25});
  EXPECT_THAT(failed, HasSubstr("Out of bounds values : 7 FAILED"));
  EXPECT_THAT(failed, HasSubstr("Avg bus bandwidth    : 1.25 FAILED"));
}

}  // namespace
}  // namespace gradwire::bench
