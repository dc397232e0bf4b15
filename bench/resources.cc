#include "bench/resources.h"

#include <sys/resource.h>

namespace gradwire::bench {
namespace {

double Seconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
}

}  // namespace

ResourceUse& ResourceUse::operator+=(const ResourceUse& other) {
  user_seconds += other.user_seconds;
  system_seconds += other.system_seconds;
  voluntary_switches += other.voluntary_switches;
  involuntary_switches += other.involuntary_switches;
  syscalls += other.syscalls;
  blocks += other.blocks;
  bytes_copied += other.bytes_copied;
  return *this;
}

ResourceUse CurrentUse(const TransportCounters& counters, uint64_t bytes_copied) {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return {Seconds(usage.ru_utime),
          Seconds(usage.ru_stime),
          static_cast<double>(usage.ru_nvcsw),
          static_cast<double>(usage.ru_nivcsw),
          static_cast<double>(counters.syscalls),
          static_cast<double>(counters.blocks),
          static_cast<double>(bytes_copied)};
}

ResourceUse CurrentUse(const CommunicatorStats& stats) {
  return CurrentUse(stats.transport, stats.bytes_copied);
}

ResourceUse operator-(const ResourceUse& later, const ResourceUse& earlier) {
  return {later.user_seconds - earlier.user_seconds,
          later.system_seconds - earlier.system_seconds,
          later.voluntary_switches - earlier.voluntary_switches,
          later.involuntary_switches - earlier.involuntary_switches,
          later.syscalls - earlier.syscalls,
          later.blocks - earlier.blocks,
          later.bytes_copied - earlier.bytes_copied};
}

Cost CostOf(const ResourceUse& total, double gigabytes, double calls, double moved) {
  const auto per = [](double value, double of) { return of > 0 ? value / of : 0; };
  Cost cost = {per(total.user_seconds, gigabytes),
               per(total.system_seconds, gigabytes),
               per(total.voluntary_switches, calls),
               per(total.involuntary_switches, calls),
               per(total.syscalls, calls),
               per(total.blocks, calls),
               std::nullopt};
  if (moved > 0 && total.bytes_copied > 0) cost.copies_per_byte = total.bytes_copied / moved;
  return cost;
}

}  // namespace gradwire::bench
