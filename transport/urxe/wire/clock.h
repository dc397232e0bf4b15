// The clock that everything of the wire is timed by.
#pragma once

#include <cstdint>
#include <ctime>

namespace urxe {

// ns of CLOCK_MONOTONIC.
inline uint64_t MonotonicNow() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

}  // namespace urxe
