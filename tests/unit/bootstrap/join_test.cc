// Who is let in, who is turned away, and what a rank that cannot join is told.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <future>
#include <thread>

#include "tests/unit/bootstrap/ranks.h"
#include "transport/bootstrap/rendezvous_server.h"
#include "transport/bootstrap/world.h"

namespace gradwire {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;
using ::testing::AllOf;
using testing::FreePort;
using ::testing::HasSubstr;
using testing::JoinAll;
using testing::LeaveAll;
using ::testing::Not;
using testing::OnEachRank;
using testing::PlaceOf;
using testing::StandingServer;
using testing::TestSettings;

using Joined = absl::StatusOr<std::unique_ptr<World>>;

std::future<Joined> JoinLater(int rank, int size, int port, const Settings& settings,
                              bool hosted = false) {
  return std::async(std::launch::async,
                    [=] { return JoinWorld(PlaceOf(rank, size, port, hosted), settings); });
}

// A server for one job of two ranks. Whoever is turned away, the job still comes together.
class Join : public ::testing::Test {
 protected:
  void SetUp() override {
    settings_.token = "s3cret";
    RendezvousServer::Options options;
    options.only_job = settings_.job_id;
    options.world_size = 2;
    options.token = settings_.token;
    server_ = StandingServer(options);
    first_ = JoinLater(0, 2, server_->port(), settings_);
  }

  absl::Status TurnedAway(int rank, int size, const Settings& settings) {
    const auto start = steady_clock::now();
    const Joined joined =
        JoinWorld(PlaceOf(rank, size, server_->port(), /*hosted=*/false), settings);
    EXPECT_FALSE(joined.ok());
    EXPECT_LT(steady_clock::now() - start, seconds(5));  // at once, not at the joining deadline
    EXPECT_THAT(Message(joined.status()), Not(HasSubstr("s3cret")));
    return joined.status();
  }

  void TearDown() override {
    const Joined second = JoinWorld(PlaceOf(1, 2, server_->port(), /*hosted=*/false), settings_);
    EXPECT_TRUE(second.ok()) << Message(second.status());
    const Joined first = first_.get();
    EXPECT_TRUE(first.ok()) << Message(first.status());
  }

  Settings settings_ = TestSettings();
  std::unique_ptr<RendezvousServer> server_;
  std::future<Joined> first_;
};

TEST_F(Join, WrongTokenIsTurnedAway) {
  Settings settings = settings_;
  settings.token = "other1";
  absl::Status status = TurnedAway(1, 2, settings);
  EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(Message(status),
              AllOf(HasSubstr("rank 1"), HasSubstr("--token"), Not(HasSubstr("other1"))));
  settings.token = "";
  EXPECT_THAT(Message(TurnedAway(1, 2, settings)), HasSubstr("sent no token"));
}

TEST_F(Join, OtherWorldSizeIsTurnedAway) {
  const absl::Status status = TurnedAway(1, 3, settings_);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(status),
              AllOf(HasSubstr("world size 3"), HasSubstr("world size 2"), HasSubstr("WORLD_SIZE")));
}

TEST_F(Join, OtherJobIsTurnedAway) {
  Settings settings = settings_;
  settings.job_id = "other";
  const absl::Status status = TurnedAway(1, 2, settings);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(status),
              AllOf(HasSubstr("'other'"), HasSubstr("'test'"), HasSubstr("--job-id")));
}

TEST(JoinWorld, RankThatIsTakenIsTurnedAway) {
  const auto server = StandingServer();
  auto one = JoinLater(0, 2, server->port(), TestSettings());
  auto other = JoinLater(0, 2, server->port(), TestSettings());
  // Whichever came second is told while the first still waits.
  while (one.wait_for(milliseconds(10)) != std::future_status::ready &&
         other.wait_for(milliseconds(10)) != std::future_status::ready) {
  }
  const bool one_came_second = one.wait_for(seconds(0)) == std::future_status::ready;
  const Joined turned_away = (one_came_second ? one : other).get();
  EXPECT_EQ(turned_away.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(Message(turned_away.status()),
              AllOf(HasSubstr("rank 0 ("), HasSubstr("joined before")));
  auto second = JoinLater(1, 2, server->port(), TestSettings());
  EXPECT_TRUE((one_came_second ? other : one).get().ok());
  EXPECT_TRUE(second.get().ok());
}

TEST(JoinWorld, JobsMeetByTheirId) {
  const auto server = StandingServer();
  auto first = JoinLater(0, 2, server->port(), TestSettings());
  Settings settings = TestSettings();
  settings.job_id = "other";
  LeaveAll(JoinAll(3, server->port(), /*hosted=*/false, settings));
  auto second = JoinLater(1, 2, server->port(), TestSettings());
  EXPECT_TRUE(first.get().ok());
  EXPECT_TRUE(second.get().ok());
}

TEST(JoinWorld, PlaceIsCheckedFirst) {
  EXPECT_THAT(Message(JoinWorld(PlaceOf(2, 2, 1, false), TestSettings()).status()),
              HasSubstr("rank 2"));
  EXPECT_THAT(Message(JoinWorld(PlaceOf(0, 5000, 1, false), TestSettings()).status()),
              HasSubstr("world size 5000"));
  Settings settings = TestSettings();
  settings.job_id = "two\nlines";
  EXPECT_THAT(Message(JoinWorld(PlaceOf(0, 1, 1, false), settings).status()),
              HasSubstr("--job-id"));
}

TEST(JoinWorld, MissingRanksAreNamedAtTheDeadline) {
  Settings settings = TestSettings();
  settings.join_timeout = milliseconds(700);
  const int port = FreePort();
  std::vector<std::future<Joined>> ranks;
  for (const int rank : {0, 2, 5}) ranks.push_back(JoinLater(rank, 6, port, settings, true));
  const auto start = steady_clock::now();
  for (auto& rank : ranks) {
    const Joined joined = rank.get();
    EXPECT_EQ(joined.status().code(), absl::StatusCode::kDeadlineExceeded);
    EXPECT_THAT(Message(joined.status()),
                AllOf(HasSubstr("missing ranks 1 and 3-4"), HasSubstr("present: rank 0 ("),
                      HasSubstr("rank 2 ("), HasSubstr("rank 5 (")));
  }
  EXPECT_LT(steady_clock::now() - start, seconds(3));
}

TEST(JoinWorld, SecondJobOnTheSamePortIsTold) {
  const int port = FreePort();
  const auto running = JoinAll(2, port, /*hosted=*/true, TestSettings());
  ASSERT_EQ(running.size(), 2u);
  const Joined host = JoinWorld(PlaceOf(0, 2, port, /*hosted=*/true), TestSettings());
  EXPECT_EQ(host.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(Message(host.status()), HasSubstr(fmt::format("port {} is taken", port)));
  const Joined same_id = JoinWorld(PlaceOf(1, 2, port, /*hosted=*/true), TestSettings());
  EXPECT_EQ(same_id.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(same_id.status()),
              AllOf(HasSubstr("'test' is complete with its 2 ranks"), HasSubstr("--job-id")));
  Settings settings = TestSettings();
  settings.job_id = "second";
  const Joined other_id = JoinWorld(PlaceOf(1, 2, port, /*hosted=*/true), settings);
  EXPECT_EQ(other_id.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(other_id.status()), AllOf(HasSubstr("'second'"), HasSubstr("'test'")));
  OnEachRank(running, [](World& world) { EXPECT_TRUE(world.Barrier("on", seconds(5)).ok()); });
  LeaveAll(running);
}

TEST(JoinWorld, StandingServerServesAnIdAgain) {
  const auto server = StandingServer();
  for (int round = 0; round < 3; ++round) {
    const auto worlds = JoinAll(2, server->port(), /*hosted=*/false, TestSettings());
    ASSERT_EQ(worlds.size(), 2u) << round;
    if (round == 1) {
      // A job that failed makes room once its last rank is gone: who comes early waits for that.
      EXPECT_TRUE(worlds[0]->Leave("broken").ok());
      auto early = JoinLater(0, 2, server->port(), TestSettings());
      std::this_thread::sleep_for(milliseconds(300));
      EXPECT_FALSE(worlds[1]->Leave("").ok());
      auto other = JoinLater(1, 2, server->port(), TestSettings());
      EXPECT_TRUE(early.get().ok());
      EXPECT_TRUE(other.get().ok());
    } else {
      LeaveAll(worlds);
    }
  }
}

TEST(JoinWorld, ServersTokenHoldsForEveryJob) {
  RendezvousServer::Options options;
  options.token = "s3cret";
  const auto server = StandingServer(options);
  const Joined without = JoinWorld(PlaceOf(0, 1, server->port(), /*hosted=*/false), TestSettings());
  EXPECT_EQ(without.status().code(), absl::StatusCode::kPermissionDenied);
  Settings settings = TestSettings();
  settings.token = "s3cret";
  EXPECT_TRUE(JoinWorld(PlaceOf(0, 1, server->port(), /*hosted=*/false), settings).ok());
}

TEST(JoinWorld, NobodyListens) {
  Settings settings = TestSettings();
  settings.join_timeout = milliseconds(300);
  const int port = FreePort();
  const Joined refused = JoinWorld(PlaceOf(1, 2, port, /*hosted=*/true), settings);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(Message(refused.status()),
              AllOf(HasSubstr(fmt::format("127.0.0.1:{}", port)), HasSubstr("refused")));
  LaunchPlace place = PlaceOf(1, 2, port, /*hosted=*/true);
  place.rendezvous_host = "no-such-host.invalid";
  const Joined unknown = JoinWorld(place, settings);
  EXPECT_THAT(Message(unknown.status()),
              AllOf(HasSubstr("no-such-host.invalid"), HasSubstr("resolved")));
}

// Accepts one connection, sends `answer`, closes.
int ListenAndSay(std::string answer, std::thread& thread) {
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  EXPECT_EQ(bind(listener, reinterpret_cast<sockaddr*>(&address), length), 0);
  EXPECT_EQ(listen(listener, 1), 0);
  getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length);
  thread = std::thread([listener, answer = std::move(answer)] {
    const int fd = accept(listener, nullptr, nullptr);
    char buffer[256];
    EXPECT_GT(recv(fd, buffer, sizeof(buffer), 0), 0);
    EXPECT_GT(send(fd, answer.data(), answer.size(), MSG_NOSIGNAL), 0);
    close(fd);
    close(listener);
  });
  return ntohs(address.sin_port);
}

TEST(JoinWorld, SomethingElseListens) {
  std::thread thread;
  const int port = ListenAndSay("HTTP/1.1 400 Bad Request\r\n\r\n", thread);
  const auto start = steady_clock::now();
  const Joined joined = JoinWorld(PlaceOf(1, 2, port, /*hosted=*/true), TestSettings());
  thread.join();
  EXPECT_THAT(Message(joined.status()), AllOf(HasSubstr("no rendezvous"), HasSubstr("HTTP/1.1")));
  EXPECT_LT(steady_clock::now() - start, seconds(5));
}

TEST(Rendezvous, GarbageDoesNoHarm) {
  const auto server = StandingServer();
  const auto worlds = JoinAll(2, server->port(), /*hosted=*/false, TestSettings());
  ASSERT_EQ(worlds.size(), 2u);
  const std::string http2 = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
  for (const std::string& bytes :
       {std::string(), std::string("GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        std::string(100'000, '\xff'),
        std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11),
        http2 + std::string("\xff\xff\xff\x00\x00\x00\x00\x00\x01", 9)}) {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(static_cast<uint16_t>(server->port()));
    ASSERT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    // The server may hang up before it has taken all of it.
    (void)send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    close(fd);
  }
  OnEachRank(worlds, [](World& world) {
    EXPECT_TRUE(world.Barrier("still", seconds(5)).ok());
    EXPECT_TRUE(world.failure().ok());
  });
  LeaveAll(worlds);
}

TEST(Rendezvous, BadOptionsAreNamed) {
  RendezvousServer::Options options;
  options.address = "localhost";
  EXPECT_THAT(Message(RendezvousServer::Start(options).status()), HasSubstr("'localhost'"));
  options.address = "192.0.2.1";  // a documentation address, on no interface
  EXPECT_THAT(Message(RendezvousServer::Start(options).status()), HasSubstr("192.0.2.1"));
  options.address = "127.0.0.1";
  options.port = 65536;
  EXPECT_THAT(Message(RendezvousServer::Start(options).status()), HasSubstr("65536"));
}

}  // namespace
}  // namespace gradwire
