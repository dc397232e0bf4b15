// Ranks for tests: threads that join one world, and the ports they meet at.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "transport/bootstrap/rendezvous_server.h"
#include "transport/bootstrap/world.h"
#include "transport/settings.h"

namespace gradwire::testing {

// A TCP port that nobody listens on at the moment.
int FreePort();

// Settings with deadlines short enough for a test that fails.
Settings TestSettings();

LaunchPlace PlaceOf(int rank, int world_size, int port, bool hosted);

// Joins all ranks at once, each on a thread of its own; worlds are in the order of ranks. A failure
// to join fails the test.
std::vector<std::unique_ptr<World>> JoinAll(int world_size, int port, bool hosted,
                                            const Settings& settings);

// Runs `body` for each world on a thread of its own.
void OnEachRank(const std::vector<std::unique_ptr<World>>& worlds,
                const std::function<void(World&)>& body);

// Parts all ranks at once: rank 0 waits for the others when it hosts.
void LeaveAll(const std::vector<std::unique_ptr<World>>& worlds);

// A standing rendezvous on a free port of the loopback.
std::unique_ptr<RendezvousServer> StandingServer(RendezvousServer::Options options = {});

}  // namespace gradwire::testing
