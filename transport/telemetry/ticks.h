// What events are stamped with. A call of clock_gettime takes some 30 ns, and a collective of 1 MiB
// within a host makes some seventy; the processor's counter takes a third. So a ring counts
// ticks and turns them into CLOCK_MONOTONIC only when its events are taken out, by anchors at which
// both clocks were read.
#pragma once

#include <cstdint>
#include <ctime>
#if defined(__x86_64__)
#include <x86intrin.h>
#endif

namespace gradwire::telemetry {

// Nanoseconds of CLOCK_MONOTONIC.
inline int64_t MonotonicNow() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

// Whether the processor's counter runs at one rate on all cores: so the processor says, and the
// kernel keeps its own time by it. Elsewhere ticks are nanoseconds.
bool CounterIsSteady();

// The same moment on both clocks.
struct Anchor {
  int64_t ticks = 0;
  int64_t ns = 0;
};

class Ticks {
 public:
  explicit Ticks(bool counter = CounterIsSteady()) : counter_(counter) {}

  int64_t Now() const {
#if defined(__x86_64__)
    if (counter_) return static_cast<int64_t>(__rdtsc());
#endif
    return MonotonicNow();
  }
  bool counter() const { return counter_; }
  // Right within what two readings of a clock take.
  Anchor ReadBoth() const;

 private:
  const bool counter_;
};

// `ticks` on the line through both anchors, which may lie on either side.
int64_t OnLine(const Anchor& a, const Anchor& b, int64_t ticks);

}  // namespace gradwire::telemetry
