#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/unit/urxe/wire_support.h"
#include "transport/urxe/engine/arena.h"
#include "transport/urxe/wire/faults.h"

namespace urxe {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(FaultPlan, IsReadFromItsText) {
  FaultPlan plan;
  ASSERT_EQ(
      ParseFaults("drop=0.01,duplicate=0.001,reorder=1,corrupt=0,delay=0.5:500us,seed=7", plan),
      "");
  EXPECT_EQ(plan.drop, 0.01);
  EXPECT_EQ(plan.duplicate, 0.001);
  EXPECT_EQ(plan.reorder, 1);
  EXPECT_EQ(plan.corrupt, 0);
  EXPECT_EQ(plan.delay, 0.5);
  EXPECT_EQ(plan.delay_ns, 500'000u);
  EXPECT_EQ(plan.seed, 7u);
  ASSERT_EQ(ParseFaults("delay=1:20ms", plan), "");
  EXPECT_EQ(plan.delay_ns, 20'000'000u);
  EXPECT_EQ(plan.drop, 0);  // what is not named is off
  EXPECT_EQ(ParseFaults("", plan), "");
  EXPECT_EQ(plan.delay, 0);
}

TEST(FaultPlan, SaysWhatItCannotRead) {
  FaultPlan plan;
  plan.drop = 0.5;
  for (const char* text :
       {"drop", "drop=", "drop=2", "drop=-1", "drop=nan", "drop=0.1x", "lose=1", "delay=0.1",
        "delay=0.1:5", "delay=0.1:5h", "delay=0.1:20s", "delay=0.1:11000ms", "seed=", "seed=-1",
        "seed=1.5", "drop=0.1,,", ","}) {
    EXPECT_NE(ParseFaults(text, plan), "") << text;
  }
  EXPECT_EQ(plan.drop, 0.5);  // untouched
  EXPECT_THAT(ParseFaults("seed=1,lose=1", plan), HasSubstr("\"lose=1\""));
}

// An injector whose sent datagrams are told apart by their first byte.
class FaultInjectorTest : public testing::Test {
 protected:
  void TearDown() override { SetFaults({}); }
  void Set(const char* text) {
    FaultPlan plan;
    ASSERT_EQ(ParseFaults(text, plan), "");
    SetFaults(plan);
    ASSERT_TRUE(injector_.Active());
  }
  void Pass(int number, uint64_t now = 0) {
    std::vector<std::byte> datagram(100);
    datagram[0] = static_cast<std::byte>(number);
    const Fate fate = injector_.Draw();
    if (!fate.spared()) return injector_.Suffer(fate, {}, datagram, now);
    sent_.push_back(number);
    injector_.Overtaken(now);
  }
  std::vector<int> sent_;
  int flipped_ = 0;
  FaultInjector injector_{[this](const Destination&, std::span<const std::byte> datagram) {
    sent_.push_back(static_cast<int>(datagram[0]));
    for (size_t i = 1; i < datagram.size(); ++i) {
      flipped_ += __builtin_popcount(static_cast<unsigned>(datagram[i]));
    }
  }};
};

TEST_F(FaultInjectorTest, RestsWithoutAPlan) { EXPECT_FALSE(injector_.Active()); }

TEST_F(FaultInjectorTest, DropsByRateAndBySeed) {
  std::vector<std::vector<int>> runs;
  for (const char* text : {"drop=0.25,seed=1", "drop=0.25,seed=1", "drop=0.25,seed=2"}) {
    Set(text);
    sent_.clear();
    for (int i = 0; i < 200; ++i) Pass(i);
    runs.push_back(sent_);
  }
  EXPECT_EQ(runs[0], runs[1]);
  EXPECT_NE(runs[0], runs[2]);
  EXPECT_NEAR(static_cast<double>(runs[0].size()), 150, 25);
}

TEST_F(FaultInjectorTest, DuplicatesAndCorrupts) {
  Set("duplicate=1");
  Pass(1);
  EXPECT_THAT(sent_, ElementsAre(1, 1));
  Set("corrupt=1");
  flipped_ = 0;
  for (int i = 0; i < 100; ++i) Pass(0);
  EXPECT_GT(flipped_, 90);  // one bit each; the first byte's are not counted
  EXPECT_LE(flipped_, 100);
}

TEST_F(FaultInjectorTest, LetsTheNextPacketOvertake) {
  Set("reorder=1");
  Pass(1);
  Set("seed=1,drop=0.0000001");  // none of this run's packets
  Pass(2);
  EXPECT_THAT(sent_, ElementsAre(2, 1));
  // With none after it, it leaves by itself.
  Set("reorder=1");
  Pass(3, 5000);
  EXPECT_GT(injector_.Release(5000), 5000u);
  EXPECT_EQ(sent_.size(), 2u);
  EXPECT_EQ(injector_.Release(injector_.Release(5000)), UINT64_MAX);
  EXPECT_THAT(sent_, ElementsAre(2, 1, 3));
}

TEST_F(FaultInjectorTest, DelaysForItsTime) {
  Set("delay=1:500us");
  Pass(1, 1000);
  Pass(2, 2000);
  EXPECT_TRUE(sent_.empty());
  EXPECT_EQ(injector_.Release(500'999), 501'000u);
  EXPECT_TRUE(sent_.empty());
  EXPECT_EQ(injector_.Release(501'000), 502'000u);
  SetFaults({});
  EXPECT_TRUE(injector_.Active());  // until the last one has left
  EXPECT_EQ(injector_.Release(600'000), UINT64_MAX);
  EXPECT_FALSE(injector_.Active());
  EXPECT_THAT(sent_, ElementsAre(1, 2));
}

// Through an endpoint, at run time: every corrupted packet is seen, every other one arrives.
TEST_F(FaultInjectorTest, ActsOnAnEndpointsPackets) {
  std::string problem;
  const auto slot = ProcessSlot::Claim(problem);
  ASSERT_NE(slot, nullptr) << problem;
  const auto endpoint = Endpoint::Open(Ipv4(127, 85, 0, 1), 1, *slot, problem);
  ASSERT_NE(endpoint, nullptr) << problem;
  ASSERT_TRUE(Settle(*endpoint, *slot));
  Destination destination;
  ASSERT_EQ(endpoint->Resolve(endpoint->address(), destination), 0);
  Set("drop=0.1,corrupt=0.1,duplicate=0.1,reorder=0.1,delay=0.1:1ms,seed=3");
  const urxe_counters before = Counters();
  const auto bytes = RandomBytes(1000, 6);
  uint64_t arrived = 0;
  const auto take = [&](const Arrival& arrival, bool) {
    ++arrived;
    EXPECT_TRUE(std::equal(arrival.payload.begin(), arrival.payload.end(), bytes.begin()));
  };
  for (int i = 0; i < 3000; ++i) {
    Header header;
    header.dest_qpn = static_cast<uint32_t>(slot->number()) << kSlotShift | 1;
    const iovec piece = {const_cast<std::byte*>(bytes.data()), bytes.size()};
    endpoint->Queue(destination, header, {&piece, 1}, bytes.size(), true);
    if (i % 5 == 0) {
      endpoint->Flush();
      Turn(*endpoint, *slot, take);
    }
  }
  endpoint->Flush();
  const uint64_t end = TestClock() + 1'000'000'000;
  while (Turn(*endpoint, *slot, take) != UINT64_MAX && TestClock() < end) {
  }
  Turn(*endpoint, *slot, take);
  const urxe_counters after = Counters();
  const auto counted = [&](uint64_t urxe_counters::*field) { return after.*field - before.*field; };
  for (const auto field : {&urxe_counters::faults_dropped, &urxe_counters::faults_duplicated,
                           &urxe_counters::faults_reordered, &urxe_counters::faults_delayed,
                           &urxe_counters::faults_corrupted}) {
    EXPECT_GT(counted(field), 150u);
    EXPECT_LT(counted(field), 400u);
  }
  EXPECT_EQ(counted(&urxe_counters::packets_sent), 3000 - counted(&urxe_counters::faults_dropped) +
                                                       counted(&urxe_counters::faults_duplicated));
  // A flipped bit can also turn a packet into no packet, into one for another process, or strike
  // the byte that no ICRC covers.
  EXPECT_LE(arrived, counted(&urxe_counters::packets_sent));
  EXPECT_EQ(arrived + counted(&urxe_counters::icrc_errors) + counted(&urxe_counters::malformed) +
                counted(&urxe_counters::unknown_queue_pairs) + counted(&urxe_counters::relayed),
            counted(&urxe_counters::packets_sent));
  EXPECT_GT(counted(&urxe_counters::icrc_errors),
            counted(&urxe_counters::faults_corrupted) * 8 / 10);
}

}  // namespace
}  // namespace urxe
