// A server with real shards: who may join, and what becomes of them.
#include "parameter_server/server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <numeric>
#include <thread>

#include "parameter_server/checkpoint.h"
#include "parameter_server/sessions.h"
#include "parameter_server/worker.h"
#include "tests/unit/training/temporary_folder.h"

namespace gradwire::ps {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::AllOf;
using ::testing::HasSubstr;

Settings TestSettings() {
  Settings settings;
  settings.transport = "tcp";
  settings.heartbeat_interval = milliseconds(100);
  settings.heartbeat_timeout = milliseconds(10'000);
  settings.join_timeout = milliseconds(10'000);
  settings.op_timeout = milliseconds(10'000);
  return settings;
}

ServerOptions TestOptions(Consistency consistency = Consistency::kAsp, int workers = 1) {
  ServerOptions options;
  options.address = "127.0.0.1";
  options.slice_bytes = 1024;
  options.shard.consistency = consistency;
  options.shard.workers = workers;
  options.shard.optimizer.name = "sgd";
  options.shard.optimizer.learning_rate = 1;
  return options;
}

Layout TestLayout() {
  auto layout = Layout::Make({{"weight", {40, 50}}, {"bias", {50}}, {"scale", {}}});
  EXPECT_TRUE(layout.ok()) << layout.status();
  return *layout;
}

std::unique_ptr<Server> StartServer(const ServerOptions& options,
                                    const Settings& settings = TestSettings()) {
  auto server = Server::Start(options, settings);
  EXPECT_TRUE(server.ok()) << server.status();
  return server.ok() ? *std::move(server) : nullptr;
}

std::string AddressOf(const Server& server) { return fmt::format("127.0.0.1:{}", server.port()); }

absl::StatusOr<std::unique_ptr<Worker>> JoinAs(const Server& server, int64_t number = -1,
                                               const Layout& layout = TestLayout()) {
  return Worker::Join({AddressOf(server)}, layout, {.worker = number}, TestSettings());
}

// Polls for what comes by itself.
template <typename Condition>
bool Eventually(Condition condition, milliseconds patience = seconds(10)) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(milliseconds(10));
  }
  return true;
}

// --- Options ---

TEST(ServerOptionsTest, NameTheFlagThatIsWrong) {
  const auto wrong = [](const std::function<void(ServerOptions&)>& spoil) {
    ServerOptions options = TestOptions();
    EXPECT_TRUE(Validate(options).ok()) << Validate(options);
    spoil(options);
    const absl::Status status = Validate(options);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    return Message(status);
  };
  EXPECT_THAT(wrong([](auto& o) { o.servers = 0; }), HasSubstr("--of"));
  EXPECT_THAT(wrong([](auto& o) { o.server = 1; }), HasSubstr("--index"));
  EXPECT_THAT(wrong([](auto& o) { o.threads = 65; }), HasSubstr("--threads"));
  EXPECT_THAT(wrong([](auto& o) { o.port = 70000; }), HasSubstr("--port"));
  EXPECT_THAT(wrong([](auto& o) { o.slice_bytes = 100; }), HasSubstr("--slice-bytes"));
  EXPECT_THAT(wrong([](auto& o) { o.slice_bytes = 1025; }), HasSubstr("--slice-bytes"));
  EXPECT_THAT(wrong([](auto& o) { o.window = 1; }), HasSubstr("--window"));
  EXPECT_THAT(wrong([](auto& o) { o.shard.workers = 0; }), HasSubstr("--workers"));
  EXPECT_THAT(wrong([](auto& o) { o.shard.staleness = -1; }), HasSubstr("--staleness"));
  EXPECT_THAT(wrong([](auto& o) { o.shard.clip_value = -1; }), HasSubstr("--clip-value"));
  EXPECT_THAT(wrong([](auto& o) { o.shard.checkpoint_interval = 5; }), HasSubstr("--checkpoint"));
  EXPECT_THAT(wrong([](auto& o) { o.shard.optimizer.name = "magic"; }), HasSubstr("--optimizer"));
  EXPECT_THAT(wrong([](auto& o) { o.replica = true; }), HasSubstr("--of"));
  EXPECT_THAT(wrong([](auto& o) {
                o.replica = true;
                o.servers = 2;
                o.peers = {"127.0.0.1:4000"};
              }),
              HasSubstr("--peers"));
  EXPECT_THAT(wrong([](auto& o) { o.peers = {"nowhere"}; }), HasSubstr("--peers"));
}

// --- Numbers ---

JoinRequest Asking(int64_t worker, int64_t count = 1) {
  return {.worker = worker, .count = count, .host = "node7", .pid = 4711};
}

TEST(SessionsTest, GiveNumbersThatAreFree) {
  Sessions sessions(Consistency::kAsp, 1);
  const Session first = **sessions.Begin(Asking(-1, 10));
  EXPECT_EQ(first.first, 0);
  const Session second = **sessions.Begin(Asking(-1));
  EXPECT_EQ(second.first, 10);
  EXPECT_NE(first.id, second.id);
  EXPECT_EQ(sessions.OfWorker(9)->id, first.id);
  EXPECT_EQ(sessions.OfWorker(10)->id, second.id);
  EXPECT_EQ(sessions.OfWorker(11), nullptr);
  EXPECT_EQ(second.NameOf(10), "worker 10 (node7, pid 4711)");
  // Taken in part, and by whom.
  for (const auto& [worker, count] : {std::pair{9, 1}, std::pair{5, 2}, std::pair{10, 5}}) {
    const auto taken = sessions.Begin(Asking(worker, count));
    EXPECT_TRUE(absl::IsAlreadyExists(taken.status())) << worker << taken.status();
  }
  EXPECT_THAT(Message(sessions.Begin(Asking(10)).status()),
              HasSubstr("worker 10 (node7, pid 4711)"));
  EXPECT_EQ((**sessions.Begin(Asking(11, 3))).first, 11);
  // One that left may come back; others get numbers that were never given.
  EXPECT_TRUE(sessions.End(first.id).ok());
  EXPECT_FALSE(sessions.End(first.id).ok());
  EXPECT_EQ((**sessions.Begin(Asking(-1))).first, 14);
  EXPECT_EQ((**sessions.Begin(Asking(3))).first, 3);
  EXPECT_EQ(sessions.workers(), 4);
}

TEST(SessionsTest, GiveNumbersThatBspHas) {
  Sessions sessions(Consistency::kBsp, 3);
  const Session one = **sessions.Begin(Asking(1));
  EXPECT_EQ((**sessions.Begin(Asking(-1))).first, 0);
  EXPECT_EQ((**sessions.Begin(Asking(-1))).first, 2);
  EXPECT_TRUE(absl::IsResourceExhausted(sessions.Begin(Asking(-1)).status()));
  const auto outside = sessions.Begin(Asking(3));
  EXPECT_TRUE(absl::IsOutOfRange(outside.status())) << outside.status();
  EXPECT_THAT(Message(outside.status()), AllOf(HasSubstr("0..2"), HasSubstr("--workers")));
  EXPECT_TRUE(sessions.End(one.id).ok());
  EXPECT_EQ((**sessions.Begin(Asking(-1))).first, 1);
}

TEST(SessionsTest, AreOfServersAndOnlookersToo) {
  Sessions sessions(Consistency::kBsp, 1);
  const Session onlooker = **sessions.Begin(Asking(-1, 0));
  EXPECT_FALSE(onlooker.Has(0));
  JoinRequest request = Asking(-1, 0);
  request.server = 2;
  const Session server = **sessions.Begin(request);
  EXPECT_EQ(sessions.OfServer(2)->id, server.id);
  EXPECT_EQ(sessions.OfServer(1), nullptr);
  EXPECT_EQ(sessions.workers(), 0);
  EXPECT_EQ(server.NameOf(-1), "server 2 (node7, pid 4711)");
}

// --- Whole servers ---

TEST(ServerTest, TrainsAWorker) {
  const auto server = StartServer(TestOptions());
  EXPECT_THAT(server->description(),
              AllOf(HasSubstr("server 0 of 1"), HasSubstr("asp"), HasSubstr("sgd")));
  auto worker = JoinAs(*server);
  ASSERT_TRUE(worker.ok()) << worker.status();
  std::vector<float> values(static_cast<size_t>(TestLayout().elements()));
  std::iota(values.begin(), values.end(), 0.0f);
  ASSERT_TRUE((*worker)->Initialize(values).ok());
  ASSERT_TRUE((*worker)->Pull().ok());
  EXPECT_EQ((*worker)->parameters()[77], 77.0f);
  std::ranges::fill((*worker)->gradients(), 1.0f);
  for (int step = 0; step < 3; ++step) ASSERT_TRUE((*worker)->PushPull().ok());
  EXPECT_EQ((*worker)->parameters()[77], 74.0f);

  // Shards tell of themselves every now and then.
  ASSERT_TRUE(Eventually([&] {
    const auto workers = server->Status().workers;
    return workers.size() == 1 && workers[0].clock == 3;
  }));
  const ServerStatus status = server->Status();
  ASSERT_EQ(status.shards.size(), 1u);
  EXPECT_EQ(status.shards[0].role, "primary");
  EXPECT_EQ(status.shards[0].links, 1);
  EXPECT_GT(status.shards[0].updates, 0u);
  ASSERT_EQ(status.workers.size(), 1u);
  EXPECT_THAT(status.workers[0].who, HasSubstr(fmt::format("pid {}", getpid())));
  EXPECT_LT(status.workers[0].silent_ms, 5000);
  EXPECT_TRUE((*worker)->Leave().ok());
  EXPECT_TRUE(Eventually([&] { return server->Status().workers.empty(); }));
}

TEST(ServerTest, SharesTheParametersAmongSeveral) {
  std::vector<std::unique_ptr<Server>> servers;
  std::vector<std::string> addresses;
  for (int i = 0; i < 3; ++i) {
    ServerOptions options = TestOptions(Consistency::kBsp, 2);
    options.server = i;
    options.servers = 3;
    options.threads = 2;
    servers.push_back(StartServer(options));
    addresses.push_back(AddressOf(*servers.back()));
  }
  std::vector<std::thread> workers;
  for (int rank = 0; rank < 2; ++rank) {
    workers.emplace_back([&, rank] {
      auto worker = Worker::Join(addresses, TestLayout(), {.worker = rank}, TestSettings());
      ASSERT_TRUE(worker.ok()) << worker.status();
      const std::vector<float> values(static_cast<size_t>(TestLayout().elements()), 10.0f);
      ASSERT_TRUE((*worker)->Initialize(values).ok());
      ASSERT_TRUE((*worker)->Pull().ok());
      for (int step = 0; step < 4; ++step) {
        std::ranges::fill((*worker)->gradients(), rank == 0 ? 1.0f : 0.5f);
        ASSERT_TRUE((*worker)->PushPull().ok());
      }
      for (const float value : (*worker)->parameters()) ASSERT_EQ(value, 10.0f - 4 * 1.5f);
    });
  }
  for (std::thread& worker : workers) worker.join();
}

TEST(ServerTest, RefusesAnotherLayout) {
  const auto server = StartServer(TestOptions());
  const auto first = JoinAs(*server);
  ASSERT_TRUE(first.ok()) << first.status();
  const auto other = Layout::Make({{"weight", {40, 51}}, {"bias", {50}}, {"scale", {}}});
  const auto refused = JoinAs(*server, -1, *other);
  EXPECT_TRUE(absl::IsInvalidArgument(refused.status())) << refused.status();
  EXPECT_THAT(Message(refused.status()), HasSubstr("weight"));
  EXPECT_TRUE(JoinAs(*server).ok());
}

TEST(ServerTest, RefusesNumbersThatAreTakenOrNotThere) {
  const auto server = StartServer(TestOptions(Consistency::kBsp, 2));
  const auto first = JoinAs(*server, 1);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ((*first)->number(), 1);
  const auto taken = JoinAs(*server, 1);
  EXPECT_TRUE(absl::IsAlreadyExists(taken.status())) << taken.status();
  EXPECT_THAT(Message(taken.status()), HasSubstr("worker 1 ("));
  EXPECT_FALSE(JoinAs(*server, 2).ok());
  const auto second = JoinAs(*server);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ((*second)->number(), 0);
}

TEST(ServerTest, RefusesAnotherTransport) {
  const auto server = StartServer(TestOptions());
  Settings settings = TestSettings();
  settings.transport = "rdma";
  const auto worker = Worker::Join({AddressOf(*server)}, TestLayout(), {}, settings);
  EXPECT_TRUE(absl::IsFailedPrecondition(worker.status())) << worker.status();
  EXPECT_THAT(Message(worker.status()), HasSubstr("--transport"));
}

TEST(ServerTest, RefusesLinksThatAreNotTheSessions) {
  const auto server = StartServer(TestOptions());
  const auto worker = JoinAs(*server);
  ASSERT_TRUE(worker.ok()) << worker.status();
  const auto deadline = std::chrono::steady_clock::now() + seconds(10);
  const auto client = ControlClient::Open(AddressOf(*server), TestSettings(), deadline);
  ASSERT_TRUE(client.ok()) << client.status();
  const auto joined = (*client)->Join(
      {.layout = TestLayout(), .transport = "tcp"}, [](const absl::Status&) {}, deadline);
  ASSERT_TRUE(joined.ok()) << joined.status();
  EXPECT_EQ(joined->worker, (*worker)->number() + 1);
  const auto as_another = (*client)->Connect({.worker = (*worker)->number(), .shard = 0}, deadline);
  EXPECT_TRUE(absl::IsPermissionDenied(as_another.status())) << as_another.status();
  const auto as_primary = (*client)->Connect({.worker = -1, .shard = 0}, deadline);
  EXPECT_TRUE(absl::IsPermissionDenied(as_primary.status())) << as_primary.status();
  const auto nowhere = (*client)->Connect({.worker = joined->worker, .shard = 5}, deadline);
  EXPECT_TRUE(absl::IsOutOfRange(nowhere.status())) << nowhere.status();
  EXPECT_TRUE(absl::IsFailedPrecondition((*client)->Promote(0, deadline)));
  EXPECT_FALSE((*client)->Checkpoint().ok());
  // Another server may not feed what is no replica.
  const auto other = ControlClient::Open(AddressOf(*server), TestSettings(), deadline);
  ASSERT_TRUE(other.ok()) << other.status();
  const auto fed = (*other)->Join(
      {.layout = TestLayout(), .transport = "tcp", .count = 0, .server = 0},
      [](const absl::Status&) {}, deadline);
  EXPECT_TRUE(absl::IsFailedPrecondition(fed.status())) << fed.status();
}

TEST(ServerTest, EndsWhenIdleOrStopped) {
  const auto server = StartServer(TestOptions());
  const auto start = std::chrono::steady_clock::now();
  std::thread guest([&] {
    const auto worker = JoinAs(*server);
    EXPECT_TRUE(worker.ok()) << worker.status();
    std::this_thread::sleep_for(milliseconds(1000));
  });
  EXPECT_TRUE(server->Wait(milliseconds(700)).ok());
  EXPECT_GT(std::chrono::steady_clock::now() - start, milliseconds(1500));
  guest.join();

  const auto client = ControlClient::Open(AddressOf(*server), TestSettings(),
                                          std::chrono::steady_clock::now() + seconds(5));
  ASSERT_TRUE(client.ok()) << client.status();
  std::thread stopper([&] {
    std::this_thread::sleep_for(milliseconds(200));
    EXPECT_TRUE((*client)->Stop("the test ends").ok());
  });
  EXPECT_TRUE(server->Wait(milliseconds(0)).ok());
  stopper.join();
}

TEST(ServerTest, GoesOnFromItsCheckpointWithMoreServers) {
  training::TemporaryFolder folder;
  {
    ServerOptions options = TestOptions();
    options.checkpoint = folder.path();
    const auto server = StartServer(options);
    auto worker = JoinAs(*server);
    ASSERT_TRUE(worker.ok()) << worker.status();
    const std::vector<float> values(static_cast<size_t>(TestLayout().elements()), 5.0f);
    ASSERT_TRUE((*worker)->Initialize(values).ok());
    std::ranges::fill((*worker)->gradients(), 1.0f);
    for (int step = 0; step < 2; ++step) ASSERT_TRUE((*worker)->PushPull().ok());
    const auto client = ControlClient::Open(AddressOf(*server), TestSettings(),
                                            std::chrono::steady_clock::now() + seconds(5));
    const auto written = (*client)->Checkpoint();
    ASSERT_TRUE(written.ok()) << written.status();
    EXPECT_THAT(*written, HasSubstr("step-000002"));
    EXPECT_TRUE(std::filesystem::exists(*written));
  }
  std::vector<std::unique_ptr<Server>> servers;
  std::vector<std::string> addresses;
  for (int i = 0; i < 2; ++i) {
    ServerOptions options = TestOptions();
    options.server = i;
    options.servers = 2;
    options.restore = folder.path();
    servers.push_back(StartServer(options));
    addresses.push_back(AddressOf(*servers.back()));
  }
  auto worker = Worker::Join(addresses, TestLayout(), {}, TestSettings());
  ASSERT_TRUE(worker.ok()) << worker.status();
  ASSERT_TRUE((*worker)->Pull().ok());
  for (const float value : (*worker)->parameters()) ASSERT_EQ(value, 3.0f);
}

TEST(ServerTest, WritesACheckpointAlsoOnceItsWorkersHaveLeft) {
  for (const Consistency consistency : {Consistency::kBsp, Consistency::kSsp, Consistency::kAsp}) {
    training::TemporaryFolder folder;
    ServerOptions options = TestOptions(consistency);
    options.checkpoint = folder.path();
    const auto server = StartServer(options);
    const auto client = ControlClient::Open(AddressOf(*server), TestSettings(),
                                            std::chrono::steady_clock::now() + seconds(5));
    ASSERT_TRUE(client.ok()) << client.status();
    {
      auto worker = JoinAs(*server, 0);
      ASSERT_TRUE(worker.ok()) << worker.status();
      const std::vector<float> values(static_cast<size_t>(TestLayout().elements()), 5.0f);
      ASSERT_TRUE((*worker)->Initialize(values).ok());
      // Before the first step there is one to write too.
      const auto first = (*client)->Checkpoint();
      ASSERT_TRUE(first.ok()) << first.status();
      EXPECT_THAT(*first, HasSubstr("step-000000"));
      EXPECT_EQ(server->Status().checkpoint, *first);
      for (int step = 0; step < 3; ++step) ASSERT_TRUE((*worker)->PushPull().ok());
      EXPECT_TRUE((*worker)->Leave().ok());
    }
    EXPECT_TRUE(Eventually([&] {
      const ShardStatus shard = server->Status().shards[0];
      return shard.links == 0 && shard.min_clock == 3;
    }));
    // Again with nothing pushed meanwhile.
    for (int round = 0; round < 2; ++round) {
      const auto written = (*client)->Checkpoint();
      ASSERT_TRUE(written.ok()) << written.status();
      EXPECT_THAT(*written, HasSubstr("step-000003"));
      const auto info = ReadCheckpoint(folder.path());
      ASSERT_TRUE(info.ok()) << info.status();
      EXPECT_EQ(info->step, 3);
    }
  }
}

TEST(ServerTest, RefusesABadCheckpoint) {
  training::TemporaryFolder folder;
  ServerOptions options = TestOptions();
  options.restore = folder.path();
  const auto server = Server::Start(options, TestSettings());
  EXPECT_FALSE(server.ok());
  EXPECT_THAT(Message(server.status()), HasSubstr("--restore"));
}

// Two servers that keep each other's copies, on ports that were free a moment ago.
class Replicated : public ::testing::Test {
 protected:
  void SetUp() override {
    std::vector<int> ports;
    {
      const auto a = StartServer(TestOptions());
      const auto b = StartServer(TestOptions());
      ports = {a->port(), b->port()};
    }
    for (int i = 0; i < 2; ++i) addresses_.push_back(fmt::format("127.0.0.1:{}", ports[i]));
    for (int i = 0; i < 2; ++i) {
      options_[i] = TestOptions();
      options_[i].server = i;
      options_[i].servers = 2;
      options_[i].replica = true;
      options_[i].peers = addresses_;
      options_[i].port = ports[i];
      servers_[i] = StartServer(options_[i]);
    }
  }
  std::vector<std::string> addresses_;
  ServerOptions options_[2];
  std::unique_ptr<Server> servers_[2];
};

TEST_F(Replicated, LosesNoUpdateWithAServer) {
  auto worker = Worker::Join(addresses_, TestLayout(), {}, TestSettings());
  ASSERT_TRUE(worker.ok()) << worker.status();
  const std::vector<float> values(static_cast<size_t>(TestLayout().elements()), 100.0f);
  ASSERT_TRUE((*worker)->Initialize(values).ok());
  std::ranges::fill((*worker)->gradients(), 1.0f);
  for (int step = 0; step < 5; ++step) ASSERT_TRUE((*worker)->PushPull().ok());
  {
    const auto client = ControlClient::Open(addresses_[1], TestSettings(),
                                            std::chrono::steady_clock::now() + seconds(5));
    ASSERT_TRUE(client.ok()) << client.status();
    const absl::Status early = (*client)->Promote(0, std::chrono::steady_clock::now() + seconds(5));
    EXPECT_TRUE(absl::IsUnavailable(early)) << early;
    EXPECT_THAT(Message(early), HasSubstr("still hears"));
  }
  servers_[0].reset();
  for (int step = 0; step < 5; ++step) {
    const absl::Status pushed = (*worker)->PushPull();
    ASSERT_TRUE(pushed.ok()) << pushed;
  }
  for (const float value : (*worker)->parameters()) ASSERT_EQ(value, 90.0f);
  EXPECT_EQ((*worker)->stats().failovers, 1u);
  // The old primary may not come back and feed what has gone on without it.
  servers_[0] = StartServer(options_[0]);
  const auto late = Worker::Join({addresses_[0], addresses_[1]}, TestLayout(), {}, TestSettings());
  EXPECT_FALSE(late.ok());
  EXPECT_THAT(Message(late.status()), HasSubstr("have taken over"));
}

TEST_F(Replicated, TakesThePrimaryBackThatNoneCouldTakeOverFor) {
  const auto deadline = std::chrono::steady_clock::now() + seconds(30);
  {
    const auto worker = Worker::Join(addresses_, TestLayout(), {}, TestSettings());
    ASSERT_TRUE(worker.ok()) << worker.status();
  }
  servers_[0].reset();
  const auto client = ControlClient::Open(addresses_[1], TestSettings(), deadline);
  ASSERT_TRUE(client.ok()) << client.status();
  absl::Status promoted;
  ASSERT_TRUE(Eventually([&] {
    promoted = (*client)->Promote(0, deadline);
    return !absl::IsUnavailable(promoted);
  }));
  EXPECT_TRUE(absl::IsFailedPrecondition(promoted)) << promoted;
  EXPECT_THAT(Message(promoted), HasSubstr("no values yet"));
  servers_[0] = StartServer(options_[0]);
  const auto again = Worker::Join(addresses_, TestLayout(), {}, TestSettings());
  EXPECT_TRUE(again.ok()) << again.status();
}

TEST_F(Replicated, SaysWhichServerItCannotCopyTo) {
  servers_[1].reset();
  Settings settings = TestSettings();
  settings.join_timeout = milliseconds(1500);
  servers_[0].reset();
  servers_[0] = StartServer(options_[0], settings);
  const auto deadline = std::chrono::steady_clock::now() + seconds(10);
  const auto client = ControlClient::Open(addresses_[0], TestSettings(), deadline);
  ASSERT_TRUE(client.ok()) << client.status();
  const auto joined = (*client)->Join(
      {.layout = TestLayout(), .transport = "tcp"}, [](const absl::Status&) {}, deadline);
  EXPECT_TRUE(absl::IsUnavailable(joined.status())) << joined.status();
  EXPECT_THAT(Message(joined.status()), AllOf(HasSubstr("server 1"), HasSubstr(addresses_[1])));
}

}  // namespace
}  // namespace gradwire::ps
