// How far workers may run ahead of each other.
//
//   bsp  bulk synchronous: an update is the sum of all workers' gradients of one step; a pull after
//        step t sees every worker's step t and nothing later (Valiant, 1990).
//   ssp  stale synchronous, bound s: each push is an update by itself; a worker that has pushed
//        step t reads only once every worker has pushed step t - s (Ho et al., 2013).
//   asp  asynchronous: as ssp without a bound.
#pragma once

#include <cstdint>
#include <set>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "transport/status.h"

namespace gradwire::ps {

enum class Consistency : uint8_t { kBsp, kSsp, kAsp };

std::string_view NameOf(Consistency consistency);
// InvalidArgument lists what there is.
absl::StatusOr<Consistency> ParseConsistency(std::string_view name);

// What becomes of a BSP job whose worker is lost; ASP and SSP always go on without it.
enum class OnLoss : uint8_t {
  kFail,    // every later request is refused with who was lost
  kShrink,  // the others' sum is the update from then on
};
std::string_view NameOf(OnLoss policy);
absl::StatusOr<OnLoss> ParseOnLoss(std::string_view name);

// The last step that each worker has pushed whole: a vector clock. All calls take O(log n).
class VectorClock {
 public:
  // A worker that takes part from now on, having pushed `step` already.
  void Add(int64_t worker, int64_t step);
  void Remove(int64_t worker);
  // Steps only grow.
  void Advance(int64_t worker, int64_t step);

  bool Has(int64_t worker) const { return steps_.contains(worker); }
  // 0 for a worker that takes no part.
  int64_t Of(int64_t worker) const;
  // The least step, 0 without workers.
  int64_t Min() const { return by_step_.empty() ? 0 : by_step_.begin()->first; }
  // A worker with the least step; -1 without workers.
  int64_t Slowest() const;
  size_t size() const { return steps_.size(); }
  const std::unordered_map<int64_t, int64_t>& steps() const { return steps_; }

 private:
  std::unordered_map<int64_t, int64_t> steps_;
  std::set<std::pair<int64_t, int64_t>> by_step_;  // (step, worker)
};

}  // namespace gradwire::ps
