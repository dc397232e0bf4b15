// The last events of whoever records, one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "transport/telemetry/event.h"
#include "transport/telemetry/ticks.h"

namespace gradwire::telemetry {

// Events hold ticks until they are taken.
class Ring {
 public:
  // `capacity` is rounded up to a power of two.
  explicit Ring(size_t capacity, const Ticks& ticks = Ticks());

  int64_t Now() const { return ticks_.Now(); }
  void Add(const Event& event) { events_[count_++ & (events_.size() - 1)] = event; }
  // Ties the ticks from here on to the clock; called every so often; in between it only reads the
  // counter.
  void KeepTime() {
    if (ticks_.counter() && Now() - last_.ticks > kAnchorTicks) AddAnchor();
  }

  uint64_t count() const { return count_; }  // ever added
  uint64_t lost() const { return count_ > events_.size() ? count_ - events_.size() : 0; }
  // In the order in which they were added, with times of CLOCK_MONOTONIC.
  std::vector<Event> Take() const;

 private:
  // The least distance between anchors: below a millisecond on what is not slower than 1 GHz.
  static constexpr int64_t kAnchorTicks = 1'000'000;

  void AddAnchor();

  const Ticks ticks_;
  std::vector<Event> events_;
  uint64_t count_ = 0;
  const Anchor first_;  // for events whose own anchor was overwritten
  Anchor last_;
};

}  // namespace gradwire::telemetry
