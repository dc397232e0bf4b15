// The limit of open file descriptors, which thousands of links exceed.
#pragma once

#include <string_view>

#include "transport/status.h"

namespace gradwire {

// Sees to it that `count` more descriptors can be opened, raising the soft limit to the hard one
// when they cannot. ResourceExhausted says what `what` would need. Any thread.
absl::Status EnsureDescriptors(int count, std::string_view what);

}  // namespace gradwire
