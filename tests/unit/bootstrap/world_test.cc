#include "transport/bootstrap/world.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

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
using ::testing::StartsWith;
using testing::TestSettings;

constexpr milliseconds kPatience{5000};

bool Readable(int fd, milliseconds patience) {
  pollfd entry{fd, POLLIN, 0};
  return poll(&entry, 1, static_cast<int>(patience.count())) == 1;
}

std::string Name(int rank) {
  char host[256] = "";
  gethostname(host, sizeof(host) - 1);
  return fmt::format("rank {} ({}, pid {})", rank, host, getpid());
}

TEST(World, HostedByRankZeroGathersAndParts) {
  const auto worlds = JoinAll(4, FreePort(), /*hosted=*/true, TestSettings());
  ASSERT_EQ(worlds.size(), 4u);
  OnEachRank(worlds, [](World& world) {
    EXPECT_EQ(world.size(), 4);
    EXPECT_EQ(world.local_size(), 4);
    EXPECT_EQ(world.local_rank(), world.rank());
    EXPECT_EQ(world.peer(2).Describe(), Name(2));
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

TEST(World, OfOne) {
  const auto place = FindLaunchPlace({}, {}, /*allow_single=*/true);
  ASSERT_TRUE(place.ok());
  const auto world = JoinWorld(*place, TestSettings());
  ASSERT_TRUE(world.ok()) << Message(world.status());
  EXPECT_EQ((*world)->size(), 1);
  EXPECT_FALSE((*world)->oversubscribed());
  EXPECT_TRUE((*world)->Barrier("alone", kPatience).ok());
  EXPECT_TRUE((*world)->Leave("").ok());
}

TEST(World, RankZeroMayComeLast) {
  const int port = FreePort();
  std::vector<std::thread> threads;
  std::atomic<int> joined = 0;
  for (const int rank : {2, 1, 0}) {
    threads.emplace_back([&, rank] {
      const auto world = JoinWorld(PlaceOf(rank, 3, port, /*hosted=*/true), TestSettings());
      EXPECT_TRUE(world.ok()) << Message(world.status());
      if (world.ok()) ++joined;
    });
    if (rank != 0) std::this_thread::sleep_for(milliseconds(250));
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(joined, 3);
}

TEST(World, GathersAmongMembersInTheirOrder) {
  const auto server = StandingServer();
  const auto worlds = JoinAll(4, server->port(), /*hosted=*/false, TestSettings());
  ASSERT_EQ(worlds.size(), 4u);
  OnEachRank(worlds, [](World& world) {
    if (world.rank() == 1) return;
    const auto values = world.AllGather(
        "some", std::string(1, static_cast<char>('a' + world.rank())), {3, 0, 2}, kPatience);
    ASSERT_TRUE(values.ok()) << Message(values.status());
    EXPECT_THAT(*values, ElementsAre("d", "a", "c"));
  });
  LeaveAll(worlds);
}

TEST(World, GathersLargeValues) {
  const auto server = StandingServer();
  const auto worlds = JoinAll(5, server->port(), /*hosted=*/false, TestSettings());
  ASSERT_EQ(worlds.size(), 5u);
  OnEachRank(worlds, [](World& world) {
    // The sizes make messages of several values, of one value, and of an empty one.
    const size_t sizes[] = {1 << 20, 300'000, 0, 600'000, 1 << 20};
    const auto rank = static_cast<size_t>(world.rank());
    const std::string mine(sizes[rank], static_cast<char>('a' + rank));
    const auto values = world.AllGather("large", mine, {}, kPatience);
    ASSERT_TRUE(values.ok()) << Message(values.status());
    for (size_t i = 0; i < 5; ++i) {
      EXPECT_TRUE((*values)[i] == std::string(sizes[i], static_cast<char>('a' + i))) << i;
    }
  });
  LeaveAll(worlds);
}

TEST(World, RefusesBadRequestsWithoutHarm) {
  const auto server = StandingServer();
  const auto worlds = JoinAll(2, server->port(), /*hosted=*/false, TestSettings());
  ASSERT_EQ(worlds.size(), 2u);
  World& world = *worlds[0];
  EXPECT_THAT(
      Message(world.AllGather("big", std::string((1 << 20) + 1, 'x'), {}, kPatience).status()),
      AllOf(HasSubstr("1048577"), HasSubstr("1048576")));
  EXPECT_FALSE(world.AllGather("", "x", {}, kPatience).ok());
  EXPECT_FALSE(world.AllGather("line\nbreak", "x", {}, kPatience).ok());
  EXPECT_THAT(Message(world.AllGather("out", "x", {0, 2}, kPatience).status()),
              HasSubstr("member 2"));
  EXPECT_THAT(Message(world.AllGather("twice", "x", {0, 0}, kPatience).status()),
              HasSubstr("member 0"));
  EXPECT_THAT(Message(world.AllGather("other", "x", {1}, kPatience).status()),
              HasSubstr("rank 0 is not among"));
  OnEachRank(worlds, [](World& each) { EXPECT_TRUE(each.Barrier("fine", kPatience).ok()); });
  LeaveAll(worlds);
}

TEST(World, DifferentMembersAreAnErrorOnBoth) {
  const auto server = StandingServer();
  const auto worlds = JoinAll(3, server->port(), /*hosted=*/false, TestSettings());
  ASSERT_EQ(worlds.size(), 3u);
  OnEachRank(worlds, [](World& world) {
    if (world.rank() == 2) return;
    const std::vector<int> members = world.rank() == 0 ? std::vector{0, 1} : std::vector{0, 1, 2};
    const auto values = world.AllGather("who", "x", members, kPatience);
    EXPECT_EQ(values.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(Message(values.status()),
                AllOf(HasSubstr("2 members"), HasSubstr("3 members"), HasSubstr("'who'")));
  });
  LeaveAll(worlds);
}

TEST(World, FactsArriveAsTheyWere) {
  const auto server = StandingServer();
  const auto worlds = JoinAll(2, server->port(), /*hosted=*/false, TestSettings());
  ASSERT_EQ(worlds.size(), 2u);
  OnEachRank(worlds, [](World& world) {
    ConnectionFacts facts;
    facts.secret = std::string("\0\xff secret", 9);
    facts.endpoints = {{"127.0.0.1", 65535}, {"fd00::1", 1}};
    QueuePairEndpoint queue_pair;
    queue_pair.qp_number = 0xffffff;
    queue_pair.psn = 0xabcdef;
    queue_pair.gid = {1, 2, 3, 0xff};
    queue_pair.lid = 65535;
    queue_pair.path_mtu = 4096;
    facts.queue_pairs = {queue_pair};
    facts.grants = {{0xffff'ffff'ffff'0000, 1ull << 40, 0xdeadbeef, 0}};
    facts.window = 8 + world.rank();
    facts.slot_bytes = 1ll << 35;
    facts.lanes = 2;
    const auto all = world.ExchangeFacts("facts", facts, {}, kPatience);
    ASSERT_TRUE(all.ok()) << Message(all.status());
    ASSERT_EQ(all->size(), 2u);
    for (int rank = 0; rank < 2; ++rank) {
      const ConnectionFacts& got = (*all)[static_cast<size_t>(rank)];
      EXPECT_EQ(got.secret, facts.secret);
      ASSERT_EQ(got.endpoints.size(), 2u);
      EXPECT_EQ(got.endpoints[1].address, "fd00::1");
      EXPECT_EQ(got.endpoints[0].port, 65535);
      ASSERT_EQ(got.queue_pairs.size(), 1u);
      EXPECT_EQ(got.queue_pairs[0].qp_number, 0xffffffu);
      EXPECT_EQ(got.queue_pairs[0].psn, 0xabcdefu);
      EXPECT_EQ(got.queue_pairs[0].gid, queue_pair.gid);
      EXPECT_EQ(got.queue_pairs[0].lid, 65535);
      EXPECT_EQ(got.queue_pairs[0].path_mtu, 4096u);
      ASSERT_EQ(got.grants.size(), 1u);
      EXPECT_EQ(got.grants[0].address, facts.grants[0].address);
      EXPECT_EQ(got.grants[0].length, facts.grants[0].length);
      EXPECT_EQ(got.grants[0].key, facts.grants[0].key);
      EXPECT_EQ(got.window, 8 + rank);
      EXPECT_EQ(got.slot_bytes, facts.slot_bytes);
      EXPECT_EQ(got.lanes, 2);
    }
  });
  LeaveAll(worlds);
}

TEST(World, FactsThatDoNotParseNameTheirRank) {
  const auto server = StandingServer();
  const auto worlds = JoinAll(2, server->port(), /*hosted=*/false, TestSettings());
  ASSERT_EQ(worlds.size(), 2u);
  OnEachRank(worlds, [](World& world) {
    if (world.rank() == 1) {
      EXPECT_TRUE(world.AllGather("facts", "\xff\xff garbage", {}, kPatience).ok());
      return;
    }
    const auto facts = world.ExchangeFacts("facts", {}, {}, kPatience);
    EXPECT_EQ(facts.status().code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(Message(facts.status()), HasSubstr(Name(1)));
  });
  LeaveAll(worlds);
}

TEST(World, BarrierHoldsUntilTheLastComes) {
  const auto server = StandingServer();
  const auto worlds = JoinAll(3, server->port(), /*hosted=*/false, TestSettings());
  ASSERT_EQ(worlds.size(), 3u);
  std::atomic<bool> last_came = false;
  OnEachRank(worlds, [&](World& world) {
    if (world.rank() == 2) {
      std::this_thread::sleep_for(milliseconds(200));
      last_came = true;
    }
    EXPECT_TRUE(world.Barrier("all", kPatience).ok());
    EXPECT_TRUE(last_came);
  });
  LeaveAll(worlds);
}

TEST(World, WaitingEndsAtTheTimeoutAndNamesWhoIsMissing) {
  const auto server = StandingServer();
  const auto worlds = JoinAll(3, server->port(), /*hosted=*/false, TestSettings());
  ASSERT_EQ(worlds.size(), 3u);
  OnEachRank(worlds, [](World& world) {
    if (world.rank() == 1) return;
    const absl::Status status = world.Barrier("late", milliseconds(300));
    EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
    EXPECT_THAT(Message(status), HasSubstr("missing " + Name(1)));
    EXPECT_TRUE(world.failure().ok());
  });
  LeaveAll(worlds);
}

TEST(World, WhoLeftIsNamedToThoseWhoNeedIt) {
  const auto server = StandingServer();
  const auto worlds = JoinAll(3, server->port(), /*hosted=*/false, TestSettings());
  ASSERT_EQ(worlds.size(), 3u);
  std::atomic<int> waiting = 0;
  OnEachRank(worlds, [&](World& world) {
    if (world.rank() == 2) {
      // Leaves while rank 0 waits for it, before rank 1 asks.
      while (waiting < 1) std::this_thread::sleep_for(milliseconds(5));
      std::this_thread::sleep_for(milliseconds(100));
      EXPECT_TRUE(world.Leave("").ok());
      waiting = 2;
      return;
    }
    if (world.rank() == 0) waiting = 1;
    while (world.rank() == 1 && waiting < 2) std::this_thread::sleep_for(milliseconds(5));
    const absl::Status status = world.Barrier(fmt::format("b{}", world.rank()), kPatience);
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(Message(status), HasSubstr(Name(2) + " has left"));
    EXPECT_TRUE(world.failure().ok());
    const auto pair = world.AllGather("pair", "x", {0, 1}, kPatience);
    EXPECT_TRUE(pair.ok()) << Message(pair.status());
  });
  OnEachRank(worlds, [](World& world) { EXPECT_TRUE(world.Leave("").ok()); });
}

TEST(World, DestroyingItIsLeaving) {
  const auto server = StandingServer();
  auto worlds = JoinAll(2, server->port(), /*hosted=*/false, TestSettings());
  ASSERT_EQ(worlds.size(), 2u);
  worlds[1].reset();
  EXPECT_FALSE(Readable(worlds[0]->failure_fd(), milliseconds(300)));
  EXPECT_TRUE(worlds[0]->failure().ok());
  EXPECT_TRUE(worlds[0]->Leave("").ok());
  EXPECT_EQ(worlds[0]->Barrier("after", kPatience).code(), absl::StatusCode::kFailedPrecondition);
}

TEST(World, GivingUpIsTheCauseOnEveryRank) {
  const auto worlds = JoinAll(3, FreePort(), /*hosted=*/true, TestSettings());
  ASSERT_EQ(worlds.size(), 3u);
  OnEachRank(worlds, [](World& world) {
    if (world.rank() == 2) {
      std::this_thread::sleep_for(milliseconds(100));
      EXPECT_TRUE(world.Leave("loss is not a number").ok());
      return;
    }
    // One waits in a barrier, one for the descriptor.
    const std::string expected = Name(2) + " gave up: loss is not a number";
    if (world.rank() == 0) {
      const absl::Status status = world.Barrier("never", kPatience);
      EXPECT_EQ(Message(status), expected);
    } else {
      EXPECT_TRUE(Readable(world.failure_fd(), kPatience));
    }
    EXPECT_EQ(Message(world.failure()), expected);
    EXPECT_EQ(Message(world.Barrier("later", kPatience)), expected);
    EXPECT_EQ(Message(world.ExplainLinkFailure(Unavailable("link broke"), kPatience)), expected);
    // Leaving because of it is no new cause.
    EXPECT_EQ(Message(world.Leave("all_reduce failed: " + expected)), expected);
  });
}

TEST(World, LinkFailureWithoutAnotherCauseStaysASuspicion) {
  const auto server = StandingServer();
  const auto worlds = JoinAll(2, server->port(), /*hosted=*/false, TestSettings());
  ASSERT_EQ(worlds.size(), 2u);
  EXPECT_EQ(Message(worlds[0]->ExplainLinkFailure(Unavailable("link broke"), milliseconds(50))),
            "link broke");
  LeaveAll(worlds);
}

TEST(World, DiagnosisGathersEveryReport) {
  const auto server = StandingServer();
  const auto worlds = JoinAll(3, server->port(), /*hosted=*/false, TestSettings());
  ASSERT_EQ(worlds.size(), 3u);
  const auto start = steady_clock::now();
  OnEachRank(worlds, [](World& world) {
    if (world.rank() != 1) {
      EXPECT_TRUE(Readable(world.failure_fd(), kPatience));
      EXPECT_TRUE(world.diagnosis_wanted());
    }
    const OperationReport mine{static_cast<uint64_t>(7 + world.rank()),
                               fmt::format("all_reduce of {} float32", world.rank()), "rank 0"};
    const auto diagnosis = world.Diagnose(mine, "timed out");
    ASSERT_TRUE(diagnosis.ok()) << Message(diagnosis.status());
    ASSERT_EQ(diagnosis->rows.size(), 3u);
    for (int rank = 0; rank < 3; ++rank) {
      const Diagnosis::Row& row = diagnosis->rows[static_cast<size_t>(rank)];
      EXPECT_EQ(row.rank, rank);
      EXPECT_TRUE(row.answered);
      EXPECT_EQ(row.report.number, static_cast<uint64_t>(7 + rank));
      EXPECT_EQ(row.report.description, fmt::format("all_reduce of {} float32", rank));
      EXPECT_EQ(row.report.waiting_for, "rank 0");
      EXPECT_LT(row.silent_for, seconds(2));
    }
    EXPECT_TRUE(world.failure().ok());
  });
  EXPECT_LT(steady_clock::now() - start, milliseconds(1500));  // nobody waited for the deadline
  LeaveAll(worlds);
}

TEST(World, DiagnosisDoesNotWaitForever) {
  const auto server = StandingServer();
  const auto worlds = JoinAll(2, server->port(), /*hosted=*/false, TestSettings());
  ASSERT_EQ(worlds.size(), 2u);
  const auto first = worlds[0]->Diagnose({1, "barrier", ""}, "timed out");
  ASSERT_TRUE(first.ok()) << Message(first.status());
  EXPECT_TRUE(first->rows[0].answered);
  EXPECT_FALSE(first->rows[1].answered);
  // Who comes late gets the same table.
  const auto late = worlds[1]->Diagnose({1, "barrier", ""}, "timed out");
  ASSERT_TRUE(late.ok()) << Message(late.status());
  EXPECT_FALSE(late->rows[1].answered);
  LeaveAll(worlds);
}

TEST(World, HostWaitsForLateFinishers) {
  const auto worlds = JoinAll(2, FreePort(), /*hosted=*/true, TestSettings());
  ASSERT_EQ(worlds.size(), 2u);
  OnEachRank(worlds, [](World& world) {
    if (world.rank() == 0) {
      const auto start = steady_clock::now();
      EXPECT_TRUE(world.Leave("").ok());
      EXPECT_GE(steady_clock::now() - start, milliseconds(500));
      return;
    }
    EXPECT_FALSE(Readable(world.failure_fd(), milliseconds(700)));
    EXPECT_TRUE(world.failure().ok());
    EXPECT_TRUE(world.Leave("").ok());
  });
}

TEST(World, ServerThatGoesDownOnPurposeIsNoFailure) {
  const auto server = StandingServer();
  const auto worlds = JoinAll(2, server->port(), /*hosted=*/false, TestSettings());
  ASSERT_EQ(worlds.size(), 2u);
  server->Stop(milliseconds(0));
  OnEachRank(worlds, [](World& world) {
    EXPECT_FALSE(Readable(world.failure_fd(), milliseconds(300)));
    const absl::Status status = world.Barrier("too late", kPatience);
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(Message(status), HasSubstr("127.0.0.1"));
    EXPECT_TRUE(world.Leave("").ok());
  });
}

}  // namespace
}  // namespace gradwire
