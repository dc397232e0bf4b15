#include "transport/telemetry/ring.h"

#include <algorithm>
#include <bit>

namespace gradwire::telemetry {
namespace {

// An anchor as an event, so that it is overwritten together with those that need it. Never leaves
// the ring.
constexpr Kind kAnchor{0xff};

}  // namespace

Ring::Ring(size_t capacity, const Ticks& ticks)
    : ticks_(ticks), events_(std::bit_ceil(capacity)), first_(ticks_.ReadBoth()), last_(first_) {}

void Ring::AddAnchor() {
  last_ = ticks_.ReadBoth();
  Event event;
  event.begin_ns = last_.ticks;
  event.end_ns = last_.ns;
  event.kind = kAnchor;
  Add(event);
}

std::vector<Event> Ring::Take() const {
  std::vector<Event> events;
  std::vector<Anchor> anchors = {first_};
  events.reserve(static_cast<size_t>(count_ - lost()));
  for (uint64_t i = lost(); i < count_; ++i) {
    const Event& event = events_[i & (events_.size() - 1)];
    if (event.kind == kAnchor) {
      anchors.push_back({event.begin_ns, event.end_ns});
    } else {
      events.push_back(event);
    }
  }
  if (!ticks_.counter()) return events;
  anchors.push_back(ticks_.ReadBoth());
  // A span that began before an anchor is added behind it: each time finds its own place.
  const auto to_ns = [&anchors](int64_t ticks) {
    const auto next =
        std::upper_bound(anchors.begin() + 1, anchors.end() - 1, ticks,
                         [](int64_t time, const Anchor& anchor) { return time < anchor.ticks; });
    return OnLine(*(next - 1), *next, ticks);
  };
  for (Event& event : events) {
    event.begin_ns = to_ns(event.begin_ns);
    event.end_ns = to_ns(event.end_ns);
  }
  return events;
}

}  // namespace gradwire::telemetry
