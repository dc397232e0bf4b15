// What a recording holds of collectives and of the steps of training they are for.
#include "transport/telemetry/recording.h"

#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <thread>

#include "collectives/communicator.h"
#include "tests/support/local_world.h"
#include "tests/unit/training/temporary_folder.h"
#include "transport/telemetry/span.h"

namespace gradwire {
namespace {

using telemetry::Event;
using telemetry::Kind;
using test::LocalJob;

Settings Recorded(const std::filesystem::path& folder) {
  Settings settings;
  settings.transport = TEST_TRANSPORT;
  settings.op_timeout = std::chrono::seconds(30);
  settings.telemetry = folder.string();
  return settings;
}

std::map<Kind, std::vector<Event>> ByKind(const std::filesystem::path& file) {
  const auto recording = telemetry::ReadRecording(file);
  EXPECT_TRUE(recording.ok()) << recording.status();
  std::map<Kind, std::vector<Event>> events;
  if (!recording.ok()) return events;
  for (const Event& event : recording->events) events[event.kind].push_back(event);
  return events;
}

TEST(Recording, HoldsStepsAndHowLongTheyStoodStill) {
  const training::TemporaryFolder folder;
  LocalJob::Run(2, [&](World& world) {
    auto communicator = Communicator::Create(world, Recorded(folder.path()));
    ASSERT_TRUE(communicator.ok()) << communicator.status();
    std::vector<float> values(1000, 1.0F);
    for (int step = 0; step < 3; ++step) {
      const StepScope recorded = (*communicator)->BeginStep();
      Work work = (*communicator)->AllReduceAsync(values);
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
      ASSERT_EQ(work.Wait(), absl::OkStatus());
      ASSERT_EQ((*communicator)->AllReduce(values), absl::OkStatus());
    }
    // Outside of steps nobody stands still.
    ASSERT_EQ((*communicator)->AllReduce(values), absl::OkStatus());
    ASSERT_EQ((*communicator)->SaveRecording(), absl::OkStatus());
  });
  for (int rank = 0; rank < 2; ++rank) {
    auto events = ByKind(folder.path() / telemetry::RecordingName(rank));
    EXPECT_EQ(events[Kind::kOperation].size(), 7u);
    const std::vector<Event>& steps = events[Kind::kStep];
    ASSERT_EQ(steps.size(), 3u);
    ASSERT_EQ(events[Kind::kHeld].size(), 6u);
    for (size_t i = 0; i < steps.size(); ++i) {
      EXPECT_EQ(steps[i].value, i);
      EXPECT_GE(steps[i].end_ns - steps[i].begin_ns, 2'000'000);
      int64_t held = 0;
      for (size_t k = 2 * i; k < 2 * i + 2; ++k) {
        const Event& each = events[Kind::kHeld][k];
        EXPECT_GE(each.begin_ns, steps[i].begin_ns);
        EXPECT_LE(each.end_ns, steps[i].end_ns);
        held += each.end_ns - each.begin_ns;
      }
      // It slept for two milliseconds, not in a collective.
      EXPECT_LE(held, steps[i].end_ns - steps[i].begin_ns - 2'000'000);
      // The blocking collective ran in this thread, within the second.
      const Event& blocking = events[Kind::kOperation][2 * i + 1];
      constexpr int64_t kSlack = 5'000;  // ns: two rings, each with its own anchors
      EXPECT_GE(blocking.begin_ns, events[Kind::kHeld][2 * i + 1].begin_ns - kSlack);
      EXPECT_LE(blocking.end_ns, events[Kind::kHeld][2 * i + 1].end_ns + kSlack);
    }
  }
}

TEST(Recording, AStepThatBeginsEndsTheOneBefore) {
  const training::TemporaryFolder folder;
  LocalJob::Run(1, [&](World& world) {
    auto communicator = Communicator::Create(world, Recorded(folder.path()));
    ASSERT_TRUE(communicator.ok()) << communicator.status();
    std::vector<float> values(10, 1.0F);
    {
      std::optional<StepScope> step;
      for (int i = 0; i < 4; ++i) {
        step.emplace((*communicator)->BeginStep());  // the next has begun before the last goes
        ASSERT_EQ((*communicator)->AllReduce(values), absl::OkStatus());
      }
    }
    EXPECT_FALSE(telemetry::Active());
    ASSERT_EQ((*communicator)->SaveRecording(), absl::OkStatus());
  });
  auto events = ByKind(folder.path() / telemetry::RecordingName(0));
  ASSERT_EQ(events[Kind::kStep].size(), 4u);
  EXPECT_EQ(events[Kind::kHeld].size(), 4u);
  for (size_t i = 1; i < 4; ++i) {
    EXPECT_GE(events[Kind::kStep][i].begin_ns, events[Kind::kStep][i - 1].end_ns);
  }
}

TEST(Recording, OfNothingIsAskedForNothing) {
  LocalJob::Run(2, [&](World& world) {
    Settings settings = Recorded("");
    auto communicator = Communicator::Create(world, settings);
    ASSERT_TRUE(communicator.ok()) << communicator.status();
    const StepScope recorded = (*communicator)->BeginStep();
    std::vector<float> values(100'000, 1.0F);
    ASSERT_EQ((*communicator)->AllReduce(values), absl::OkStatus());
    EXPECT_EQ((*communicator)->SaveRecording(), absl::OkStatus());
    // What had to cross was copied at least once.
    EXPECT_GE((*communicator)->stats().bytes_copied, values.size() * sizeof(float) / 2);
  });
}

}  // namespace
}  // namespace gradwire
