#include "parameter_server/consistency.h"

#include <algorithm>

namespace gradwire::ps {

std::string_view NameOf(Consistency consistency) {
  switch (consistency) {
    case Consistency::kBsp:
      return "bsp";
    case Consistency::kSsp:
      return "ssp";
    case Consistency::kAsp:
      return "asp";
  }
  return "?";
}

absl::StatusOr<Consistency> ParseConsistency(std::string_view name) {
  for (const Consistency c : {Consistency::kBsp, Consistency::kSsp, Consistency::kAsp}) {
    if (name == NameOf(c)) return c;
  }
  return InvalidArgument("--consistency {}: is none of bsp|ssp|asp", name);
}

std::string_view NameOf(OnLoss policy) { return policy == OnLoss::kFail ? "fail" : "shrink"; }

absl::StatusOr<OnLoss> ParseOnLoss(std::string_view name) {
  for (const OnLoss policy : {OnLoss::kFail, OnLoss::kShrink}) {
    if (name == NameOf(policy)) return policy;
  }
  return InvalidArgument("--on-loss {}: is none of fail|shrink", name);
}

void VectorClock::Add(int64_t worker, int64_t step) {
  if (!steps_.emplace(worker, step).second) {
    Advance(worker, step);
    return;
  }
  by_step_.emplace(step, worker);
}

void VectorClock::Remove(int64_t worker) {
  const auto found = steps_.find(worker);
  if (found == steps_.end()) return;
  by_step_.erase({found->second, worker});
  steps_.erase(found);
}

void VectorClock::Advance(int64_t worker, int64_t step) {
  const auto found = steps_.find(worker);
  if (found == steps_.end() || step <= found->second) return;
  by_step_.erase({found->second, worker});
  found->second = step;
  by_step_.emplace(step, worker);
}

int64_t VectorClock::Of(int64_t worker) const {
  const auto found = steps_.find(worker);
  return found == steps_.end() ? 0 : found->second;
}

int64_t VectorClock::Slowest() const { return by_step_.empty() ? -1 : by_step_.begin()->second; }

}  // namespace gradwire::ps
