// What every service of the control plane does before it listens, and with what it is sent.
#pragma once

#include <string>
#include <string_view>

#include "transport/status.h"

namespace gradwire::internal {

// Whether `port` of `address` (numeric; empty: all) can be listened on: gRPC itself tells only its
// log why not. `service` begins the message; AlreadyExists when the port is taken, with `remedy`.
absl::Status CheckPort(std::string_view service, const std::string& address, int port,
                       std::string_view remedy);

// Where to listen, in gRPC's form: "[::]:4000".
std::string ListenTarget(const std::string& address, int port);

bool IsLoopback(const std::string& address);

// Compares in a time that does not tell how much is right.
bool SameSecret(const std::string& a, const std::string& b);

// Why a call whose token is not `wanted` is turned away: "it sent no token, but the job wants one".
std::string_view WrongToken(const std::string& sent, const std::string& wanted);

}  // namespace gradwire::internal
