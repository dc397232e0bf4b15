#include "transport/bootstrap/world.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <atomic>
#include <thread>

#include "tests/unit/bootstrap/ranks.h"

namespace gradwire {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;
using ::testing::AllOf;
using ::testing::ElementsAre;
using testing::FreePort;
using ::testing::HasSubstr;
using testing::JoinAll;
using testing::LeaveAll;
using testing::OnEachRank;
using testing::PlaceOf;
using testing::StandingServer;
using testing::TestSettings;

constexpr milliseconds kPatience{5000};

bool Readable(int fd, milliseconds patience) {
  pollfd entry{fd, POLLIN, 0};
  return poll(&entry, 1, static_cast<int>(patience.count())) == 1;
}

TEST(World, HostedByRankZeroGathersAndParts) {
  const auto worlds = JoinAll(4, FreePort(), /*hosted=*/true, TestSettings());
  ASSERT_EQ(worlds.size(), 4u);
  OnEachRank(worlds, [](World& world) {
    EXPECT_EQ(world.size(), 4);
    EXPECT_EQ(world.local_size(), 4);
    EXPECT_EQ(world.local_rank(), world.rank());
    EXPECT_EQ(world.peer(2).rank, 2);
    EXPECT_EQ(world.peer(2).pid, getpid());
    EXPECT_GT(world.peer(2).cores, 0);
    EXPECT_EQ(world.oversubscribed(), world.peer(0).cores < 4);
    const auto values =
        world.AllGather("numbers", std::to_string(world.rank() * 10), {}, kPatience);
    ASSERT_TRUE(values.ok()) << Message(values.status());
    EXPECT_THAT(*values, ElementsAre("0", "10", "20", "30"));
    EXPECT_FALSE(world.diagnosis_wanted());
    EXPECT_FALSE(Readable(world.failure_fd(), milliseconds(0)));
  });
  LeaveAll(worlds);
}

}  // namespace
}  // namespace gradwire
