#include "tests/unit/bootstrap/ranks.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>
#include <utility>

namespace gradwire::testing {

int FreePort() {
  const int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in6 address{};
  address.sin6_family = AF_INET6;
  socklen_t length = sizeof(address);
  EXPECT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), length), 0);
  EXPECT_EQ(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length), 0);
  close(fd);
  return ntohs(address.sin6_port);
}

Settings TestSettings() {
  Settings settings;
  settings.job_id = "test";
  settings.join_timeout = std::chrono::seconds(20);
  settings.heartbeat_interval = std::chrono::milliseconds(100);
  return settings;
}

LaunchPlace PlaceOf(int rank, int world_size, int port, bool hosted) {
  LaunchPlace place;
  place.rank = rank;
  place.world_size = world_size;
  place.rendezvous_host = "127.0.0.1";
  place.rendezvous_port = port;
  place.hosts_rendezvous = hosted;
  return place;
}

std::vector<std::unique_ptr<World>> JoinAll(int world_size, int port, bool hosted,
                                            const Settings& settings) {
  std::vector<std::unique_ptr<World>> worlds(static_cast<size_t>(world_size));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < world_size; ++rank) {
    threads.emplace_back([&, rank] {
      auto world = JoinWorld(PlaceOf(rank, world_size, port, hosted), settings);
      ASSERT_TRUE(world.ok()) << "rank " << rank << ": " << Message(world.status());
      worlds[static_cast<size_t>(rank)] = *std::move(world);
    });
  }
  for (std::thread& thread : threads) thread.join();
  if (::testing::Test::HasFatalFailure()) worlds.clear();
  return worlds;
}

void OnEachRank(const std::vector<std::unique_ptr<World>>& worlds,
                const std::function<void(World&)>& body) {
  std::vector<std::thread> threads;
  for (const auto& world : worlds) threads.emplace_back([&] { body(*world); });
  for (std::thread& thread : threads) thread.join();
}

void LeaveAll(const std::vector<std::unique_ptr<World>>& worlds) {
  OnEachRank(worlds, [](World& world) {
    const absl::Status left = world.Leave("");
    EXPECT_TRUE(left.ok()) << world.rank() << ": " << Message(left);
  });
}

std::unique_ptr<RendezvousServer> StandingServer(RendezvousServer::Options options) {
  options.address = "127.0.0.1";
  auto server = RendezvousServer::Start(options);
  EXPECT_TRUE(server.ok()) << Message(server.status());
  return server.ok() ? *std::move(server) : nullptr;
}

}  // namespace gradwire::testing
