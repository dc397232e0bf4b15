// The ring of events: ticks become times of the monotonic clock, and the last events are kept.
#include <gtest/gtest.h>

#include <thread>

#include "transport/telemetry/span.h"

namespace gradwire::telemetry {
namespace {

TEST(OnLine, GoesThroughBothAnchorsAndBeyond) {
  const Anchor a{1000, 500}, b{3000, 1500};
  EXPECT_EQ(OnLine(a, b, 1000), 500);
  EXPECT_EQ(OnLine(a, b, 3000), 1500);
  EXPECT_EQ(OnLine(a, b, 2000), 1000);
  EXPECT_EQ(OnLine(a, b, 5000), 2500);
  EXPECT_EQ(OnLine(a, b, 0), 0);
  EXPECT_EQ(OnLine(a, a, 1010), 510);  // no line: one for one
}

class RingTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (GetParam() && !CounterIsSteady())
      GTEST_SKIP() << "no counter of this machine can be trusted";
  }
  // With the processor's counter, and without.
  Ticks ticks() const { return Ticks(GetParam()); }
};

TEST_P(RingTest, EventsLieBetweenReadingsOfTheClock) {
  Ring ring(1 << 12, ticks());
  const Attach attach(&ring);
  std::vector<int64_t> before, after;
  for (int i = 0; i < 50; ++i) {
    ring.KeepTime();
    before.push_back(MonotonicNow());
    {
      const Span span(Kind::kReduce, 3, static_cast<uint64_t>(i), 77);
      std::this_thread::sleep_for(std::chrono::microseconds(i % 5 == 0 ? 500 : 20));
    }
    after.push_back(MonotonicNow());
  }
  const std::vector<Event> events = ring.Take();
  ASSERT_EQ(events.size(), before.size());
  constexpr int64_t kSlack = 2'000;  // ns: what anchors may be off by
  int64_t last = 0;
  for (size_t i = 0; i < events.size(); ++i) {
    EXPECT_EQ(events[i].value, i);
    EXPECT_EQ(events[i].peer, 3);
    EXPECT_EQ(events[i].bytes, 77u);
    EXPECT_GE(events[i].begin_ns, before[i] - kSlack);
    EXPECT_LE(events[i].end_ns, after[i] + kSlack);
    EXPECT_GE(events[i].begin_ns, last) << "time goes on";
    EXPECT_GE(events[i].end_ns - events[i].begin_ns, (i % 5 == 0 ? 500'000 : 20'000) - kSlack);
    last = events[i].end_ns;
  }
}

TEST_P(RingTest, TheLastOnesAreKept) {
  Ring ring(5, ticks());  // 8 places
  const Attach attach(&ring);
  // An anchor or two, which the events below overwrite; the ring's own serves then.
  for (int i = 0; i < 2; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    ring.KeepTime();
  }
  const int64_t before = MonotonicNow();
  for (uint64_t i = 0; i < 20; ++i) Mark(Kind::kArrived, 0, i);
  const int64_t after = MonotonicNow();
  EXPECT_EQ(ring.lost(), ring.count() - 8);
  const std::vector<Event> events = ring.Take();
  ASSERT_EQ(events.size(), 8u);
  EXPECT_EQ(events.front().value, 12u);
  EXPECT_EQ(events.back().value, 19u);
  EXPECT_GE(events.front().begin_ns, before - 2'000);
  EXPECT_LE(events.back().end_ns, after + 2'000);
}

INSTANTIATE_TEST_SUITE_P(Clocks, RingTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Counter" : "System"; });

TEST(Span, RecordsNothingWithoutARing) {
  Ring ring(8);
  {
    const Span outside(Kind::kCopy);
    Mark(Kind::kWrite, 0, 0);
    const Attach attach(&ring);
    Span dropped(Kind::kCopy);
    dropped.Drop();
  }
  EXPECT_EQ(ring.count(), 0u);
}

}  // namespace
}  // namespace gradwire::telemetry
