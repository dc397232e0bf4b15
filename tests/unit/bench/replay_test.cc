// The gradients of a model on real communicators, ranks as threads.
#include "bench/replay.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

#include "tests/support/local_world.h"
#include "tests/support/tcp_settings.h"

namespace gradwire::bench {
namespace {

std::vector<Gradient> SmallModel() {
  return {{"b", {10}}, {"a", {30, 10}}, {"c", {5000}}, {"d", {1}}};
}

TEST(Replay, SendsEachTensorAndBuckets) {
  test::LocalJob::Run(3, [](World& world) {
    const auto communicator = Communicator::Create(world, TcpSettings());
    ASSERT_TRUE(communicator.ok()) << communicator.status();
    Options options;
    options.model = "small";
    options.bucket_bytes = 4 * 310;
    options.iterations = 4;
    options.warmups = 2;
    options.checks = 2;
    const auto rows = Replay(**communicator, SmallModel(), options);
    ASSERT_TRUE(rows.ok()) << Message(rows.status());
    ASSERT_EQ(rows->size(), 2u);
    EXPECT_EQ((*rows)[0].operations, 4);
    EXPECT_EQ((*rows)[1].operations, 3);  // b and a together, then c, then d
    for (const ReplayRow& row : *rows) {
      EXPECT_EQ(row.tensors, 4);
      EXPECT_EQ(row.bytes, 4 * 5311);
      EXPECT_EQ(row.wrong, 0);
      EXPECT_EQ(row.samples.size(), 4u);
      EXPECT_GT(row.step.min, 0);
      EXPECT_LE(row.step.p50, row.step.p99);
      EXPECT_NEAR(row.algorithm_bandwidth, 4 * 5311 / row.step.p50 * 1e-3, 1e-9);
      EXPECT_NEAR(row.bus_bandwidth, row.algorithm_bandwidth * 4 / 3, 1e-9);
      EXPECT_GT(row.cost.syscalls, 0);
    }
  });
}

TEST(Replay, UncheckedIsNotRight) {
  test::LocalJob::Run(1, [](World& world) {
    const auto communicator = Communicator::Create(world, TcpSettings());
    ASSERT_TRUE(communicator.ok()) << communicator.status();
    Options options;
    options.iterations = 1;
    options.checks = 0;
    const auto rows = Replay(**communicator, SmallModel(), options);
    ASSERT_TRUE(rows.ok()) << Message(rows.status());
    EXPECT_FALSE((*rows)[0].wrong.has_value());
    EXPECT_THAT(FormatRow((*rows)[0]), testing::HasSubstr("N/A"));
  });
}

TEST(Replay, TheTableFits80Columns) {
  Options options;
  options.model = "bert-base";
  ReplayRow row;
  row.bucket_bytes = 25 << 20;
  row.tensors = 199;
  row.bytes = 437'928'960;
  row.operations = 199;
  row.step = Summarize({1'234'567.8});
  row.wrong = 0;
  std::istringstream header(ReplayHeader("a device", options, 4));
  size_t names = 0;
  for (std::string line; std::getline(header, line);) {
    EXPECT_EQ(line[0], '#');
    EXPECT_LE(line.size(), 80u) << line;
    names = line.size();
  }
  EXPECT_EQ(FormatRow(row).size(), names + 1);  // in the columns of the names
  EXPECT_EQ(FormatRow(row),
            "26214400     199 437928960  199 1234.6 1234.6 1234.6   0.00   0.00   0.00      0\n");
}

}  // namespace
}  // namespace gradwire::bench
