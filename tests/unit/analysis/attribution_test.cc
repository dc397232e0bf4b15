// Every cause by itself, from recordings made by hand: the right class, the right rank, the right
// time, and no nanosecond twice or left out.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "analysis/report/tally.h"
#include "tests/unit/analysis/script.h"
#include "tests/unit/training/temporary_folder.h"

namespace gradwire::analysis {
namespace {

using telemetry::Kind;
using telemetry::Need;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using training::TemporaryFolder;

// Microseconds of `in` that `rank` spent in the run's one operation.
double Us(const Run& run, int rank, Class in) {
  const auto& times = run.operations.front().ranks[static_cast<size_t>(rank)];
  return static_cast<double>(times.total_ns[static_cast<size_t>(in)]) / 1e3;
}

Run Analysed(const Script& script) {
  const TemporaryFolder folder;
  auto run = script.Analysed(folder.path());
  EXPECT_TRUE(run.ok()) << run.status();
  if (!run.ok()) return {};
  EXPECT_THAT(run->problems, IsEmpty());
  int64_t ended = 0;  // of the operation before, on every rank
  for (const Operation& operation : run->operations) {
    int64_t first = INT64_MAX, last = 0;
    for (const RankTimes& rank : operation.ranks) {
      int64_t now = rank.begin_ns;
      for (const Interval& each : rank.intervals) {
        EXPECT_EQ(each.begin_ns, now);
        EXPECT_GT(each.end_ns, each.begin_ns);
        now = each.end_ns;
      }
      EXPECT_EQ(now, rank.end_ns);
      first = std::min(first, rank.begin_ns);
      last = std::max(last, rank.end_ns);
    }
    int64_t now = std::max(first, ended);
    for (const PathStep& step : operation.critical) {
      EXPECT_EQ(step.interval.begin_ns, now);
      now = step.interval.end_ns;
    }
    EXPECT_EQ(now, last);
    ended = last;
  }
  return *std::move(run);
}

// Rank 0 waits from 0 to 100 us for what rank 1 writes at `written`.
Script Waiting(double written, double posted, double gone, double arrived,
               const std::string& transport = "rdma", bool same_host = true) {
  Script script(2, transport, same_host);
  script.Operation(0, 0, 100);
  script.Operation(1, 0, 100);
  script.Wait(0, 0, arrived, 1);
  script.Write(1, 0, written, posted, gone, arrived);
  return script;
}

TEST(Attribution, ALateRankIsWaitedFor) {
  Script script(2, "rdma");
  script.Operation(0, 0, 2100);
  script.Operation(1, 2000, 2100);
  script.Wait(0, 5, 2050, 1);
  script.Write(1, 0, 2010, 2010, 2020, 2050);
  const auto run = Analysed(script);
  EXPECT_DOUBLE_EQ(Us(run, 0, Class::kLatePeer), 2005);
  EXPECT_DOUBLE_EQ(Us(run, 0, Class::kWire), 40);
  ASSERT_FALSE(run.findings.empty());
  EXPECT_EQ(run.findings[0].in, Class::kLatePeer);
  EXPECT_EQ(run.findings[0].rank, 1);
  EXPECT_EQ(run.findings[0].ns_per_operation, 2'000'000);
  EXPECT_THAT(run.findings[0].sentence, HasSubstr("rank 1, which came late"));
}

TEST(Attribution, WhatAWaitIsForIsFollowedFromRankToRank) {
  Script script(3, "rdma");
  for (const int rank : {0, 1}) script.Operation(rank, 0, 500);
  script.Operation(2, 300, 500);
  script.Wait(0, 0, 450, 1);
  script.Wait(1, 0, 350, 2);
  script.Write(2, 1, 310, 310, 320, 350);
  script.Write(1, 0, 360, 360, 370, 450);
  const auto run = Analysed(script);
  // Rank 1 only passes on what rank 2 brought too late.
  const auto& waits = run.operations[0].ranks[0].intervals;
  EXPECT_EQ(waits[0].in, Class::kLatePeer);
  EXPECT_EQ(waits[0].peer, 2);
  EXPECT_EQ(run.findings[0].in, Class::kLatePeer);
  EXPECT_EQ(run.findings[0].rank, 2);
}

TEST(Attribution, ASlowReducerBoundsTheStep) {
  Script script = Waiting(80, 80, 82, 90);
  script.Add(1, Kind::kReduce, 2, 78, -1, 0, 4096);
  const auto run = Analysed(script);
  EXPECT_DOUBLE_EQ(Us(run, 1, Class::kReducing), 76);
  EXPECT_DOUBLE_EQ(Us(run, 0, Class::kLatePeer), 80);
  EXPECT_EQ(run.findings[0].in, Class::kReducing);
  EXPECT_EQ(run.findings[0].rank, 1);
  EXPECT_EQ(run.findings[0].ns_per_operation, 76'000);
}

TEST(Attribution, AFullSendQueueIsToldFromALongChain) {
  Script script = Waiting(10, 70, 72, 90);
  EXPECT_DOUBLE_EQ(Us(Analysed(script), 0, Class::kPosting), 60);
  script.Add(1, Kind::kQueueFull, 10, 10, 0);
  const auto run = Analysed(script);
  EXPECT_DOUBLE_EQ(Us(run, 0, Class::kSendQueueFull), 60);
  EXPECT_DOUBLE_EQ(Us(run, 0, Class::kLatePeer), 10);
  EXPECT_EQ(run.findings[0].in, Class::kSendQueueFull);
  EXPECT_THAT(run.findings[0].advice, HasSubstr("--queue-depth"));
}

// What stands in line is late all together: only the first wait is longer for it.
TEST(Attribution, OneStallOfTheSendQueueIsChargedOnce) {
  Script script(2, "rdma");
  script.Operation(0, 0, 400);
  script.Operation(1, 0, 400);
  script.Add(1, Kind::kQueueFull, 10, 10, 0);
  // Three writes stood in line from 10 to 70; rank 0 was busy until 100.
  double now = 100;
  for (const uint64_t i : {0, 1, 2}) {
    const double taken = 160 + 5 * static_cast<double>(i);
    script.Write(1, 0, 10, 70, 72, taken, i);
    script.Wait(0, now, taken, 1, i);
    now = taken;
  }
  // 60 us they were late; of those the link takes 5 us for a write behind another.
  EXPECT_DOUBLE_EQ(Us(Analysed(script), 0, Class::kSendQueueFull), 55);
}

// A queue of two with a round trip of 100 us: each pair waits for the one before.
TEST(Attribution, EachRoundTripOfAShortQueueIsCharged) {
  Script script(2, "rdma");
  script.Operation(0, 0, 500);
  script.Operation(1, 0, 500);
  script.Add(1, Kind::kQueueFull, 1, 1, 0);
  double taken = 0;
  for (const uint64_t pair : {0, 1, 2}) {
    const double posted = 100 * static_cast<double>(pair);
    for (const uint64_t i : {0, 1}) {
      script.Write(1, 0, 0, posted, posted, posted + 50, 2 * pair + i);
      if (i == 0) script.Wait(0, taken, posted + 50, 1, 2 * pair);  // the other comes with it
      taken = posted + 50;
    }
  }
  const auto run = Analysed(script);
  EXPECT_DOUBLE_EQ(Us(run, 0, Class::kSendQueueFull), 200);
  EXPECT_DOUBLE_EQ(Us(run, 0, Class::kWire), 50);
}

// What one stall made late comes back with the answer, but is not a cause that hides the next.
TEST(Attribution, AStallAfterARoundTripIsChargedAgain) {
  Script script(2, "rdma");
  script.Operation(0, 0, 200);
  script.Operation(1, 0, 200);
  script.Add(1, Kind::kQueueFull, 10, 10, 0);
  script.Write(1, 0, 10, 70, 72, 90);
  script.Wait(0, 0, 90, 1);
  script.Write(0, 1, 95, 95, 96, 110);
  script.Wait(1, 75, 110, 0);
  script.Add(1, Kind::kQueueFull, 115, 115, 0);
  script.Write(1, 0, 115, 145, 147, 160, 1);
  script.Wait(0, 97, 160, 1, 1);
  EXPECT_DOUBLE_EQ(Us(Analysed(script), 0, Class::kSendQueueFull), 60 + 30);
}

// Writes arrive every 10 us without a gap, each with a doorbell of its own: the link is busy.
TEST(Attribution, ABusyLinkIsNoFullQueue) {
  Script script(2, "rdma");
  script.Operation(0, 0, 500);
  script.Operation(1, 0, 500);
  script.Add(1, Kind::kQueueFull, 1, 1, 0);
  double taken = 0;
  for (int i = 0; i < 30; ++i) {
    const double arrived = 20 + 10 * static_cast<double>(i);
    // Room for two at a time.
    const double posted = std::max(0.0, arrived - 20);
    script.Write(1, 0, 0, posted, posted + 1, arrived, static_cast<uint64_t>(i));
    script.Wait(0, taken, arrived, 1, static_cast<uint64_t>(i));
    taken = arrived;
  }
  const auto run = Analysed(script);
  EXPECT_LE(Us(run, 0, Class::kSendQueueFull), 10);
  EXPECT_GE(Us(run, 0, Class::kWire), 290);
}

TEST(Attribution, AWriteWithoutACreditIsToldAtBothEnds) {
  Script script = Waiting(60, 60, 62, 90);
  script.Wait(1, 5, 60, 0, 0, Need::kCredit);
  auto run = Analysed(script);
  EXPECT_DOUBLE_EQ(Us(run, 1, Class::kNoCredit), 55);
  EXPECT_DOUBLE_EQ(Us(run, 0, Class::kNoCredit), 55);
  EXPECT_DOUBLE_EQ(Us(run, 0, Class::kLatePeer), 5);

  // The same while it waits for something else as well.
  script = Waiting(60, 60, 62, 90);
  script.Wait(1, 5, 60, 0, 7, Need::kArrival, /*also_credit=*/true);
  run = Analysed(script);
  EXPECT_DOUBLE_EQ(Us(run, 0, Class::kNoCredit), 55);
}

// Two operations of two ranks; in the second, at 1000 us, rank 1 received a NAK. In the first a
// write of rank 1 takes 5 us on the wire.
Script WithANak(const std::string& timer = "") {
  Script script(2, "rdma");
  for (const int rank : {0, 1}) {
    if (!timer.empty()) script.rank(rank).facts.settings["rnr-timer"] = timer;
    script.Operation(rank, 0, 100, 1);
    script.Add(rank, Kind::kDevice, 1000, 1000, -1, 0);
    script.Operation(rank, 1000, 2000, 2);
    script.Add(rank, Kind::kDevice, 2000, 2000, -1, rank == 1 ? 1 : 0);
  }
  script.Wait(0, 0, 16, 1, 0);
  script.Write(1, 0, 10, 10, 11, 16, 0);
  return script;
}

TEST(Attribution, AReceiverThatWasNotReadyIsNamed) {
  Script script = WithANak();
  // A NAK and a timer more.
  script.Wait(0, 1000, 1676, 1, 1);
  script.Write(1, 0, 1010, 1010, 1011, 1676, 1);
  const auto run = Analysed(script);
  const auto& late = run.operations[1].ranks[0].total_ns;
  EXPECT_EQ(late[static_cast<size_t>(Class::kReceiverNotReady)], 660'000);
  EXPECT_EQ(late[static_cast<size_t>(Class::kWire)], 6'000);
  EXPECT_EQ(run.findings[0].in, Class::kReceiverNotReady);
  EXPECT_EQ(run.operations[0].ranks[0].total_ns[static_cast<size_t>(Class::kReceiverNotReady)], 0);
}

TEST(Attribution, AWaitForAReceiverIsOneWhateverIsDoneMeanwhile) {
  Script script = WithANak("12");  // 0.64 ms
  script.Wait(0, 1000, 1700, 1, 1);
  script.Write(1, 0, 1010, 1010, 1011, 1700, 1);
  script.Add(0, Kind::kPosted, 1300, 1302, 1, 7, 64);
  script.Add(0, Kind::kPosted, 1500, 1502, 1, 8, 64);
  const auto run = Analysed(script);
  const auto& times = run.operations[1].ranks[0].total_ns;
  EXPECT_GT(times[static_cast<size_t>(Class::kReceiverNotReady)], 600'000);
}

TEST(Attribution, WhatTookLessThanTheTimerWasNotToldToComeAgain) {
  Script script = WithANak("12");  // 0.64 ms
  script.Wait(0, 1000, 1216, 1, 1);
  script.Write(1, 0, 1010, 1010, 1011, 1216, 1);
  const auto run = Analysed(script);
  const auto& times = run.operations[1].ranks[0].total_ns;
  EXPECT_EQ(times[static_cast<size_t>(Class::kReceiverNotReady)], 0);
  EXPECT_EQ(times[static_cast<size_t>(Class::kWire)], 206'000);
}

// Rank 1 is done with the operation before its last write turns out to be lost: the packet is sent
// again in its next one.
TEST(Attribution, WhatIsSentAgainFromTheNextOperationWasOnItsWay) {
  for (const uint32_t again : {0u, 1u}) {
    Script script(2, "tcp");
    script.Operation(0, 0, 5000);
    script.Add(0, Kind::kBlock, 20, 4990);
    script.Wait(0, 0, 5000, 1);
    script.Write(1, 0, 10, 10, 12, 5000);
    script.Operation(0, 5010, 5100, 2);
    script.Add(1, Kind::kDevice, 0, 0, -1, 0, 0);
    script.Operation(1, 0, 50);
    script.Add(1, Kind::kDevice, 50, 50, -1, 0, 0);
    script.Operation(1, 60, 5200, 2);
    script.Add(1, Kind::kDevice, 5200, 5200, -1, 0, again);
    const auto run = Analysed(script);
    EXPECT_DOUBLE_EQ(Us(run, 0, again > 0 ? Class::kReceiveWait : Class::kWakeUp), 4988) << again;
  }
}

TEST(Attribution, WakeUpIsWhatWasSleptThroughAfterTheDataWereThere) {
  // Mapped memory: there once posted.
  Script script = Waiting(10, 10, 12, 90);
  for (const int rank : {0, 1}) script.rank(rank).facts.memory_shared = true;
  auto run = Analysed(script);
  EXPECT_DOUBLE_EQ(Us(run, 0, Class::kWakeUp), 78);
  EXPECT_EQ(run.findings[0].in, Class::kWakeUp);
  EXPECT_EQ(run.findings[0].rank, 0);

  // By packets: the quickest transit is the wire's, and only sleep counts.
  script = Waiting(10, 10, 12, 20);
  script.Operation(0, 1000, 1100, 2);
  script.Operation(1, 1000, 1100, 2);
  script.Wait(0, 1000, 1090, 1, 1);
  script.Write(1, 0, 1010, 1010, 1012, 1090, 1);
  script.Add(0, Kind::kBlock, 1002, 1070);
  run = Analysed(script);
  const auto& slept = run.operations[1].ranks[0].total_ns;
  EXPECT_EQ(slept[static_cast<size_t>(Class::kWakeUp)], 50'000);
  EXPECT_EQ(slept[static_cast<size_t>(Class::kWire)], 30'000);
}

TEST(Attribution, ADoorbellWithinAHostCopiesThenWakesWhoSleeps) {
  Script script = Waiting(10, 10, 12, 20);  // the quickest: it copies for 2 us
  script.Operation(0, 1000, 1100, 2);
  script.Operation(1, 1000, 1100, 2);
  script.Wait(0, 1000, 1090, 1, 1);
  script.Write(1, 0, 1010, 1010, 1060, 1090, 1);
  script.Add(0, Kind::kBlock, 1002, 1055);
  for (const int rank : {0, 1}) script.rank(rank).facts.memory_shared = true;
  const auto run = Analysed(script);
  const auto& times = run.operations[1].ranks[0].total_ns;
  EXPECT_EQ(times[static_cast<size_t>(Class::kWakeUp)], 43'000 + 30'000);
  EXPECT_EQ(times[static_cast<size_t>(Class::kWire)], 2'000 + 5'000);
}

TEST(Attribution, TcpHasClassesOfItsOwn) {
  // Not on one host: the kernel's receive side is part of the way.
  Script script = Waiting(10, 0, 50, 90, "tcp", /*same_host=*/false);
  for (const int rank : {0, 1}) script.rank(rank).facts.clock_error_ns = 0;
  script.Add(0, Kind::kSystemCall, 85, 89, 1, 0, 4096, 1);
  const auto run = Analysed(script);
  EXPECT_DOUBLE_EQ(Us(run, 0, Class::kLatePeer), 10);
  EXPECT_DOUBLE_EQ(Us(run, 0, Class::kSendBlocked), 40);
  EXPECT_DOUBLE_EQ(Us(run, 0, Class::kReceiveWait), 36);
  EXPECT_DOUBLE_EQ(Us(run, 0, Class::kSystemCalls), 4);
}

// The peer's calls that move the bytes are no blocked socket, and what it does first is its own.
TEST(Attribution, SendingIsToldByWhatTheSenderDoes) {
  Script script = Waiting(10, 0, 50, 52, "tcp");
  script.Add(1, Kind::kReduce, 10, 20, -1, 0, 4096);
  script.Add(1, Kind::kSystemCall, 20, 45, 0, 0, 4096, 0);
  const auto run = Analysed(script);
  EXPECT_DOUBLE_EQ(Us(run, 0, Class::kLatePeer), 20);
  EXPECT_DOUBLE_EQ(Us(run, 0, Class::kSystemCalls), 25);
  EXPECT_DOUBLE_EQ(Us(run, 0, Class::kSendBlocked), 5);
  // Within a host the bytes are there; unless they are paced, and wait in the sender's socket.
  EXPECT_DOUBLE_EQ(Us(run, 0, Class::kWakeUp), 2);
  for (const int rank : {0, 1}) script.rank(rank).facts.settings["tcp-congestion"] = "bbr";
  EXPECT_DOUBLE_EQ(Us(Analysed(script), 0, Class::kReceiveWait), 2);
}

// The paths of operations that overlap add up to their own lengths.
TEST(Attribution, SharesOfTheCriticalPathAddUp) {
  Script script(2, "rdma");
  script.Operation(0, 0, 100, 1);
  script.Operation(1, 0, 120, 1);
  script.Operation(0, 101, 200, 2);
  script.Operation(1, 121, 200, 2);
  const TemporaryFolder folder;
  const auto run = script.Analysed(folder.path());
  ASSERT_TRUE(run.ok()) << run.status();
  // The second path begins where the first ended, after its own first rank's begin.
  EXPECT_GT(run->operations[1].critical.front().interval.begin_ns,
            run->operations[1].ranks[0].begin_ns);
  const RunTally sums = TallyOf(*run);
  double all = 0;
  for (int i = 0; i < kClassCount; ++i) all += sums.critical.Share(static_cast<Class>(i));
  EXPECT_NEAR(all, 1, 1e-9);
}

TEST(Steps, TellHowLongRanksStoodStill) {
  Script script(2, "rdma");
  for (const int rank : {0, 1}) {
    for (const uint64_t step : {0, 1}) {
      const double begin = 1000 * static_cast<double>(step);
      script.Operation(rank, begin + 100, begin + 300, step + 1);
      script.Add(rank, Kind::kHeld, begin + 200, begin + 300);
      script.Add(rank, Kind::kStep, begin, begin + 400 + 100 * rank, -1, step);
    }
  }
  const auto run = Analysed(script);
  ASSERT_TRUE(run.step_summary.has_value());
  EXPECT_EQ(run.step_summary->count, 2u);
  EXPECT_EQ(run.step_summary->median_ns, 500'000);
  EXPECT_NEAR(run.step_summary->held, 400.0 / 1800, 1e-9);
  EXPECT_THAT(Sentence(*run.step_summary), HasSubstr("for 22 % of their time"));
  // They are no part of the operations.
  EXPECT_EQ(run.operations.size(), 2u);
  EXPECT_EQ(run.operations[0].ranks[0].end_ns - run.operations[0].ranks[0].begin_ns, 200'000);
}

TEST(Flows, AreThinnedEvenlyOverTimeAndPairs) {
  Script script(2, "rdma");
  script.Operation(0, 0, 1000);
  script.Operation(1, 0, 1000);
  for (uint64_t i = 0; i < 100; ++i) {
    const double at = 10 * static_cast<double>(i);
    script.Write(0, 1, at, at + 2, at + 3, at + 5, i);
    script.Write(1, 0, at + 1, at + 3, at + 4, at + 6, i);
  }
  const TemporaryFolder folder;
  ASSERT_EQ(script.Save(folder.path()), absl::OkStatus());
  AnalyseOptions options;
  options.flows = 11;
  const auto run = Analyse(folder.path(), options);
  ASSERT_TRUE(run.ok());
  ASSERT_EQ(run->flows.size(), 11u);
  std::set<int> senders;
  for (const Flow& flow : run->flows) senders.insert(flow.from);
  EXPECT_EQ(senders, (std::set<int>{0, 1}));
  EXPECT_GT(run->flows.back().posted_ns, 800'000);
  EXPECT_EQ(run->flows.front().posted_ns % 10'000, 2'100);  // of the doorbell; 0.1 us before all
}

TEST(Attribution, WritesAreWaitedForToTheirEnd) {
  Script script(2, "rdma");
  script.Operation(0, 0, 100);
  script.Operation(1, 0, 100);
  script.Write(0, 1, 5, 40, 42, 60);
  script.Wait(0, 5, 90, 1, 0, Need::kWritten);
  const auto run = Analysed(script);
  EXPECT_DOUBLE_EQ(Us(run, 0, Class::kSendQueueFull), 35);
  EXPECT_DOUBLE_EQ(Us(run, 0, Class::kPosting), 2);
  EXPECT_DOUBLE_EQ(Us(run, 0, Class::kWire), 48);
}

TEST(Attribution, WhoWaitsForAWritesEndIsWhoSleeps) {
  for (const int sleeper : {0, 1}) {
    Script script = Waiting(10, 10, 12, 20);  // the quickest transit: 8 us
    script.Operation(0, 1000, 1100, 2);
    script.Operation(1, 1000, 1100, 2);
    script.Write(1, 0, 1005, 1005, 1006, 1014, 1);
    script.Wait(1, 1006, 1090, 0, 1, Need::kWritten);
    script.Add(sleeper, Kind::kBlock, 1010, 1080);
    const auto run = Analysed(script);
    const auto& times = run.operations[1].ranks[1].total_ns;
    // There after two transits, at 1022.
    EXPECT_EQ(times[static_cast<size_t>(Class::kWakeUp)], sleeper == 1 ? 58'000 : 0);
  }
}

TEST(Clocks, AreAlignedByWhatPassedBetweenThem) {
  Script script(2, "rdma", /*same_host=*/false);
  // Rank 1's clock is an hour and 7 us ahead.
  const double ahead = 3.6e9 + 7;
  script.Operation(0, 0, 100);
  script.Operation(1, ahead, ahead + 100);
  script.Add(0, Kind::kWrite, 10, 10, 1, 0, 64);
  script.Add(1, Kind::kArrived, ahead + 12, ahead + 12, 0, 0, 64);  // 2 us on the way
  script.Add(1, Kind::kWrite, ahead + 20, ahead + 20, 0, 0, 64);
  script.Add(0, Kind::kArrived, 24, 24, 1, 0, 64);  // 4 us
  const auto run = Analysed(script);
  EXPECT_EQ(run.ranks[1].clock_error_ns, 3'000);
  EXPECT_NEAR(static_cast<double>(run.ranks[1].clock_offset_ns) / 1e3, -ahead, 3);
  EXPECT_LE(std::abs(run.operations[0].ranks[1].begin_ns - run.operations[0].ranks[0].begin_ns),
            3'000);
}

TEST(Clocks, ThatNothingBindsOrThatDriftAreReported) {
  const TemporaryFolder folder;
  Script apart(2, "rdma", /*same_host=*/false);
  apart.Operation(0, 0, 100);
  apart.Operation(1, 0, 100);
  auto run = apart.Analysed(folder.path());
  ASSERT_TRUE(run.ok());
  ASSERT_EQ(run->problems.size(), 1u);
  EXPECT_THAT(run->problems[0], HasSubstr("clock of rank 1 cannot be aligned"));

  // What arrives before it was sent, both ways, by 20 us.
  Script drifting(2, "rdma", /*same_host=*/false);
  drifting.Operation(0, 0, 100);
  drifting.Operation(1, 0, 100);
  drifting.Add(0, Kind::kWrite, 50, 50, 1, 0, 64);
  drifting.Add(1, Kind::kArrived, 30, 30, 0, 0, 64);
  drifting.Add(1, Kind::kWrite, 50, 50, 0, 0, 64);
  drifting.Add(0, Kind::kArrived, 30, 30, 1, 0, 64);
  run = drifting.Analysed(folder.path());
  ASSERT_TRUE(run.ok());
  ASSERT_EQ(run->problems.size(), 1u);
  EXPECT_THAT(run->problems[0], HasSubstr("drifted by 40.0 us"));
}

TEST(Clocks, AContradictionDoesNotGrowWithTheNumberOfHosts) {
  constexpr int kHosts = 16;
  Script script(kHosts, "rdma", /*same_host=*/false);
  for (int a = 0; a < kHosts; ++a) {
    script.Operation(a, 0, 100);
    for (int b = 0; b < kHosts; ++b) {
      if (a == b) continue;
      const auto sequence = static_cast<uint64_t>(b);
      script.Add(a, Kind::kWrite, 50, 50, b, sequence, 64);
      script.Add(b, Kind::kArrived, 30, 30, a, sequence, 64);
    }
  }
  const TemporaryFolder folder;
  const auto run = script.Analysed(folder.path());
  ASSERT_TRUE(run.ok());
  ASSERT_EQ(run->problems.size(), 1u);
  EXPECT_THAT(run->problems[0], HasSubstr("drifted by 40.0 us"));
  for (const RankInfo& rank : run->ranks) EXPECT_LE(rank.clock_error_ns, 20'000);
}

}  // namespace
}  // namespace gradwire::analysis
