// The rendezvous: the service at which the ranks of a job find each other and hear of failures.
// Rank 0 hosts one for its own job; `gradwire rendezvous` runs one that stands by itself and serves
// jobs by their id, several at once, each id anew once all ranks of its job are gone.
//
// TLS. A certificate and key turn it on; a CA besides makes it mutual: ranks must then show a
// certificate that this CA signed. Without TLS on an address that is not loopback, one warning is
// logged.
//
// Threads. All methods may be called from any thread; one thread inside serves all ranks.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "transport/settings.h"
#include "transport/status.h"

namespace gradwire {

namespace internal {
struct ServerAccess;
}

class RendezvousServer {
 public:
  struct Options {
    // Numeric address to listen on; empty: all, IPv6 and IPv4.
    std::string address;
    int port = 0;  // 0: any free one, see port()
    // The token that every rank must show. A standing server without one takes the token of a job's
    // first rank for that job.
    std::string token;
    std::string tls_ca;
    std::string tls_cert;
    std::string tls_key;
    // Hosted by rank 0: this job alone, of this size, is served. Empty: any job.
    std::string only_job;
    int world_size = 0;
  };

  // The part of `settings` that concerns a server.
  static Options OptionsFrom(const Settings& settings);

  // AlreadyExists when the port is taken, InvalidArgument for bad PEM files or addresses.
  static absl::StatusOr<std::unique_ptr<RendezvousServer>> Start(const Options& options);

  // Stops at once unless Stop() was called before.
  ~RendezvousServer();

  int port() const;

  // Waits up to `grace` for all ranks to leave, then tells those that have not and goes down.
  void Stop(std::chrono::milliseconds grace);

 private:
  friend struct internal::ServerAccess;
  class Impl;
  explicit RendezvousServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace gradwire
