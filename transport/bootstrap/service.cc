#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/crypto.h>
#include <sys/socket.h>
#include <unistd.h>

#include "transport/bootstrap/service_internal.h"

namespace gradwire::internal {

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

std::string ListenTarget(const std::string& address, int port) {
  const std::string where = address.empty() ? "::" : address;
  return where.find(':') == std::string::npos ? fmt::format("{}:{}", where, port)
                                              : fmt::format("[{}]:{}", where, port);
}

bool IsLoopback(const std::string& address) {
  return address == "::1" || address.rfind("127.", 0) == 0;
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
