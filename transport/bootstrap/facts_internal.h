// ConnectionFacts as bytes for an all-gather.
#pragma once

#include <string>

#include "transport/bootstrap/world.h"
#include "transport/status.h"

namespace gradwire::internal {

std::string SerializeFacts(const ConnectionFacts& facts);

// DataLoss when the bytes do not parse or a field leaves its range.
absl::StatusOr<ConnectionFacts> ParseFacts(const std::string& bytes);

}  // namespace gradwire::internal
