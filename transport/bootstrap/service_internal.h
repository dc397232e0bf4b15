// What every service of the control plane does before it listens, and with what it is sent.
#pragma once

#include <grpcpp/completion_queue.h>
#include <grpcpp/server.h>

#include <memory>
#include <string>
#include <string_view>

#include "transport/bootstrap/tls_internal.h"
#include "transport/status.h"

namespace gradwire::internal {

struct ListenOptions {
  std::string_view name;          // begins every message: "rendezvous"
  std::string address;            // numeric; empty: all, IPv6 and IPv4
  int port = 0;                   // 0: any free one
  std::string_view port_setting;  // what the user chooses another port with
  TlsFiles tls;
  int max_message_bytes = 0;
  int max_streams = 0;  // calls of one connection
};
// A server that listens, and the queue with the events of its calls. The server goes first.
struct Listening {
  int port = 0;
  std::unique_ptr<grpc::ServerCompletionQueue> queue;
  std::unique_ptr<grpc::Server> server;
};

// Starts a server of `service` alone. AlreadyExists when the port is taken, InvalidArgument for bad
// PEM files or addresses. Logs one warning when it is open to the network without TLS.
absl::StatusOr<Listening> Listen(grpc::Service& service, const ListenOptions& options);

// Compares in a time that does not tell how much is right.
bool SameSecret(const std::string& a, const std::string& b);

// Why a call whose token is not `wanted` is turned away: "it sent no token, but the job wants one".
std::string_view WrongToken(const std::string& sent, const std::string& wanted);

}  // namespace gradwire::internal
