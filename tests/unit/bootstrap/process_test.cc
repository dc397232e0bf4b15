// Ranks that die or freeze: real processes and real signals.
#include "tests/support/process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <cstdlib>
#include <thread>

#include "tests/unit/bootstrap/ranks.h"

namespace gradwire {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;
using test::Process;
using ::testing::AllOf;
using ::testing::ContainsRegex;
using testing::FreePort;
using ::testing::HasSubstr;
using testing::StandingServer;

using Processes = std::vector<std::unique_ptr<Process>>;

Processes Start(int size, int port, bool hosted, milliseconds heartbeat_timeout,
                const std::string& what) {
  Processes ranks;
  for (int rank = 0; rank < size; ++rank) {
    ranks.push_back(std::make_unique<Process>(std::vector<std::string>{
        BOOTSTRAP_TEST_RANK, std::to_string(rank), std::to_string(size), std::to_string(port),
        hosted ? "hosted" : "standing", std::to_string(heartbeat_timeout.count()), what}));
  }
  for (auto& rank : ranks) EXPECT_EQ(rank->Line(seconds(20)), "joined");
  return ranks;
}

std::string Named(const Processes& ranks, size_t rank) {
  return fmt::format("pid {})", ranks[rank]->pid());
}

TEST(Process, KilledRankIsNamedToAllSurvivors) {
  const Processes ranks = Start(4, FreePort(), /*hosted=*/true, seconds(30), "wait");
  ranks[2]->Signal(SIGKILL);
  const auto start = steady_clock::now();
  for (const size_t survivor : {0, 1, 3}) {
    EXPECT_THAT(ranks[survivor]->Line(seconds(5)),
                AllOf(HasSubstr("rank 2 ("), HasSubstr(Named(ranks, 2)),
                      HasSubstr("died: its control connection closed without leaving")));
  }
  EXPECT_LT(steady_clock::now() - start, seconds(2));
}

TEST(Process, DeathOfTheHostIsNamed) {
  const Processes ranks = Start(3, FreePort(), /*hosted=*/true, seconds(30), "wait");
  ranks[0]->Signal(SIGKILL);
  const auto start = steady_clock::now();
  for (const size_t survivor : {1, 2}) {
    EXPECT_THAT(ranks[survivor]->Line(seconds(5)),
                AllOf(HasSubstr("rank 0 ("), HasSubstr(Named(ranks, 0)),
                      HasSubstr("died: it hosted the rendezvous")));
  }
  EXPECT_LT(steady_clock::now() - start, seconds(2));
}

TEST(Process, FrozenRankIsNamedAfterTheHeartbeatTimeout) {
  const auto server = StandingServer();
  const Processes ranks = Start(3, server->port(), /*hosted=*/false, milliseconds(1000), "wait");
  ranks[1]->Signal(SIGSTOP);
  const auto start = steady_clock::now();
  for (const size_t survivor : {0, 2}) {
    EXPECT_THAT(ranks[survivor]->Line(seconds(10)),
                AllOf(HasSubstr("rank 1 ("), HasSubstr(Named(ranks, 1)),
                      ContainsRegex("no heartbeat for [1-3]\\.[0-9] s")));
  }
  EXPECT_GE(steady_clock::now() - start, milliseconds(800));
}

TEST(Process, FrozenHostIsNamedAfterTheHeartbeatTimeout) {
  const Processes ranks = Start(3, FreePort(), /*hosted=*/true, milliseconds(1000), "wait");
  ranks[0]->Signal(SIGSTOP);
  for (const size_t survivor : {1, 2}) {
    EXPECT_THAT(ranks[survivor]->Line(seconds(10)),
                AllOf(HasSubstr("rank 0 ("), HasSubstr(Named(ranks, 0)),
                      HasSubstr("which hosts the rendezvous, has been silent")));
  }
}

TEST(Process, HostThatWasFrozenBlamesNobody) {
  const Processes ranks = Start(2, FreePort(), /*hosted=*/true, seconds(30), "wait");
  ranks[0]->Signal(SIGSTOP);
  std::this_thread::sleep_for(milliseconds(1500));
  ranks[0]->Signal(SIGCONT);
  EXPECT_EQ(ranks[1]->Line(milliseconds(700)), "(nothing)");
  EXPECT_EQ(ranks[0]->Line(milliseconds(0)), "(nothing)");
}

TEST(Process, DiagnosisShowsTheFrozenRank) {
  const Processes ranks = Start(3, FreePort(), /*hosted=*/true, seconds(30), "diagnose");
  ranks[2]->Signal(SIGSTOP);
  std::this_thread::sleep_for(milliseconds(300));
  ranks[0]->Say();
  ranks[1]->Say();
  for (const size_t survivor : {0, 1}) {
    const std::string table = ranks[survivor]->Line(seconds(10));
    const std::string row = "[2 answered=false silent=";
    const size_t at = table.find(row);
    ASSERT_NE(at, std::string::npos) << table;
    EXPECT_GE(std::atoi(table.c_str() + at + row.size()), 2000);
    EXPECT_THAT(table, AllOf(HasSubstr("[0 answered=true"), HasSubstr("[1 answered=true")));
  }
}

TEST(Process, DiagnosisNamesTheFrozenHost) {
  const Processes ranks = Start(2, FreePort(), /*hosted=*/true, seconds(30), "diagnose");
  ranks[0]->Signal(SIGSTOP);
  std::this_thread::sleep_for(milliseconds(300));
  ranks[1]->Say();
  EXPECT_THAT(ranks[1]->Line(seconds(10)),
              AllOf(HasSubstr("error: rank 0 ("), HasSubstr(Named(ranks, 0)),
                    HasSubstr("which hosts the rendezvous, has been silent for")));
}

}  // namespace
}  // namespace gradwire
