// Credentials and channel settings of the control plane.
#pragma once

#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <memory>
#include <string>

#include "transport/bootstrap/limits_internal.h"
#include "transport/status.h"

namespace gradwire::internal {

// Paths of PEM files as settings name them; empty: not given.
struct TlsFiles {
  std::string ca;
  std::string cert;
  std::string key;
};

// Plain text without a certificate, server TLS with one, mutual TLS with a CA besides. Files are
// read and checked here; InvalidArgument names the one that is wrong.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> ServerCredentials(const TlsFiles& files);

// Plain text without a CA. With one the server must show a certificate that it signed, and ours is
// shown to it when there is one.
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> ClientCredentials(const TlsFiles& files);

// Messages of at most `max_message_bytes`, no proxy, a connection of its own for each world.
grpc::ChannelArguments ChannelArguments(int max_message_bytes = 4 * kMaxMessageBytes);

}  // namespace gradwire::internal
