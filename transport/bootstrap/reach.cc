#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "transport/bootstrap/limits_internal.h"
#include "transport/bootstrap/reach_internal.h"

namespace gradwire::internal {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using Time = steady_clock::time_point;

// The longest that one attempt waits for a connection, a handshake or a first answer.
constexpr milliseconds kAttempt{3000};
// Between rounds; doubled up to the longest.
constexpr milliseconds kFirstPause{10};
constexpr milliseconds kLongestPause{320};
constexpr size_t kMaxAddresses = 16;

// HTTP/2's client preface (RFC 9113, 3.4) with an empty SETTINGS frame: a server answers with its
// own SETTINGS.
constexpr std::string_view kPreface("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", 33);
constexpr size_t kFrameHeaderBytes = 9;
constexpr char kSettingsFrame = 4;

class Socket {
 public:
  explicit Socket(int fd) : fd_(fd) {}
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  ~Socket() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

// OpenSSL writes to sockets without MSG_NOSIGNAL: a server that hangs up must not end the program.
// Blocks SIGPIPE on this thread, and takes back one that was raised meanwhile.
class NoBrokenPipe {
 public:
  NoBrokenPipe() {
    sigset_t pending;
    sigpending(&pending);
    was_pending_ = sigismember(&pending, SIGPIPE) == 1;
    sigemptyset(&pipe_);
    sigaddset(&pipe_, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
  }
  NoBrokenPipe(const NoBrokenPipe&) = delete;
  NoBrokenPipe& operator=(const NoBrokenPipe&) = delete;
  ~NoBrokenPipe() {
    const timespec now{};
    while (!was_pending_ && sigtimedwait(&pipe_, nullptr, &now) < 0 && errno == EINTR) {
    }
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }

 private:
  sigset_t pipe_{};
  sigset_t before_{};
  bool was_pending_ = false;
};

struct Address {
  sockaddr_storage storage{};
  socklen_t length = 0;

  std::string target() const {
    char host[NI_MAXHOST] = "?";
    char port[NI_MAXSERV] = "?";
    getnameinfo(reinterpret_cast<const sockaddr*>(&storage), length, host, sizeof(host), port,
                sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV);
    if (storage.ss_family != AF_INET6) return fmt::format("ipv4:{}:{}", host, port);
    // gRPC wants the zone's % escaped, as in a URI.
    std::string escaped(host);
    if (const size_t zone = escaped.find('%'); zone != std::string::npos) {
      escaped.replace(zone, 1, "%25");
    }
    return fmt::format("ipv6:[{}]:{}", escaped, port);
  }
};

// The addresses of `host`. The resolver cannot be interrupted, so it runs on a thread that is left
// behind when it takes too long.
absl::StatusOr<std::vector<Address>> Resolve(const std::string& host, int port, Time deadline) {
  struct Lookup {
    std::mutex mutex;
    std::condition_variable done_signal;
    bool done = false;
    int error = 0;
    std::vector<Address> addresses;
  };
  auto lookup = std::make_shared<Lookup>();
  std::thread([lookup, host, service = std::to_string(port)] {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_NUMERICSERV;
    addrinfo* list = nullptr;
    const int error = getaddrinfo(host.c_str(), service.c_str(), &hints, &list);
    std::lock_guard lock(lookup->mutex);
    for (addrinfo* entry = list; error == 0 && entry != nullptr; entry = entry->ai_next) {
      if (lookup->addresses.size() == kMaxAddresses) break;
      if (entry->ai_addrlen > sizeof(sockaddr_storage)) continue;
      Address address;
      std::copy_n(reinterpret_cast<const char*>(entry->ai_addr), entry->ai_addrlen,
                  reinterpret_cast<char*>(&address.storage));
      address.length = entry->ai_addrlen;
      lookup->addresses.push_back(address);
    }
    if (list != nullptr) freeaddrinfo(list);
    lookup->error = error;
    lookup->done = true;
    lookup->done_signal.notify_all();
  }).detach();

  std::unique_lock lock(lookup->mutex);
  if (!lookup->done_signal.wait_until(lock, deadline, [&] { return lookup->done; })) {
    return Unavailable("the name '{}' was not resolved in time", host);
  }
  if (lookup->error != 0) {
    return Unavailable("the name '{}' cannot be resolved: {}", host, gai_strerror(lookup->error));
  }
  return lookup->addresses;
}

bool WaitFor(int fd, short events, Time deadline) {
  while (true) {
    const auto left =
        std::chrono::duration_cast<milliseconds>(deadline - steady_clock::now()).count();
    pollfd entry{fd, events, 0};
    const int ready = poll(&entry, 1, static_cast<int>(std::max<int64_t>(left, 0)));
    if (ready > 0) return true;
    if (ready == 0 || errno != EINTR) return false;
  }
}

// What a server that is going down does, and one with TLS that is spoken to in plain text.
absl::Status HungUp() {
  return MakeError(absl::StatusCode::kAborted, "it closed the connection without an answer");
}

// Reads the first frame's header, or what the other side sends instead.
template <typename ReadSome>
absl::StatusOr<std::string> ReadHeader(int fd, Time deadline, ReadSome read_some) {
  std::string header;
  std::array<char, kFrameHeaderBytes> buffer{};
  while (header.size() < kFrameHeaderBytes) {
    // Returns bytes read, 0 at the end, -1 to wait; an error otherwise.
    absl::StatusOr<int> count = read_some(buffer.data(), kFrameHeaderBytes - header.size());
    if (!count.ok()) return count.status();
    if (*count == 0) return HungUp();
    if (*count > 0) {
      header.append(buffer.data(), static_cast<size_t>(*count));
      if (header[0] == 0x15) break;  // a TLS alert, shorter than a frame's header
    } else if (!WaitFor(fd, POLLIN, deadline)) {
      return Unavailable("it accepts connections but does not answer");
    }
  }
  return header;
}

absl::Status WantsTls() {
  return FailedPrecondition("it wants TLS; give --tls-ca, and --tls-cert and --tls-key if mutual");
}

absl::Status CheckHeader(const std::string& header) {
  if (header.size() == kFrameHeaderBytes && header[3] == kSettingsFrame) return absl::OkStatus();
  if (header.rfind("\x15\x03", 0) == 0) {
    return WantsTls();
  }
  return FailedPrecondition(
      "what listens there is no rendezvous or parameter server (it answered '{}')",
      OneLine(header));
}

absl::Status GreetPlain(int fd, Time deadline) {
  if (send(fd, kPreface.data(), kPreface.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(kPreface.size())) {
    return Unavailable("it closed the connection at once");
  }
  GW_ASSIGN_OR_RETURN(const std::string header,
                      ReadHeader(fd, deadline, [fd](char* to, size_t size) -> absl::StatusOr<int> {
                        const ssize_t count = recv(fd, to, size, 0);
                        if (count >= 0) return static_cast<int>(count);
                        if (errno == EAGAIN || errno == EINTR) return -1;
                        return ErrnoError(errno, "it broke the connection");
                      }));
  return CheckHeader(header);
}

// What OpenSSL says about a failed handshake. Certain: no later attempt will fare better.
absl::Status TlsError(SSL* ssl, int result, const std::string& host) {
  const int error = SSL_get_error(ssl, result);
  const long verification = SSL_get_verify_result(ssl);
  if (verification != X509_V_OK) {
    const char* why = X509_verify_cert_error_string(verification);
    const bool name = verification == X509_V_ERR_HOSTNAME_MISMATCH ||
                      verification == X509_V_ERR_IP_ADDRESS_MISMATCH;
    ERR_clear_error();
    return MakeError(absl::StatusCode::kUnauthenticated, "its certificate was not accepted: {}{}",
                     why,
                     name ? fmt::format("; it must carry '{}' as a subject alternative name", host)
                          : "; check --tls-ca against the server's --tls-cert");
  }
  if (error != SSL_ERROR_SSL) {
    ERR_clear_error();
    return Unavailable("it closed the connection during the TLS handshake");
  }
  const unsigned long code = ERR_peek_last_error();
  const char* reason = ERR_reason_error_string(code);
  ERR_clear_error();
  if (ERR_GET_REASON(code) == SSL_R_WRONG_VERSION_NUMBER ||
      ERR_GET_REASON(code) == SSL_R_PACKET_LENGTH_TOO_LONG) {
    return FailedPrecondition("it does not speak TLS; start it with --tls-cert and --tls-key");
  }
  return MakeError(absl::StatusCode::kUnauthenticated,
                   "the TLS handshake failed: {}; if it wants client certificates, give --tls-cert "
                   "and --tls-key signed by its CA, within their dates",
                   reason != nullptr ? reason : "unknown reason");
}

// Without a CA it accepts any certificate: that only finds out whether TLS is spoken at all.
absl::StatusOr<std::shared_ptr<SSL_CTX>> MakeContext(const TlsFiles& files) {
  std::shared_ptr<SSL_CTX> context(SSL_CTX_new(TLS_client_method()), SSL_CTX_free);
  if (context == nullptr) return InternalError("OpenSSL has no memory for a context");
  bool good = SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION) == 1;
  if (!files.ca.empty()) {
    good = good && SSL_CTX_load_verify_locations(context.get(), files.ca.c_str(), nullptr) == 1;
    SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
  }
  if (!files.cert.empty()) {
    good = good && SSL_CTX_use_certificate_chain_file(context.get(), files.cert.c_str()) == 1 &&
           SSL_CTX_use_PrivateKey_file(context.get(), files.key.c_str(), SSL_FILETYPE_PEM) == 1;
  }
  ERR_clear_error();
  if (!good) {
    return InvalidArgument("--tls-ca {}, --tls-cert {} or --tls-key {} cannot be used", files.ca,
                           files.cert, files.key);
  }
  constexpr unsigned char kHttp2[] = {2, 'h', '2'};
  SSL_CTX_set_alpn_protos(context.get(), kHttp2, sizeof(kHttp2));
  return context;
}

absl::Status GreetTls(int fd, SSL_CTX* context, const std::string& host, Time deadline) {
  const NoBrokenPipe guard;
  const std::unique_ptr<SSL, decltype(&SSL_free)> ssl(SSL_new(context), SSL_free);
  if (ssl == nullptr || SSL_set_fd(ssl.get(), fd) != 1) {
    return InternalError("OpenSSL has no memory for a connection");
  }
  unsigned char numeric[16];
  if (inet_pton(AF_INET, host.c_str(), numeric) == 1 ||
      inet_pton(AF_INET6, host.c_str(), numeric) == 1) {
    X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl.get()), host.c_str());
  } else {
    SSL_set1_host(ssl.get(), host.c_str());
    SSL_set_tlsext_host_name(ssl.get(), host.c_str());
  }
  while (true) {
    ERR_clear_error();
    const int result = SSL_connect(ssl.get());
    if (result == 1) break;
    const int error = SSL_get_error(ssl.get(), result);
    if (error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE) {
      return TlsError(ssl.get(), result, host);
    }
    if (!WaitFor(fd, error == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT, deadline)) {
      return Unavailable("it does not answer the TLS handshake");
    }
  }
  // With TLS 1.3 a server refuses our certificate only after our side of the handshake is done.
  ERR_clear_error();
  SSL_write(ssl.get(), kPreface.data(), static_cast<int>(kPreface.size()));
  GW_ASSIGN_OR_RETURN(const std::string header,
                      ReadHeader(fd, deadline, [&](char* to, size_t size) -> absl::StatusOr<int> {
                        ERR_clear_error();
                        const int count = SSL_read(ssl.get(), to, static_cast<int>(size));
                        if (count > 0) return count;
                        const int error = SSL_get_error(ssl.get(), count);
                        if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE)
                          return -1;
                        if (error == SSL_ERROR_ZERO_RETURN) return 0;
                        return TlsError(ssl.get(), count, host);
                      }));
  return CheckHeader(header);
}

absl::Status Greet(const Address& address, SSL_CTX* context, const std::string& host,
                   Time deadline) {
  const Socket socket(
      ::socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (socket.get() < 0) return ErrnoError(errno, "no socket");
  if (connect(socket.get(), reinterpret_cast<const sockaddr*>(&address.storage), address.length) !=
      0) {
    int error = errno;
    if (error == EINPROGRESS) {
      if (!WaitFor(socket.get(), POLLOUT, deadline)) return Unavailable("it does not answer");
      socklen_t length = sizeof(error);
      getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &length);
    }
    if (error != 0) return ErrnoError(error, "cannot connect");
  }
  return context == nullptr ? GreetPlain(socket.get(), deadline)
                            : GreetTls(socket.get(), context, host, deadline);
}

bool SpeaksTls(const Address& address, const std::string& host, Time deadline) {
  const auto context = MakeContext({});
  if (!context.ok()) return false;
  const absl::Status greeted = Greet(address, context->get(), host, deadline);
  return greeted.ok() || greeted.code() == absl::StatusCode::kUnauthenticated;
}

bool Certain(const absl::Status& status) {
  return status.code() == absl::StatusCode::kUnauthenticated ||
         status.code() == absl::StatusCode::kFailedPrecondition ||
         status.code() == absl::StatusCode::kInvalidArgument ||
         status.code() == absl::StatusCode::kInternal;
}

}  // namespace

absl::StatusOr<std::string> Reach(const std::string& host, int port, const TlsFiles& files,
                                  Time deadline, const ServiceName& service) {
  std::shared_ptr<SSL_CTX> context;
  if (!files.ca.empty()) {
    GW_ASSIGN_OR_RETURN(context, MakeContext(files));
  }
  const std::string where = fmt::format("{} {}:{}", service.name, host, port);
  absl::Status last;
  milliseconds pause = kFirstPause;
  do {
    const absl::StatusOr<std::vector<Address>> addresses = Resolve(host, port, deadline);
    last = addresses.status();
    for (size_t i = 0; addresses.ok() && i < addresses->size(); ++i) {
      const Time patience = std::min(deadline, steady_clock::now() + kAttempt);
      last = Greet((*addresses)[i], context.get(), host, patience);
      if (last.ok()) return (*addresses)[i].target();
      if (context == nullptr && last.code() == absl::StatusCode::kAborted &&
          SpeaksTls((*addresses)[i], host, patience)) {
        last = WantsTls();
      }
      if (Certain(last)) return Annotate(last, where);
    }
    std::this_thread::sleep_until(std::min(deadline, steady_clock::now() + pause));
    pause = std::min(2 * pause, kLongestPause);
  } while (steady_clock::now() < deadline);
  return DeadlineExceeded("{} was never reached: {}; {}, and the port open?", where, Message(last),
                          service.remedy);
}

}  // namespace gradwire::internal
