// Finds out whether, and if not why, a server of the control plane can be reached: name,
// connection, TLS, and whether what answers speaks HTTP/2. gRPC itself would only say that it is
// unavailable.
#pragma once

#include <chrono>
#include <string>
#include <string_view>

#include "transport/bootstrap/tls_internal.h"
#include "transport/status.h"

namespace gradwire::internal {

// How messages call the server.
struct ServiceName {
  std::string_view name = "rendezvous";
  std::string_view remedy = "is rank 0 (or `gradwire rendezvous`) running there";
};

// Tries until `deadline`; returns the address that answered, as gRPC's target
// ("ipv4:10.0.0.1:29500"). What waiting cannot mend ends it at once: Unauthenticated for a
// certificate that fails (ours or the server's), FailedPrecondition when the other side speaks
// something else. DeadlineExceeded names the last trouble.
absl::StatusOr<std::string> Reach(const std::string& host, int port, const TlsFiles& files,
                                  std::chrono::steady_clock::time_point deadline,
                                  const ServiceName& service = {});

}  // namespace gradwire::internal
