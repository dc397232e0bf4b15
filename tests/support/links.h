// What tests of either transport share: small settings, deadlines, the next completion of a kind.
#pragma once

#include <chrono>

#include "transport/transport.h"

namespace gradwire::test {

inline Settings LinkSettings() {
  Settings settings;
  settings.slice_bytes = 4096;
  settings.slots = 4;
  settings.join_timeout = std::chrono::seconds(20);
  return settings;
}

inline Deadline In(int milliseconds) {
  return Clock::now() + std::chrono::milliseconds(milliseconds);
}

// Waits for the next completion of `kind`; others are dropped.
inline absl::StatusOr<Completion> Next(Transport& transport, Completion::Kind kind) {
  const Deadline deadline = In(10'000);
  while (true) {
    Completion completion[1];
    GW_ASSIGN_OR_RETURN(const int count, transport.Wait(completion, deadline));
    if (count == 1 && completion[0].kind == kind) return completion[0];
  }
}

}  // namespace gradwire::test
