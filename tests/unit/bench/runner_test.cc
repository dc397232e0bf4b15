// The measuring loop on real communicators, ranks as threads.
#include "bench/runner.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "bench/first_ranks.h"
#include "bench/samples.h"
#include "tests/support/local_world.h"
#include "tests/support/tcp_settings.h"

namespace gradwire::bench {
namespace {

using test::LocalJob;
using ::testing::HasSubstr;

// Runs `body` on each rank with a communicator of its own.
void OnRanks(int ranks, const std::function<void(Communicator&)>& body) {
  LocalJob::Run(ranks, [&](World& world) {
    auto communicator = Communicator::Create(world, TcpSettings());
    ASSERT_TRUE(communicator.ok()) << Message(communicator.status());
    body(**communicator);
  });
}

Options SmallSweep() {
  Options options;
  options.sizes = {0, 8, 1000, 300'000};
  options.iterations = 3;
  options.checks = 2;
  return options;
}

TEST(RunSweep, MeasuresAndChecksEveryCollective) {
  OnRanks(3, [](Communicator& communicator) {
    for (const CollectiveInfo& collective : AllCollectives()) {
      Options options = SmallSweep();
      options.types = {DataType::kFloat32, DataType::kBfloat16, DataType::kInt64};
      options.ops = {ReduceOp::kSum, ReduceOp::kAvg, ReduceOp::kProd};
      options.root = collective.rooted ? -1 : 0;
      std::vector<Row> rows;
      const auto totals =
          RunSweep(communicator, collective, options, [&](const Row& row) { rows.push_back(row); });
      ASSERT_TRUE(totals.ok()) << collective.name << ": " << Message(totals.status());
      EXPECT_EQ(totals->wrong, 0) << collective.name;
      EXPECT_GT(totals->bus_bandwidth, 0) << collective.name;
      const size_t variants = (collective.reduces ? 3 : 1) * (collective.rooted ? 3 : 1);
      ASSERT_EQ(rows.size(), 3 * variants * options.sizes.size()) << collective.name;
      const Row& largest = rows[options.sizes.size() - 1];
      EXPECT_LE(largest.bytes, 300'000u);
      EXPECT_GT(largest.bytes, 299'900u);
      for (const Half* half : {&largest.out_of_place, &largest.in_place}) {
        EXPECT_GT(half->time_us, 0);
        EXPECT_NEAR(half->algorithm_bandwidth,
                    static_cast<double>(largest.bytes) / half->time_us * 1e-3, 1e-6);
        EXPECT_NEAR(half->bus_bandwidth, half->algorithm_bandwidth * collective.BusFactor(3), 1e-9);
        EXPECT_EQ(half->wrong, 0);
        EXPECT_EQ(half->samples.size(), 3u);
        EXPECT_GT(half->cost.cpu_seconds_per_gb(), 0);
        EXPECT_GT(half->cost.syscalls, 0);  // over TCP nothing moves without
        // Into the kernel and out of it.
        ASSERT_TRUE(half->cost.copies_per_byte.has_value());
        // A rank may take the first slice of the first of three calls before its count begins.
        EXPECT_GE(*half->cost.copies_per_byte, 0.9 * 2);
        EXPECT_LT(*half->cost.copies_per_byte, 4);
        EXPECT_GT(half->per_call.min, 0);
        EXPECT_LE(half->per_call.p50, half->per_call.p99);
      }
    }
  });
}

TEST(RunSweep, AgreesOnTimesAmongRanks) {
  std::mutex mutex;
  std::vector<double> times;
  OnRanks(2, [&](Communicator& communicator) {
    Options options = SmallSweep();
    options.registered = true;
    options.checks = 0;
    options.average = Average::kMax;
    options.sizes = {4096};
    const auto totals = RunSweep(communicator, AllCollectives()[0], options, [&](const Row& row) {
      EXPECT_FALSE(row.in_place.wrong.has_value());
      const std::lock_guard lock(mutex);
      times.push_back(row.in_place.time_us);
      times.push_back(row.in_place.per_call.p99);
    });
    EXPECT_TRUE(totals.ok());
  });
  ASSERT_EQ(times.size(), 4u);
  EXPECT_EQ(std::count(times.begin(), times.end(), times[0]), 2);
  EXPECT_EQ(std::count(times.begin(), times.end(), times[1]), 2);
}

TEST(RunSweep, RefusesARootThatDoesNotExist) {
  OnRanks(1, [](Communicator& communicator) {
    Options options = SmallSweep();
    options.root = 1;
    const auto totals =
        RunSweep(communicator, AllCollectives()[3], options, [](const Row&) { FAIL(); });
    EXPECT_THAT(Message(totals.status()), HasSubstr("--root 1"));
  });
}

TEST(Call, CountsWhatIsWrong) {
  constexpr int kRanks = 2;
  OnRanks(kRanks, [](Communicator& communicator) {
    for (const CollectiveInfo& collective : AllCollectives()) {
      for (const bool in_place : {false, true}) {
        const Case measured =
            MakeCase(collective, DataType::kFloat32, ReduceOp::kSum, 1, 8000, kRanks);
        const Pattern pattern = *Pattern::Make(measured.type, measured.op, kRanks);
        std::vector<float> send(2000);
        std::vector<float> receive(2000);
        Call call(measured, in_place, communicator, reinterpret_cast<std::byte*>(send.data()),
                  reinterpret_cast<std::byte*>(receive.data()));
        call.Fill(pattern);
        const bool is_source = in_place && collective.rooted && communicator.rank() == 1;
        EXPECT_EQ(call.CountWrong(pattern) == 0, is_source)
            << collective.name << " that never ran, in place " << in_place;
        ASSERT_TRUE(call.Run().ok());
        EXPECT_EQ(call.CountWrong(pattern), 0u) << collective.name << ", in place " << in_place;
        // An element of the result on every rank, whatever the layout.
        const bool own_block = in_place && collective.id == Collective::kReduceScatter;
        receive[own_block && communicator.rank() == 1 ? 1500 : 500] += 1;
        EXPECT_EQ(call.CountWrong(pattern), 1u) << collective.name << ", in place " << in_place;
      }
    }
  });
}

TEST(RunSamples, PrintsOnRankZeroAlone) {
  std::mutex mutex;
  std::vector<std::string> rows;
  OnRanks(3, [&](Communicator& communicator) {
    Options options;
    options.sizes = {8, 100'000};
    options.sampling.budget = 1e-3;
    const auto wrong = RunSamples(communicator, options, [&](const SampledRow& row) {
      EXPECT_EQ(communicator.rank(), 0);
      const std::lock_guard lock(mutex);
      rows.push_back(FormatCsv(row));
    });
    ASSERT_TRUE(wrong.ok()) << Message(wrong.status());
    EXPECT_EQ(*wrong, 0);
  });
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_THAT(rows[1], HasSubstr("gradwire,tcp,3,100000,"));
}

TEST(RunByTurns, TakesEverySizeOfEveryVariantInEachRound) {
  LocalJob::Run(3, [&](World& world) {
    const auto first = Communicator::Create(world, TcpSettings());
    const std::unique_ptr<World> again = FirstRanks(world, world.size());
    const auto second = Communicator::Create(*again, TcpSettings());
    ASSERT_TRUE(first.ok() && second.ok());
    SamplingOptions options;
    options.sizes = {120, 1200};
    options.budget = 1e-5;
    for (const CollectiveInfo& collective : AllCollectives()) {
      std::vector<int64_t> told;
      const auto rows =
          RunByTurns({{"a", first->get(), false}, {"b", second->get(), true}}, collective, options,
                     2, [&](int64_t done) { told.push_back(done); });
      ASSERT_TRUE(rows.ok()) << collective.name << ": " << Message(rows.status());
      EXPECT_EQ(told, (std::vector<int64_t>{1, 2}));
      std::vector<std::string> order;
      for (const SampledRow& row : *rows) {
        EXPECT_EQ(row.wrong, 0) << collective.name;
        EXPECT_EQ(row.ranks, 3);
        EXPECT_NEAR(row.bus_bandwidth, row.algorithm_bandwidth * collective.BusFactor(3), 1e-9);
        order.push_back(fmt::format("{}{}/{}", row.peer, row.round, row.bytes));
      }
      // Who begins changes with each size and round.
      EXPECT_EQ(order, (std::vector<std::string>{"a1/120", "b1/120", "b1/1200", "a1/1200", "b2/120",
                                                 "a2/120", "a2/1200", "b2/1200"}));
    }
  });
}

}  // namespace
}  // namespace gradwire::bench
