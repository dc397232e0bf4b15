// What rank 0 needs of the server that it hosts: a way in that takes no port, name or certificate.
#pragma once

#include <grpcpp/channel.h>

#include <memory>

#include "transport/bootstrap/rendezvous_server.h"

namespace gradwire::internal {

struct ServerAccess {
  static std::shared_ptr<grpc::Channel> InProcessChannel(RendezvousServer& server);
};

}  // namespace gradwire::internal
