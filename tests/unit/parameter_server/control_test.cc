// The control plane of the parameter server, over real connections, with a handler that says what
// the test wants.
#include <arpa/inet.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <functional>
#include <limits>
#include <thread>

#include "gradwire/v1/parameter_server.grpc.pb.h"
#include "tests/unit/parameter_server/control_fakes.h"
#include "tests/unit/training/temporary_folder.h"
#include "transport/bootstrap/rendezvous_server.h"

namespace gradwire::ps {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;
using ::testing::AllOf;
using ::testing::ContainsRegex;
using testing::FakeHandler;
using ::testing::HasSubstr;
using testing::TestSettings;
using testing::Within;

std::string Address(int port) { return fmt::format("127.0.0.1:{}", port); }

// A server with its handler.
struct Served {
  explicit Served(const Settings& settings = TestSettings()) {
    auto started = ControlServer::Start(handler, "127.0.0.1", 0, settings);
    EXPECT_TRUE(started.ok()) << started.status();
    if (started.ok()) server = *std::move(started);
  }
  std::string address() const { return Address(server->port()); }
  std::unique_ptr<v1::ParameterServer::Stub> RawStub() const {
    return v1::ParameterServer::NewStub(
        grpc::CreateChannel(address(), grpc::InsecureChannelCredentials()));
  }

  FakeHandler handler;
  std::unique_ptr<ControlServer> server;
};

std::unique_ptr<ControlClient> Open(const std::string& server,
                                    const Settings& settings = TestSettings()) {
  auto client = ControlClient::Open(server, settings, Within(seconds(10)));
  EXPECT_TRUE(client.ok()) << client.status();
  return client.ok() ? *std::move(client) : nullptr;
}

absl::Status WhyNot(const std::string& server, const Settings& settings = TestSettings(),
                    milliseconds patience = seconds(5)) {
  return ControlClient::Open(server, settings, Within(patience)).status();
}

void Ignore(const absl::Status&) {}

Layout SmallLayout() {
  auto layout = Layout::Make({{"weight", {3, 5}}, {"bias", {5}}, {"scale", {}}});
  EXPECT_TRUE(layout.ok()) << layout.status();
  return *layout;
}

void SetCaller(v1::Caller* caller) {
  caller->set_protocol(1);
  caller->set_job_id(TestSettings().job_id);
}

class Process {
 public:
  explicit Process(const std::vector<std::string>& arguments) {
    int in[2];
    int out[2];
    EXPECT_EQ(pipe2(in, O_CLOEXEC), 0);
    EXPECT_EQ(pipe2(out, O_CLOEXEC), 0);
    std::vector<char*> argv = {const_cast<char*>(CONTROL_PEER)};
    for (const std::string& argument : arguments) {
      argv.push_back(const_cast<char*>(argument.c_str()));
    }
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in[0], 0);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    const int error = posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), environ);
    EXPECT_EQ(error, 0) << argv[0];
    if (error != 0) pid_ = -1;
    posix_spawn_file_actions_destroy(&actions);
    close(in[0]);
    close(out[1]);
    stdin_ = in[1];
    stdout_ = out[0];
  }
  ~Process() {
    Signal(SIGKILL);
    if (pid_ > 0) waitpid(pid_, nullptr, 0);
    close(stdin_);
    close(stdout_);
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  void Signal(int signal) const {
    if (pid_ > 0) kill(pid_, signal);
  }

  // The next line of its output; "(nothing)" after `patience`.
  std::string Line(milliseconds patience) {
    const Deadline deadline = Within(patience);
    while (buffer_.find('\n') == std::string::npos) {
      const auto left = std::chrono::duration_cast<milliseconds>(deadline - steady_clock::now());
      pollfd entry{stdout_, POLLIN, 0};
      if (left.count() <= 0 || poll(&entry, 1, static_cast<int>(left.count())) < 1) {
        return "(nothing)";
      }
      char bytes[4096];
      const ssize_t count = read(stdout_, bytes, sizeof(bytes));
      if (count <= 0) return "(end)";
      buffer_.append(bytes, static_cast<size_t>(count));
    }
    const std::string line = buffer_.substr(0, buffer_.find('\n'));
    buffer_.erase(0, line.size() + 1);
    return line;
  }

 private:
  pid_t pid_ = -1;
  int stdin_ = -1;
  int stdout_ = -1;
  std::string buffer_;
};

// What a session is told when its server is lost.
class Loss {
 public:
  std::function<void(const absl::Status&)> callback() {
    return [this](const absl::Status& status) {
      const std::lock_guard lock(mutex_);
      told_.push_back(status);
      changed_.notify_all();
    };
  }
  absl::Status Await(milliseconds patience) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, patience, [&] { return !told_.empty(); });
    return told_.empty() ? absl::OkStatus() : told_.front();
  }
  size_t count() {
    const std::lock_guard lock(mutex_);
    return told_.size();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<absl::Status> told_;
};

// --- What travels ---

TEST(Control, CarriesAJoinAndItsReply) {
  Served served;
  served.handler.join_reply = {.worker = 17,
                               .server = 1,
                               .servers = 3,
                               .shards_per_server = 4,
                               .replicas = true,
                               .slice_bytes = 64 << 10,
                               .window = 16,
                               .transport = "rdma",
                               .device = "urxe0, user space",
                               .consistency = Consistency::kSsp,
                               .staleness = 3,
                               .workers = 9,
                               .initialized = true,
                               .restored_step = 120,
                               .run = "4711"};
  const auto client = Open(served.address());
  const Layout layout = SmallLayout();
  const auto reply = client->Join({.layout = layout,
                                   .transport = "auto",
                                   .worker = 17,
                                   .count = 100,
                                   .host = "rank 2 (node7, pid 4711)",
                                   .pid = 4711,
                                   .server = 2,
                                   .run = "4711"},
                                  Ignore, Within(seconds(5)));
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->session, 1);
  EXPECT_EQ(reply->worker, 17);
  EXPECT_EQ(reply->server, 1);
  EXPECT_EQ(reply->servers, 3);
  EXPECT_EQ(reply->shards_per_server, 4);
  EXPECT_TRUE(reply->replicas);
  EXPECT_EQ(reply->slice_bytes, 64 << 10);
  EXPECT_EQ(reply->window, 16);
  EXPECT_EQ(reply->transport, "rdma");
  EXPECT_EQ(reply->device, "urxe0, user space");
  EXPECT_EQ(reply->consistency, Consistency::kSsp);
  EXPECT_EQ(reply->staleness, 3);
  EXPECT_EQ(reply->workers, 9);
  EXPECT_TRUE(reply->initialized);
  EXPECT_EQ(reply->restored_step, 120);
  EXPECT_EQ(reply->run, "4711");
  EXPECT_TRUE(reply->layout.Matches(layout).ok());

  const auto joins = served.handler.joins();
  ASSERT_EQ(joins.size(), 1u);
  EXPECT_TRUE(joins[0].layout.Matches(layout).ok());
  EXPECT_EQ(joins[0].transport, "auto");
  EXPECT_EQ(joins[0].worker, 17);
  EXPECT_EQ(joins[0].count, 100);
  EXPECT_EQ(joins[0].host, "rank 2 (node7, pid 4711)");
  EXPECT_EQ(joins[0].pid, 4711);
  EXPECT_EQ(joins[0].server, 2);
  EXPECT_EQ(joins[0].run, "4711");
}

TEST(Control, TellsTheLayoutToWhoHasNone) {
  Served served;
  served.handler.join_reply.layout = SmallLayout();
  const auto client = Open(served.address());
  const auto reply = client->Join({}, Ignore, Within(seconds(5)));
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_TRUE(reply->layout.Matches(SmallLayout()).ok());
}

TEST(Control, CarriesTheLargestLayout) {
  Served served;
  std::vector<TensorSpec> tensors(Layout::kMaxTensors);
  for (size_t i = 0; i < tensors.size(); ++i) {
    tensors[i].name = std::to_string(i) + std::string(240, 'n');
    tensors[i].shape = {1000, 4};
  }
  const auto layout = Layout::Make(std::move(tensors));
  ASSERT_TRUE(layout.ok()) << layout.status();
  served.handler.join_reply.layout = *layout;
  const auto client = Open(served.address());
  const auto reply = client->Join({.layout = *layout}, Ignore, Within(seconds(10)));
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_TRUE(served.handler.joins()[0].layout.Matches(*layout).ok());
  // And back.
  const auto monitor = Open(served.address());
  const auto told = monitor->Join({}, Ignore, Within(seconds(10)));
  ASSERT_TRUE(told.ok()) << told.status();
  EXPECT_TRUE(told->layout.Matches(*layout).ok());
}

TEST(Control, CarriesAConnectionAndItsReply) {
  Served served;
  ConnectReply& answer = served.handler.connect_reply;
  answer.facts.secret = std::string("\0\x01secret", 8);
  answer.facts.endpoints = {{"10.0.0.1", 4000}};
  answer.facts.queue_pairs.resize(1);
  answer.facts.queue_pairs[0].qp_number = 0xabcdef;
  answer.facts.window = 8;
  answer.facts.slot_bytes = 4096;
  answer.facts.link = 77;
  answer.clock = 12;
  answer.maps = true;
  const auto client = Open(served.address());
  ASSERT_TRUE(client->Join({}, Ignore, Within(seconds(5))).ok());
  ConnectRequest request;
  request.session = 1;
  request.worker = 3;
  request.shard = 2;
  request.facts.grants = {{0x7000, 4096, 9, 1}};
  request.parameters = {0x7f0000000000, 1 << 20, 0xfeedbeef, 1};
  request.gradients = {0x7f0000100000, 1 << 20, 0xdeadbeef, 0};
  request.wire = DataType::kBfloat16;
  const auto reply = client->Connect(request, Within(seconds(5)));
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->facts.secret, answer.facts.secret);
  ASSERT_EQ(reply->facts.endpoints.size(), 1u);
  EXPECT_EQ(reply->facts.endpoints[0].address, "10.0.0.1");
  ASSERT_EQ(reply->facts.queue_pairs.size(), 1u);
  EXPECT_EQ(reply->facts.queue_pairs[0].qp_number, 0xabcdefu);
  EXPECT_EQ(reply->facts.window, 8);
  EXPECT_EQ(reply->facts.link, 77u);
  EXPECT_EQ(reply->clock, 12);
  EXPECT_TRUE(reply->maps);

  const ConnectRequest seen = served.handler.last_connect();
  EXPECT_EQ(seen.session, 1);
  EXPECT_EQ(seen.worker, 3);
  EXPECT_EQ(seen.shard, 2);
  ASSERT_EQ(seen.facts.grants.size(), 1u);
  EXPECT_EQ(seen.facts.grants[0].address, 0x7000u);
  EXPECT_EQ(seen.parameters.address, 0x7f0000000000u);
  EXPECT_EQ(seen.parameters.length, 1u << 20);
  EXPECT_EQ(seen.parameters.key, 0xfeedbeefu);
  EXPECT_EQ(seen.parameters.mappable, 1u);
  EXPECT_EQ(seen.gradients.key, 0xdeadbeefu);
  EXPECT_EQ(seen.gradients.mappable, 0u);
  EXPECT_EQ(seen.wire, DataType::kBfloat16);
}

TEST(Control, CarriesStatusStopCheckpointAndPromotion) {
  Served served;
  ServerStatus& status = served.handler.status;
  status.server = 1;
  status.servers = 2;
  status.address = "10.0.0.1:4000";
  status.optimizer = "adam";
  status.checkpoint = "/data/step-7";
  status.consistency = Consistency::kAsp;
  status.shards.push_back({.shard = 4,
                           .role = "primary",
                           .bytes = 1 << 30,
                           .min_clock = 9,
                           .updates = 10,
                           .duplicates = 11,
                           .refused = 12,
                           .updates_per_second = 13.5,
                           .links = 14});
  status.workers.push_back({7, "worker 7 (node7, pid 4711)", 9, 3, 40});
  const auto client = Open(served.address());  // no session is needed
  const auto told = client->Status();
  ASSERT_TRUE(told.ok()) << told.status();
  EXPECT_EQ(told->server, 1);
  EXPECT_EQ(told->servers, 2);
  EXPECT_EQ(told->address, "10.0.0.1:4000");
  EXPECT_EQ(told->consistency, Consistency::kAsp);
  EXPECT_EQ(told->optimizer, "adam");
  EXPECT_EQ(told->checkpoint, "/data/step-7");
  ASSERT_EQ(told->shards.size(), 1u);
  EXPECT_EQ(told->shards[0].shard, 4);
  EXPECT_EQ(told->shards[0].role, "primary");
  EXPECT_EQ(told->shards[0].updates_per_second, 13.5);
  EXPECT_EQ(told->shards[0].links, 14);
  ASSERT_EQ(told->workers.size(), 1u);
  EXPECT_EQ(told->workers[0].who, "worker 7 (node7, pid 4711)");
  EXPECT_EQ(told->workers[0].waits_for, 3);

  const auto checkpoint = client->Checkpoint();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(*checkpoint, "/tmp/step-7");
  const absl::Status promoted = client->Promote(5, Within(seconds(5)));
  EXPECT_TRUE(absl::IsUnavailable(promoted)) << promoted;
  EXPECT_THAT(Message(promoted), AllOf(HasSubstr(served.address()), HasSubstr("shard 5"),
                                       HasSubstr("still hears the primary")));
  EXPECT_TRUE(client->Stop("asked for").ok());
  EXPECT_EQ(served.handler.stopped(), "asked for");
}

TEST(Control, TellsTheHandlersRefusal) {
  Served served;
  served.handler.join_status = InvalidArgument("tensor 3 is 'bias', not 'weight'");
  const auto client = Open(served.address());
  const auto reply = client->Join({}, Ignore, Within(seconds(5)));
  EXPECT_TRUE(absl::IsInvalidArgument(reply.status())) << reply.status();
  EXPECT_THAT(Message(reply.status()),
              AllOf(HasSubstr(served.address()), HasSubstr("'bias', not 'weight'")));
}

// --- Sessions ---

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
  Process process({"attend", served.address(), "30000"});
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
  Process process({"attend", served.address(), "30000"});
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
  Process process({"serve", "30000"});
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
  Process process({"serve", "30000"});
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

// --- Who may come ---

TEST(Control, TurnsAwayAWrongToken) {
  Settings settings = TestSettings();
  settings.token = "right";
  Served served(settings);
  EXPECT_NE(Open(served.address(), settings), nullptr);
  settings.token = "wrong";
  absl::Status status = WhyNot(served.address(), settings);
  EXPECT_TRUE(absl::IsUnauthenticated(status)) << status;
  EXPECT_THAT(Message(status), AllOf(HasSubstr("its token is not the job's"), HasSubstr("--token"),
                                     HasSubstr(served.address())));
  settings.token = "";
  status = WhyNot(served.address(), settings);
  EXPECT_THAT(Message(status), HasSubstr("it sent no token"));
}

TEST(Control, TurnsAwayAnotherJob) {
  Served served;
  Settings settings = TestSettings();
  settings.job_id = "another";
  const absl::Status status = WhyNot(served.address(), settings);
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(Message(status), AllOf(HasSubstr("'another'"), HasSubstr("--job-id")));
}

TEST(Control, TurnsAwayAnotherVersion) {
  Served served;
  grpc::ClientContext context;
  v1::GreetRequest request;
  SetCaller(request.mutable_caller());
  request.mutable_caller()->set_protocol(99);
  v1::Done done;
  const grpc::Status status = served.RawStub()->Greet(&context, request, &done);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), AllOf(HasSubstr("version"), HasSubstr("99")));
}

TEST(Control, SaysThatNobodyListens) {
  int port = 0;
  {
    Served served;
    port = served.server->port();
  }
  const auto start = steady_clock::now();
  const absl::Status status = WhyNot(Address(port), TestSettings(), milliseconds(500));
  EXPECT_LT(steady_clock::now() - start, seconds(3));
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(Message(status), AllOf(HasSubstr(Address(port)), HasSubstr("Connection refused"),
                                     HasSubstr("gradwire ps serve")));
}

TEST(Control, SaysThatARendezvousIsNoServer) {
  RendezvousServer::Options options;
  options.address = "127.0.0.1";
  const auto rendezvous = RendezvousServer::Start(options);
  ASSERT_TRUE(rendezvous.ok()) << rendezvous.status();
  const absl::Status status = WhyNot(Address((*rendezvous)->port()));
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(Message(status), AllOf(HasSubstr("is a rendezvous"), HasSubstr("gradwire ps serve")));
}

TEST(Control, SaysThatAnotherServiceIsNoServer) {
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  const auto queue = builder.AddCompletionQueue();
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  ASSERT_NE(server, nullptr);
  std::thread serving([&queue] {
    void* tag = nullptr;
    bool ok = false;
    while (queue->Next(&tag, &ok)) {
    }
  });
  const absl::Status status = WhyNot(Address(port));
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(Message(status), HasSubstr("is no parameter server"));
  server->Shutdown(std::chrono::system_clock::now());
  queue->Shutdown();
  serving.join();
}

TEST(Control, SaysThatAWebServerIsNoServer) {
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  ASSERT_EQ(bind(listener, reinterpret_cast<sockaddr*>(&address), length), 0);
  ASSERT_EQ(listen(listener, 4), 0);
  ASSERT_EQ(getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length), 0);
  std::thread web([listener] {
    const int fd = accept(listener, nullptr, nullptr);
    const std::string answer = "HTTP/1.1 400 Bad Request\r\n\r\n";
    (void)!write(fd, answer.data(), answer.size());
    char rest[256];
    while (read(fd, rest, sizeof(rest)) > 0) {
    }
    close(fd);
  });
  const absl::Status status = WhyNot(Address(ntohs(address.sin_port)));
  web.join();
  close(listener);
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(Message(status), HasSubstr("parameter server"));
}

TEST(Control, RefusesATakenPort) {
  Served served;
  FakeHandler handler;
  const auto second =
      ControlServer::Start(handler, "127.0.0.1", served.server->port(), TestSettings());
  EXPECT_TRUE(absl::IsAlreadyExists(second.status())) << second.status();
  EXPECT_THAT(Message(second.status()), HasSubstr(std::to_string(served.server->port())));
}

// --- What is not trusted ---

class Hostile : public ::testing::Test {
 protected:
  Hostile() : stub_(served_.RawStub()) {
    grpc::ClientContext context;
    v1::JoinRequest request;
    SetCaller(request.mutable_caller());
    EXPECT_TRUE(stub_->Join(&context, request, &joined_).ok());
    served_.handler.connects = 0;
  }

  grpc::Status Join(const std::function<void(v1::JoinRequest&)>& spoil) {
    grpc::ClientContext context;
    v1::JoinRequest request;
    SetCaller(request.mutable_caller());
    request.set_worker(-1);
    request.set_count(1);
    request.set_server(-1);
    spoil(request);
    v1::JoinReply reply;
    return stub_->Join(&context, request, &reply);
  }

  grpc::Status Connect(const std::function<void(v1::ConnectRequest&)>& spoil) {
    grpc::ClientContext context;
    v1::ConnectRequest request;
    SetCaller(request.mutable_caller());
    request.set_session(joined_.session());
    spoil(request);
    v1::ConnectReply reply;
    return stub_->Connect(&context, request, &reply);
  }

  Served served_;
  std::unique_ptr<v1::ParameterServer::Stub> stub_;
  v1::JoinReply joined_;
};

TEST_F(Hostile, JoinsAreChecked) {
  const size_t before = served_.handler.joins().size();
  const auto refused = [&](const std::function<void(v1::JoinRequest&)>& spoil) {
    return !Join(spoil).ok();
  };
  EXPECT_TRUE(refused([](auto& r) { r.set_count(-1); }));
  EXPECT_TRUE(refused([](auto& r) { r.set_count(int64_t{1} << 40); }));
  EXPECT_TRUE(refused([](auto& r) { r.set_worker(-2); }));
  EXPECT_TRUE(refused([](auto& r) { r.set_worker(std::numeric_limits<int64_t>::max()); }));
  EXPECT_TRUE(refused([](auto& r) { r.set_server(1 << 30); }));
  EXPECT_TRUE(refused([](auto& r) { r.set_host(std::string(1000, 'h')); }));
  EXPECT_TRUE(refused([](auto& r) { r.set_transport(std::string(1000, 't')); }));
  EXPECT_TRUE(refused([](auto& r) { r.mutable_layout()->add_tensors(); }));  // without a name
  EXPECT_TRUE(refused([](auto& r) {
    auto* tensor = r.mutable_layout()->add_tensors();
    tensor->set_name("a");
    tensor->add_shape(-5);
  }));
  EXPECT_TRUE(refused([](auto& r) {
    auto* tensor = r.mutable_layout()->add_tensors();
    tensor->set_name("a");
    tensor->set_type(200);
  }));
  EXPECT_TRUE(refused([](auto& r) {
    auto* tensor = r.mutable_layout()->add_tensors();
    tensor->set_name("a");
    for (int i = 0; i < 1000; ++i) tensor->add_shape(1);
  }));
  EXPECT_TRUE(refused([](auto& r) {
    for (size_t i = 0; i <= Layout::kMaxTensors; ++i) {
      r.mutable_layout()->add_tensors()->set_name(std::to_string(i));
    }
  }));
  EXPECT_EQ(served_.handler.joins().size(), before);
  EXPECT_TRUE(Join([](auto&) {}).ok());
}

TEST_F(Hostile, ConnectionsAreChecked) {
  const auto refused = [&](const std::function<void(v1::ConnectRequest&)>& spoil) {
    return !Connect(spoil).ok();
  };
  EXPECT_TRUE(refused([](auto& r) { r.set_session(r.session() + 1000); }));
  EXPECT_TRUE(refused([](auto& r) { r.set_shard(-1); }));
  EXPECT_TRUE(refused([](auto& r) { r.set_shard(1 << 30); }));
  EXPECT_TRUE(refused([](auto& r) { r.set_worker(-2); }));
  EXPECT_TRUE(refused([](auto& r) { r.set_wire(static_cast<uint32_t>(DataType::kInt64)); }));
  EXPECT_TRUE(refused([](auto& r) { r.set_wire(77); }));
  EXPECT_TRUE(refused([](auto& r) { r.set_facts("\xff\xff\xff"); }));
  EXPECT_TRUE(refused([](auto& r) { r.set_facts(std::string(100'000, 'x')); }));
  EXPECT_TRUE(refused([](auto& r) {
    r.mutable_parameters()->set_address(std::numeric_limits<uint64_t>::max() - 5);
    r.mutable_parameters()->set_length(100);
  }));
  EXPECT_TRUE(refused([](auto& r) { r.mutable_gradients()->set_length(uint64_t{1} << 50); }));
  // What Join alone may send.
  const grpc::Status large = Connect([](auto& r) { r.set_facts(std::string(4 << 20, 'x')); });
  EXPECT_THAT(large.error_message(), HasSubstr("exceeds"));
  EXPECT_EQ(served_.handler.connects, 0);
  EXPECT_TRUE(Connect([](auto&) {}).ok());
}

TEST_F(Hostile, NoCallIsTakenWithoutACaller) {
  grpc::ClientContext context[3];
  v1::StatusRequest status;
  v1::StatusReply reply;
  EXPECT_FALSE(stub_->Status(&context[0], status, &reply).ok());
  v1::StopRequest stop;
  v1::Done done;
  EXPECT_FALSE(stub_->Stop(&context[1], stop, &done).ok());
  EXPECT_EQ(served_.handler.stopped(), "");
  v1::LeaveRequest leave;
  leave.set_session(joined_.session());
  EXPECT_FALSE(stub_->Leave(&context[2], leave, &done).ok());
  EXPECT_TRUE(served_.handler.Endings(1, milliseconds(100)).empty());
}

TEST_F(Hostile, ASessionIsAttendedOnceAndOnlyWhenItStands) {
  const auto attend = [this](grpc::ClientContext& context, int64_t session) {
    auto stream = stub_->Attend(&context);
    v1::Beat beat;
    SetCaller(beat.mutable_caller());
    beat.set_session(session);
    stream->Write(beat);
    return stream;
  };
  v1::Done done;
  grpc::ClientContext first, second, third, fourth;
  const auto attending = attend(first, joined_.session());
  EXPECT_TRUE(attending->Read(&done));
  const auto again = attend(second, joined_.session());
  EXPECT_FALSE(again->Read(&done));
  EXPECT_EQ(again->Finish().error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  const auto unknown = attend(third, 12345);
  EXPECT_FALSE(unknown->Read(&done));
  EXPECT_EQ(unknown->Finish().error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  // A beat of nobody.
  auto nobody = stub_->Attend(&fourth);
  nobody->Write(v1::Beat());
  EXPECT_FALSE(nobody->Read(&done));
  EXPECT_FALSE(nobody->Finish().ok());
  EXPECT_TRUE(served_.handler.Endings(1, milliseconds(100)).empty());
  attending->WritesDone();
  EXPECT_EQ(served_.handler.Endings(1, seconds(5)).size(), 1u);
}

TEST_F(Hostile, GarbageOnThePortHarmsNobody) {
  for (int i = 0; i < 20; ++i) {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(static_cast<uint16_t>(served_.server->port()));
    ASSERT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    std::string garbage(1000, '\0');
    for (size_t at = 0; at < garbage.size(); ++at) {
      garbage[at] = static_cast<char>((at * 131 + static_cast<size_t>(i) * 17) % 251);
    }
    (void)!write(fd, garbage.data(), garbage.size());
    close(fd);
  }
  EXPECT_TRUE(Connect([](auto&) {}).ok());
}

// --- TLS, and how fast it is ---

class Tls : public ::testing::Test {
 protected:
  Tls() {
    const std::string command = fmt::format(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
        "-subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 -keyout {0}/key.pem "
        "-out {0}/cert.pem 2>/dev/null",
        folder_.path().string());
    EXPECT_EQ(std::system(command.c_str()), 0);
    server_.tls_cert = folder_.path() / "cert.pem";
    server_.tls_key = folder_.path() / "key.pem";
    client_.tls_ca = server_.tls_cert;
  }
  training::TemporaryFolder folder_;
  Settings server_ = TestSettings();
  Settings client_ = TestSettings();
};

TEST_F(Tls, CarriesASession) {
  Served served(server_);
  const auto client = Open(served.address(), client_);
  ASSERT_NE(client, nullptr);
  EXPECT_TRUE(client->Join({.layout = SmallLayout()}, Ignore, Within(seconds(5))).ok());
  client->Leave();
  EXPECT_EQ(served.handler.Endings(1, seconds(5)).size(), 1u);
}

TEST_F(Tls, IsSpokenByBothOrRefused) {
  {
    Served served(server_);
    const absl::Status status = WhyNot(served.address());
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(Message(status), HasSubstr("--tls-ca"));
  }
  Served served;
  const absl::Status status = WhyNot(served.address(), client_);
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(Message(status), HasSubstr("does not speak TLS"));
}

// Links per second that the control plane can make; the number stands in the output.
double ConnectRate(const std::string& server, const Settings& settings, int threads, int calls) {
  const auto client = Open(server, settings);
  const auto joined = client->Join({}, Ignore, Within(seconds(5)));
  EXPECT_TRUE(joined.ok()) << joined.status();
  ConnectRequest request;
  request.session = joined->session;
  request.facts.secret = std::string(32, 's');
  request.facts.queue_pairs.resize(1);
  request.facts.grants.resize(2);
  std::atomic<int> left = calls;
  std::atomic<int> failed = 0;
  const auto start = steady_clock::now();
  std::vector<std::thread> callers;
  for (int i = 0; i < threads; ++i) {
    callers.emplace_back([&] {
      while (left-- > 0) failed += !client->Connect(request, Within(seconds(10))).ok();
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(failed, 0);
  return calls / std::chrono::duration<double>(steady_clock::now() - start).count();
}

TEST_F(Tls, LinksAreMadeFast) {
  for (const bool tls : {false, true}) {
    Served served(tls ? server_ : TestSettings());
    served.handler.connect_reply.facts.queue_pairs.resize(1);
    for (const int threads : {1, 16}) {
      const double rate =
          ConnectRate(served.address(), tls ? client_ : TestSettings(), threads, 2000);
      fmt::print("connect: {:.0f}/s, {} in flight, TLS {}\n", rate, threads, tls ? "on" : "off");
      EXPECT_GT(rate, 200);
    }
    // A process of its own for each: connection, greeting, joining, first beat.
    const auto start = steady_clock::now();
    for (int i = 0; i < 50; ++i) {
      const auto client = Open(served.address(), tls ? client_ : TestSettings());
      ASSERT_TRUE(client->Join({}, Ignore, Within(seconds(5))).ok());
    }
    const double taken = std::chrono::duration<double>(steady_clock::now() - start).count();
    fmt::print("sessions: {:.0f}/s one after another, TLS {}\n", 50 / taken, tls ? "on" : "off");
  }
}

}  // namespace
}  // namespace gradwire::ps
