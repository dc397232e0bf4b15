// Who may call, what callers are told that have come to the wrong place, and TLS.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <thread>

#include "tests/unit/parameter_server/control_served.h"
#include "tests/unit/training/temporary_folder.h"
#include "transport/bootstrap/rendezvous_server.h"

namespace gradwire::ps {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;
using testing::Address;
using ::testing::AllOf;
using testing::FakeHandler;
using ::testing::HasSubstr;
using testing::Ignore;
using testing::Open;
using testing::Served;
using testing::SetCaller;
using testing::SmallLayout;
using testing::TestSettings;
using testing::WhyNot;
using testing::Within;

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
