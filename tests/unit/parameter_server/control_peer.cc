// A process for control_test to kill and to stop: a session at a server, or a server. It prints a
// line when it stands, and then what it hears; it ends when its standard input does.
//
//   control_peer attend HOST:PORT TIMEOUT_MS | control_peer serve TIMEOUT_MS
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tests/unit/parameter_server/control_fakes.h"

namespace gradwire::ps {
namespace {

void Say(const std::string& line) {
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

void AwaitEnd() {
  char byte = 0;
  while (read(STDIN_FILENO, &byte, 1) > 0) {
  }
}

int Attend(const std::string& server, const Settings& settings) {
  const auto client =
      ControlClient::Open(server, settings, testing::Within(std::chrono::seconds(10)));
  if (!client.ok()) return Say(Message(client.status())), 1;
  const auto joined = (*client)->Join(
      JoinRequest{}, [](const absl::Status& lost) { Say("lost: " + Message(lost)); },
      testing::Within(std::chrono::seconds(10)));
  if (!joined.ok()) return Say(Message(joined.status())), 1;
  Say(fmt::format("session {}", joined->session));
  AwaitEnd();
  return 0;
}

int Serve(const Settings& settings) {
  testing::FakeHandler handler;
  const auto server = ControlServer::Start(handler, "127.0.0.1", 0, settings);
  if (!server.ok()) return Say(Message(server.status())), 1;
  Say(fmt::format("127.0.0.1:{}", (*server)->port()));
  AwaitEnd();
  return 0;
}

}  // namespace
}  // namespace gradwire::ps

int main(int argc, char** argv) {
  gradwire::Settings settings = gradwire::ps::testing::TestSettings();
  settings.heartbeat_timeout = std::chrono::milliseconds(std::atoi(argv[argc - 1]));
  if (argc == 4 && std::strcmp(argv[1], "attend") == 0) {
    return gradwire::ps::Attend(argv[2], settings);
  }
  return gradwire::ps::Serve(settings);
}
