// A rank's side of its call to the rendezvous: the World that JoinWorld() returns.
//
// One thread of its own takes every event of the call, sends heartbeats and hears of failures;
// callers only queue messages and wait on a condition variable.
#pragma once

#include <grpcpp/channel.h>

#include <chrono>
#include <memory>
#include <string>

#include "gradwire/v1/rendezvous.pb.h"
#include "transport/bootstrap/rendezvous_server.h"
#include "transport/bootstrap/world.h"

namespace gradwire::internal {

struct Membership {
  std::string local_address;  // numeric, on the way to the rendezvous
  std::shared_ptr<grpc::Channel> channel;
  v1::Join join;
  std::string rendezvous;  // "host:port", for messages
  std::chrono::milliseconds heartbeat_interval{500};
  // Rank 0's when it hosts, else null. The world takes it and stops it after this rank has left.
  std::unique_ptr<RendezvousServer> server;
};

// Joins over `channel` and waits for all ranks. Unavailable when the connection breaks before the
// server has decided; every other error is the server's decision.
absl::StatusOr<std::unique_ptr<World>> Attend(Membership membership);

}  // namespace gradwire::internal
