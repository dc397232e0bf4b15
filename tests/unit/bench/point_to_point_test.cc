// Writes between two ranks of real transports, ranks as threads.
#include "bench/point_to_point.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <sstream>
#include <vector>

#include "tests/support/local_world.h"
#include "tests/support/tcp_settings.h"
#include "transport/transport.h"

namespace gradwire::bench {
namespace {

using testing::HasSubstr;

Settings SmallSlices() {
  Settings settings = TcpSettings();
  settings.slice_bytes = 4096;
  settings.slots = 4;
  return settings;
}

Options FewWrites() {
  Options options;
  options.sizes = {0, 1, 4096, 50'000};  // the last is more slices than slots
  options.iterations = 7;
  options.warmups = 2;
  options.cycles = 3;
  return options;
}

void OnRanks(int ranks, const std::function<void(World&, Transport&)>& body) {
  test::LocalJob::Run(ranks, [&](World& world) {
    const auto transport = CreateTransport(world, SmallSlices(), "link");
    ASSERT_TRUE(transport.ok()) << Message(transport.status());
    body(world, **transport);
  });
}

TEST(MeasureStreams, MeasuresAndChecksBothWays) {
  for (const bool both_ways : {false, true}) {
    OnRanks(2, [&](World& world, Transport& transport) {
      std::vector<StreamRow> rows;
      const absl::Status status =
          MeasureStreams(world, transport, SmallSlices(), FewWrites(), both_ways,
                         [&](const StreamRow& row) { rows.push_back(row); });
      ASSERT_TRUE(status.ok()) << Message(status);
      ASSERT_EQ(rows.size(), 4u);
      for (const StreamRow& row : rows) {
        EXPECT_EQ(row.wrong, 0) << row.bytes;
        EXPECT_GT(row.messages.min, 0);
        EXPECT_LE(row.messages.min, row.messages.p50);
        EXPECT_GT(row.cost.syscalls, 0);
        EXPECT_EQ(row.doorbells, 0);  // TCP has none
        if (row.bytes > 0) {
          EXPECT_GE(row.cost.copies_per_byte.value_or(0), 2);
        }
        EXPECT_NEAR(row.bandwidth.p50, row.messages.p50 * static_cast<double>(row.bytes) / 1e9,
                    1e-9);
      }
    });
  }
}

TEST(MeasureLatency, HalvesRoundTripsAndChecks) {
  OnRanks(2, [](World& world, Transport& transport) {
    std::vector<LatencyRow> rows;
    const absl::Status status = MeasureLatency(world, transport, SmallSlices(), FewWrites(),
                                               [&](const LatencyRow& row) { rows.push_back(row); });
    ASSERT_TRUE(status.ok()) << Message(status);
    ASSERT_EQ(rows.size(), 4u);
    for (const LatencyRow& row : rows) {
      EXPECT_EQ(row.wrong, 0) << row.bytes;
      EXPECT_GT(row.half_us.min, 0);
      EXPECT_LE(row.half_us.min, row.half_us.p50);
      EXPECT_LE(row.half_us.p50, row.half_us.p99);
      EXPECT_LE(row.half_us.p99, row.half_us.max);
      EXPECT_GT(row.cost.syscalls, 0);
    }
  });
}

TEST(MeasureLatency, NeedsTwoRanks) {
  OnRanks(3, [](World& world, Transport& transport) {
    EXPECT_THAT(Message(MeasureLatency(world, transport, SmallSlices(), FewWrites(),
                                       [](const LatencyRow&) { FAIL(); })),
                HasSubstr("between two ranks, this world has 3"));
    EXPECT_TRUE(absl::IsInvalidArgument(MeasureStreams(world, transport, SmallSlices(), FewWrites(),
                                                       false, [](const StreamRow&) { FAIL(); })));
  });
}

// Every line but the device's, and each row ends where the names end.
void ExpectFits(const std::string& header, const std::string& row) {
  std::istringstream lines(header);
  size_t names = 0;
  for (std::string line; std::getline(lines, line); names = line.size()) {
    EXPECT_LE(line.size(), 80u) << line;
  }
  EXPECT_EQ(names + 1, row.size()) << row;
}

TEST(LinkTables, Fit80Columns) {
  const Options options = FewWrites();
  const Settings settings = SmallSlices();
  StreamRow stream{.bytes = 4096};
  stream.messages = Summarize({12'345'678});
  stream.cost.syscalls = 2.5;
  ExpectFits(BandwidthHeader("device", settings, options, true), BandwidthRow(stream));
  ExpectFits(RateHeader("device", settings, options, true), RateRow(stream));
  EXPECT_THAT(RateRow(stream), HasSubstr("12.3457"));
  LatencyRow latency{.bytes = 8};
  latency.half_us = Summarize({1.5, 2.5, 123456.7});
  ExpectFits(LatencyHeader("device", settings, options), FormatRow(latency));
  EXPECT_EQ(FormatRow(latency),
            "         8     1.50     2.50   123457   123457   123457    0.00    0.00       0\n");
}

}  // namespace
}  // namespace gradwire::bench
