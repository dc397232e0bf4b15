#include <arpa/inet.h>
#include <grpcpp/grpcpp.h>
#include <netinet/in.h>
#include <openssl/crypto.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <unistd.h>

#include <utility>

#include "transport/bootstrap/service_internal.h"

namespace gradwire::internal {
namespace {

// Whether `port` of `address` (numeric; empty: all) can be listened on: gRPC itself tells only its
// log why not.
absl::Status CheckPort(std::string_view service, const std::string& address, int port,
                       std::string_view remedy) {
  if (port < 0 || port > 65535) {
    return InvalidArgument("{}: port {} is not in 0..65535", service, port);
  }
  sockaddr_storage storage{};
  socklen_t length = 0;
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&storage);
  auto* v4 = reinterpret_cast<sockaddr_in*>(&storage);
  if (address.empty() || inet_pton(AF_INET6, address.c_str(), &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(static_cast<uint16_t>(port));
    length = sizeof(*v6);
  } else if (inet_pton(AF_INET, address.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(static_cast<uint16_t>(port));
    length = sizeof(*v4);
  } else {
    return InvalidArgument("{}: '{}' is not a numeric address to listen on", service, address);
  }
  int fd = socket(storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 && address.empty()) {  // a kernel without IPv6
    storage = {};
    v4->sin_family = AF_INET;
    v4->sin_port = htons(static_cast<uint16_t>(port));
    length = sizeof(*v4);
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  }
  if (fd < 0) return ErrnoError(errno, "{}: no socket", service);
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  const bool bound =
      bind(fd, reinterpret_cast<sockaddr*>(&storage), length) == 0 && listen(fd, 1) == 0;
  const int error = errno;
  close(fd);
  if (bound) return absl::OkStatus();
  if (error == EADDRINUSE) {
    return MakeError(absl::StatusCode::kAlreadyExists,
                     "{}: port {} is taken on this host, perhaps by another job; choose another {}",
                     service, port, remedy);
  }
  return ErrnoError(error, "{}: cannot listen on {} port {}", service,
                    address.empty() ? "any address," : address, port);
}

// Where to listen, in gRPC's form: "[::]:4000".
std::string ListenTarget(const std::string& address, int port) {
  const std::string where = address.empty() ? "::" : address;
  return where.find(':') == std::string::npos ? fmt::format("{}:{}", where, port)
                                              : fmt::format("[{}]:{}", where, port);
}

bool IsLoopback(const std::string& address) {
  return address == "::1" || address.rfind("127.", 0) == 0;
}

}  // namespace

absl::StatusOr<Listening> Listen(grpc::Service& service, const ListenOptions& options) {
  GW_ASSIGN_OR_RETURN(auto credentials, ServerCredentials(options.tls));
  GW_RETURN_IF_ERROR(CheckPort(options.name, options.address, options.port, options.port_setting));
  const std::string target = ListenTarget(options.address, options.port);
  Listening listening;
  grpc::ServerBuilder builder;
  builder.AddListeningPort(target, credentials, &listening.port);
  builder.RegisterService(&service);
  builder.SetMaxReceiveMessageSize(options.max_message_bytes);
  // gRPC's default lets a second server share the port silently and take half of the callers.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.max_streams);
  listening.queue = builder.AddCompletionQueue();
  listening.server = builder.BuildAndStart();
  if (listening.server == nullptr || listening.port == 0) {
    // Queues are shut down and drained before they are destroyed.
    if (listening.server != nullptr) listening.server->Shutdown(std::chrono::system_clock::now());
    listening.queue->Shutdown();
    void* tag = nullptr;
    bool ok = false;
    while (listening.queue->Next(&tag, &ok)) {
    }
    return Unavailable("{}: cannot listen on {}; was the port taken a moment ago?", options.name,
                       target);
  }
  if (options.tls.cert.empty() && !IsLoopback(options.address)) {
    spdlog::warn(
        "{} on port {} is open to the network without TLS: anyone who reaches it can read the "
        "job's token; give --tls-cert and --tls-key, and --tls-ca for mutual TLS",
        options.name, listening.port);
  }
  return listening;
}

bool SameSecret(const std::string& a, const std::string& b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

std::string_view WrongToken(const std::string& sent, const std::string& wanted) {
  if (wanted.empty()) return "it sent a token, but the job has none";
  if (sent.empty()) return "it sent no token, but the job wants one";
  return "its token is not the job's";
}

}  // namespace gradwire::internal
