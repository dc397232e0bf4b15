// Messages of the control plane as the values of control.h and back, and their bounds. Everything
// that arrives is checked here, before a handler or a caller sees it.
#pragma once

#include <grpcpp/support/status.h>

#include <chrono>
#include <string>

#include "gradwire/v1/parameter_server.pb.h"
#include "parameter_server/control.h"
#include "transport/settings.h"
#include "transport/status.h"

namespace gradwire::ps::internal {

// Version of the messages; both sides must agree.
inline constexpr uint32_t kProtocol = 1;

inline constexpr int kMaxServers = 4096;
inline constexpr int kMaxShardsPerServer = 64;
inline constexpr int kMaxShards = kMaxServers * kMaxShardsPerServer;
inline constexpr int64_t kMaxWorkersPerSession = 1 << 16;
inline constexpr int kMaxDimensions = 32;
// Links of one end in messages of its facts: queue pairs, addresses, grants.
inline constexpr size_t kMaxFactsBytes = 64 << 10;
// Of 65,536 tensors with long names; every other call is far smaller.
inline constexpr int kMaxJoinBytes = 32 << 20;
inline constexpr size_t kMaxCallBytes = 256 << 10;
inline constexpr int kMaxStatusWorkers = 20'000;  // in one reply

// A session whose process does not attend within this time ends.
inline constexpr std::chrono::seconds kAttendPatience{10};

void SetCaller(const Settings& settings, v1::Caller* caller);
// Whether a caller belongs to the server with `settings`.
absl::Status CheckCaller(const v1::Caller& caller, const Settings& settings);

void ToProto(const JoinRequest& from, v1::JoinRequest* to);
void ToProto(const JoinReply& from, v1::JoinReply* to);
void ToProto(const ConnectRequest& from, v1::ConnectRequest* to);
void ToProto(const ConnectReply& from, v1::ConnectReply* to);
void ToProto(const ServerStatus& from, v1::StatusReply* to);

absl::StatusOr<JoinRequest> FromProto(const v1::JoinRequest& from);
absl::StatusOr<JoinReply> FromProto(const v1::JoinReply& from);
absl::StatusOr<ConnectRequest> FromProto(const v1::ConnectRequest& from);
absl::StatusOr<ConnectReply> FromProto(const v1::ConnectReply& from);
absl::StatusOr<ServerStatus> FromProto(const v1::StatusReply& from);

// A server's own words, told from what gRPC says of a connection by a mark in the details.
grpc::Status ToGrpc(const absl::Status& status);
bool IsOurs(const grpc::Status& status);
absl::Status FromGrpc(const grpc::Status& status);

}  // namespace gradwire::ps::internal
