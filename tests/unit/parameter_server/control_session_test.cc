// Sessions of the control plane: what begins and ends them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <thread>

#include "tests/support/process.h"
#include "tests/unit/parameter_server/control_served.h"

namespace gradwire::ps {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;
using test::Process;
using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using testing::Ignore;
using testing::Loss;
using testing::Open;
using testing::Served;
using testing::SetCaller;
using testing::TestSettings;
using testing::Within;

TEST(Control, EndsASessionOnceWhenItLeaves) {
  Served served;
  Loss loss;
  {
    const auto client = Open(served.address());
    ASSERT_TRUE(client->Join({}, loss.callback(), Within(seconds(5))).ok());
    client->Leave();
    EXPECT_EQ(served.handler.Endings(1, milliseconds(0)).size(), 1u);  // before Leave() returns
    client->Leave();
  }
  const auto endings = served.handler.Endings(2, milliseconds(500));
  ASSERT_EQ(endings.size(), 1u);
  EXPECT_EQ(endings[0].session, 1);
  EXPECT_EQ(endings[0].lost, "");
  EXPECT_EQ(loss.count(), 0u);
}

TEST(Control, NoticesAKilledProcessAtOnce) {
  Served served;
  Process process({CONTROL_PEER, "attend", served.address(), "30000"});
  ASSERT_EQ(process.Line(seconds(10)), "session 1");
  EXPECT_TRUE(served.handler.Endings(1, milliseconds(500)).empty());
  const auto killed = steady_clock::now();
  process.Signal(SIGKILL);
  const auto endings = served.handler.Endings(1, seconds(10));
  ASSERT_EQ(endings.size(), 1u);
  EXPECT_EQ(endings[0].lost, "connection closed");
  EXPECT_LT(steady_clock::now() - killed, seconds(3));
}

TEST(Control, NoticesAFrozenProcessAfterItsTimeout) {
  Settings settings = TestSettings();
  settings.heartbeat_timeout = milliseconds(1500);
  Served served(settings);
  Process process({CONTROL_PEER, "attend", served.address(), "30000"});
  ASSERT_EQ(process.Line(seconds(10)), "session 1");
  EXPECT_TRUE(served.handler.Endings(1, milliseconds(2500)).empty());  // it beats
  const auto stopped = steady_clock::now();
  process.Signal(SIGSTOP);
  const auto endings = served.handler.Endings(1, seconds(10));
  ASSERT_EQ(endings.size(), 1u);
  EXPECT_THAT(endings[0].lost, ContainsRegex("silent for [12]\\.[0-9] s"));
  EXPECT_GT(steady_clock::now() - stopped, milliseconds(1000));
  // When it wakes up it is told.
  process.Signal(SIGCONT);
  EXPECT_THAT(process.Line(seconds(5)), AllOf(HasSubstr("lost: "), HasSubstr("counts as lost")));
  EXPECT_EQ(served.handler.Endings(2, milliseconds(300)).size(), 1u);
}

TEST(Control, TellsAClientThatItsServerDied) {
  Process process({CONTROL_PEER, "serve", "30000"});
  const std::string address = process.Line(seconds(10));
  Loss loss;
  const auto client = Open(address);
  ASSERT_NE(client, nullptr);
  ASSERT_TRUE(client->Join({}, loss.callback(), Within(seconds(5))).ok());
  EXPECT_TRUE(client->status().ok());
  const auto killed = steady_clock::now();
  process.Signal(SIGKILL);
  const absl::Status lost = loss.Await(seconds(10));
  EXPECT_LT(steady_clock::now() - killed, seconds(3));
  EXPECT_TRUE(absl::IsUnavailable(lost)) << lost;
  EXPECT_THAT(Message(lost), HasSubstr(address));
  EXPECT_EQ(client->status(), lost);
  const auto connected = client->Connect({}, Within(seconds(5)));
  EXPECT_EQ(connected.status(), lost);
  EXPECT_EQ(loss.count(), 1u);
}

TEST(Control, TellsAClientThatItsServerIsFrozen) {
  Process process({CONTROL_PEER, "serve", "30000"});
  const std::string address = process.Line(seconds(10));
  Settings settings = TestSettings();
  settings.heartbeat_timeout = milliseconds(1500);
  Loss loss;
  const auto client = Open(address, settings);
  ASSERT_NE(client, nullptr);
  ASSERT_TRUE(client->Join({}, loss.callback(), Within(seconds(5))).ok());
  process.Signal(SIGSTOP);
  const absl::Status lost = loss.Await(seconds(10));
  EXPECT_TRUE(absl::IsUnavailable(lost)) << lost;
  EXPECT_THAT(Message(lost), AllOf(HasSubstr(address), HasSubstr("silent for")));
}

TEST(Control, TellsAllWhenItGoesDown) {
  auto served = std::make_unique<Served>();
  Loss loss;
  const auto client = Open(served->address());
  ASSERT_TRUE(client->Join({}, loss.callback(), Within(seconds(5))).ok());
  const auto start = steady_clock::now();
  served->server.reset();
  EXPECT_LT(steady_clock::now() - start, seconds(3));
  const auto endings = served->handler.Endings(1, milliseconds(0));
  ASSERT_EQ(endings.size(), 1u);
  EXPECT_EQ(endings[0].lost, "the server goes down");
  const absl::Status lost = loss.Await(seconds(5));
  EXPECT_THAT(Message(lost), HasSubstr("it goes down"));
}

TEST(Control, EndsASessionThatNobodyAttends) {
  Served served;
  const auto stub = served.RawStub();
  grpc::ClientContext context;
  v1::JoinRequest request;
  SetCaller(request.mutable_caller());
  v1::JoinReply reply;
  ASSERT_TRUE(stub->Join(&context, request, &reply).ok());
  EXPECT_TRUE(served.handler.Endings(1, seconds(8)).empty());
  const auto endings = served.handler.Endings(1, seconds(6));
  ASSERT_EQ(endings.size(), 1u);
  EXPECT_THAT(endings[0].lost, HasSubstr("no heartbeat"));
}

TEST(Control, KeepsManySessionsAndOneThatJoinsSlowly) {
  Served served;
  std::vector<std::unique_ptr<ControlClient>> clients;
  for (int i = 0; i < 40; ++i) {
    clients.push_back(Open(served.address()));
    ASSERT_TRUE(clients.back()->Join({}, Ignore, Within(seconds(5))).ok());
  }
  served.handler.join_pause = milliseconds(1500);
  std::vector<std::thread> joining;
  for (int i = 0; i < 20; ++i) {
    joining.emplace_back([&] {
      const auto client = Open(served.address());
      EXPECT_TRUE(client->Join({}, Ignore, Within(seconds(20))).ok());
    });
  }
  std::this_thread::sleep_for(milliseconds(300));
  // Those that wait do not keep the others from their calls.
  const auto start = steady_clock::now();
  for (size_t i = 0; i < clients.size(); ++i) {
    ConnectRequest request;
    request.session = static_cast<int64_t>(i) + 1;
    EXPECT_TRUE(clients[i]->Connect(request, Within(seconds(5))).ok());
  }
  EXPECT_LT(steady_clock::now() - start, milliseconds(1000));
  for (std::thread& thread : joining) thread.join();
  clients.clear();
  const auto endings = served.handler.Endings(60, seconds(5));
  EXPECT_EQ(endings.size(), 60u);
  for (const auto& ending : endings) EXPECT_EQ(ending.lost, "");
}

}  // namespace
}  // namespace gradwire::ps
