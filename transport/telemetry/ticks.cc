#include "transport/telemetry/ticks.h"

#include <fcntl.h>
#include <unistd.h>

#include <string_view>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace gradwire::telemetry {
namespace {

[[maybe_unused]] bool KernelCountsByIt() {
  const int fd = open("/sys/devices/system/clocksource/clocksource0/current_clocksource",
                      O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  char name[64];
  const ssize_t length = read(fd, name, sizeof(name));
  close(fd);
  return length > 0 &&
         std::string_view(name, static_cast<size_t>(length)).find("tsc") != std::string_view::npos;
}

bool FindOut() {
#if defined(__x86_64__)
  // Advanced Power Management leaf: EDX bit 8 is the invariant TSC (Intel SDM volume 3, 18.17.1).
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid(0x80000007, &eax, &ebx, &ecx, &edx) == 0 || (edx & (1U << 8)) == 0) return false;
  return KernelCountsByIt();
#else
  return false;
#endif
}

}  // namespace

bool CounterIsSteady() {
  static const bool steady = FindOut();
  return steady;
}

Anchor Ticks::ReadBoth() const {
  // The thread may lose the processor between the readings; then they are taken again.
  constexpr int kTries = 5;
  Anchor best;
  int64_t least = INT64_MAX;
  for (int i = 0; i < kTries; ++i) {
    const int64_t before = Now();
    const int64_t ns = MonotonicNow();
    const int64_t took = Now() - before;
    if (took >= least) continue;
    least = took;
    best = {before + took / 2, ns};
  }
  return best;
}

int64_t OnLine(const Anchor& a, const Anchor& b, int64_t ticks) {
  if (b.ticks == a.ticks) return a.ns + (ticks - a.ticks);
  const double rate = static_cast<double>(b.ns - a.ns) / static_cast<double>(b.ticks - a.ticks);
  return a.ns + static_cast<int64_t>(rate * static_cast<double>(ticks - a.ticks));
}

}  // namespace gradwire::telemetry
