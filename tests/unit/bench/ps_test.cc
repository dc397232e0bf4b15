// Push-pull beside all-reduce on real servers and workers, ranks as threads; and its table.
#include "bench/ps.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>
#include <string>
#include <vector>

#include "bench/first_ranks.h"
#include "tests/support/local_world.h"
#include "tests/support/tcp_settings.h"

namespace gradwire::bench {
namespace {

using test::LocalJob;
using ::testing::HasSubstr;

PsOptions FewPushes() {
  PsOptions options;
  options.sweep.iterations = 4;
  options.sweep.warmups = 1;
  options.sweep.checks = 2;
  options.server.slice_bytes = 4096;
  return options;
}

void MeasuresAndChecks(int ranks, const PsOptions& options) {
  const int workers = ranks - options.servers;
  LocalJob::Run(ranks, [&](World& world) {
    const auto bench = PsBench::Create(world, TcpSettings(), options);
    ASSERT_TRUE(bench.ok()) << Message(bench.status());
    EXPECT_EQ((*bench)->workers(), workers);
    for (const size_t bytes : {size_t{4}, size_t{100'000}}) {
      const auto row = (*bench)->Measure(bytes);
      ASSERT_TRUE(row.ok()) << Message(row.status());
      EXPECT_EQ(row->wrong, 0);
      if (world.rank() >= workers) continue;
      EXPECT_EQ(row->bytes, bytes);
      EXPECT_EQ(row->count, bytes / 4);
      for (const PsSide* side : {&row->push_pull, &row->all_reduce}) {
        EXPECT_GT(side->time_us.min, 0);
        EXPECT_GE(side->time_us.p99, side->time_us.p50);
        EXPECT_NEAR(side->algorithm_bandwidth(bytes),
                    static_cast<double>(bytes) / side->time_us.p50 * 1e-3, 1e-9);
      }
      EXPECT_GT(row->push_pull.cost.cpu_seconds_per_gb(), 0);
      EXPECT_GT(row->push_pull.cost.syscalls, 0);
      EXPECT_THAT((*bench)->push_pull_description(), HasSubstr("tcp"));
    }
  });
}

TEST(PsBench, MeasuresAndChecksBsp) { MeasuresAndChecks(3, FewPushes()); }

TEST(PsBench, MeasuresAndChecksAspOnTwoServersOfTwoThreads) {
  PsOptions options = FewPushes();
  options.servers = 2;
  options.server.threads = 2;
  options.server.shard.consistency = ps::Consistency::kAsp;
  MeasuresAndChecks(5, options);
}

TEST(PsBench, CountsWhatIsWrong) {
  // With gradients cut down the values cannot be the sum.
  PsOptions options = FewPushes();
  options.server.shard.clip_value = 0.5;
  LocalJob::Run(3, [&](World& world) {
    const auto bench = PsBench::Create(world, TcpSettings(), options);
    ASSERT_TRUE(bench.ok()) << Message(bench.status());
    const auto row = (*bench)->Measure(4096);
    ASSERT_TRUE(row.ok()) << Message(row.status());
    EXPECT_GT(row->wrong, 0);
  });
}

TEST(PsBench, LeavesOutWhatIsNotChecked) {
  PsOptions options = FewPushes();
  options.sweep.checks = 0;
  LocalJob::Run(2, [&](World& world) {
    const auto bench = PsBench::Create(world, TcpSettings(), options);
    ASSERT_TRUE(bench.ok()) << Message(bench.status());
    const auto row = (*bench)->Measure(4096);
    ASSERT_TRUE(row.ok()) << Message(row.status());
    EXPECT_EQ(row->wrong, std::nullopt);
  });
}

TEST(PsBench, RefusesWhatCannotBe) {
  PsOptions options;
  EXPECT_TRUE(Validate(options, 2).ok());
  EXPECT_THAT(Message(Validate(options, 1)), HasSubstr("--servers 1 of 1 ranks"));
  options.servers = 3;
  EXPECT_THAT(Message(Validate(options, 3)), HasSubstr("--servers 3 of 3 ranks"));
  options.servers = 1;
  options.sweep.ranks = 4;
  EXPECT_THAT(Message(Validate(options, 3)), HasSubstr("--ranks 4 inside a job of 3 ranks"));
  options.sweep.ranks = 0;
  options.sweep.iterations = 1'000'000;
  EXPECT_THAT(Message(Validate(options, 3)), HasSubstr("cannot be checked exactly"));
  options.sweep.checks = 0;
  EXPECT_TRUE(Validate(options, 3).ok());
  options.server.threads = 1000;
  EXPECT_THAT(Message(Validate(options, 3)), HasSubstr("--threads 1000"));
}

TEST(FirstRanks, AreAWorldWithoutTheOthers) {
  LocalJob::Run(3, [](World& world) {
    if (world.rank() == 2) return;
    const auto first = FirstRanks(world, 2);
    EXPECT_EQ(first->size(), 2);
    EXPECT_EQ(first->rank(), world.rank());
    const std::chrono::seconds patience(30);
    const auto told = first->AllGather("hello", std::to_string(world.rank()), {}, patience);
    ASSERT_TRUE(told.ok()) << Message(told.status());
    EXPECT_THAT(*told, testing::ElementsAre("0", "1"));
    EXPECT_TRUE(first->Barrier("bye", patience).ok());
  });
}

TEST(PsTable, NamesUnitsAndNumbersEndInTheSameColumns) {
  PsOptions options;
  PsRow row{.bytes = 64 << 20, .count = 16 << 20};
  row.push_pull = {.time_us = Summarize({40'000, 42'000, 50'000}),
                   .cost = {.user_seconds_per_gb = 1.5}};
  row.all_reduce = {.time_us = Summarize({20'000, 21'000, 30'000}),
                    .cost = {.user_seconds_per_gb = 0.5}};
  row.copy_us = Summarize({8'000, 8'388.608, 9'000});
  row.wrong = 0;
  const std::string header = PsHeader(options, 2, "tcp on lo; 1 server, bsp", "tcp on lo");
  std::istringstream stream(header);
  std::vector<std::string> lines;
  for (std::string line; std::getline(stream, line);) {
    EXPECT_EQ(line[0], '#') << line;
    lines.push_back(line);
  }
  EXPECT_THAT(header, HasSubstr("W/S B = 2 B each way"));
  EXPECT_THAT(header, HasSubstr("2 (W-1)/W B = 1 B each way"));
  const std::string text = PsTableRow(row, options);
  EXPECT_EQ(text,
            "    67108864      16777216     float        1    bsp"
            "  42000.00  50000.00  50000.00    1.60   19.97      1.50        0"
            "  21000.00  30000.00    3.20      0.50    2.00    8.00\n");
  for (size_t i = lines.size() - 3; i < lines.size(); ++i) {
    EXPECT_EQ(lines[i].size() + 1, text.size()) << lines[i];
  }
}

TEST(PsTable, GivesAVerdict) {
  EXPECT_THAT(PsFooter(0, true), HasSubstr("# Out of bounds values : 0 OK\n"));
  EXPECT_THAT(PsFooter(3, true), HasSubstr("# Out of bounds values : 3 FAILED\n"));
  EXPECT_THAT(PsFooter(0, false), HasSubstr("# Out of bounds values : N/A\n"));
}

}  // namespace
}  // namespace gradwire::bench
