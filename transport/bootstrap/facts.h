// ConnectionFacts as bytes, for messages of the control plane (gradwire/v1/facts.proto).
#pragma once

#include <string>

#include "transport/connection_facts.h"
#include "transport/status.h"

namespace gradwire {

std::string SerializeFacts(const ConnectionFacts& facts);

// DataLoss when the bytes do not parse or a field leaves its range.
absl::StatusOr<ConnectionFacts> ParseFacts(const std::string& bytes);

}  // namespace gradwire
