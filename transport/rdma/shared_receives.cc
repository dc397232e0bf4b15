#include "transport/rdma/shared_receives.h"

#include <algorithm>
#include <utility>

namespace gradwire::rdma {
namespace {
// The first queue has room for so many lanes.
constexpr int kFirstLanes = 16;
}  // namespace

absl::StatusOr<SharedReceives::Pool*> SharedReceives::Add(int depth) {
  Pool* pool = nullptr;
  for (const auto& [number, candidate] : pools_) {
    if (candidate->promised_ + depth <= candidate->queue().depth()) pool = candidate.get();
  }
  if (pool == nullptr) {
    if (depth > most_) {
      return FailedPrecondition(
          "--receive-queue shared: the device shares {} receives, a lane wants {}; use own, or "
          "fewer --slots",
          most_, depth);
    }
    const int wanted = std::max(kFirstLanes * depth, 2 * std::min(last_depth_, most_ / 2));
    GW_ASSIGN_OR_RETURN(SharedReceiveQueue queue,
                        domain_.CreateSharedReceiveQueue(std::min(wanted, most_)));
    last_depth_ = queue.depth();
    const uint64_t number = next_number_++;
    auto& place = pools_[number];
    place = std::make_unique<Pool>(std::move(queue), batch_, number);
    pool = place.get();
  }
  if (const int more = pool->promised_ + depth - pool->provided_; more > 0) {
    if (const int error = pool->receives().Provide(more); error != 0) {
      const absl::Status failed = ErrnoError(error, "cannot post {} shared receives", more);
      if (pool->promised_ == 0) pools_.erase(pool->number_);
      return failed;
    }
    pool->provided_ += more;
  }
  pool->promised_ += depth;
  return pool;
}

void SharedReceives::Remove(Pool& pool, int depth) {
  pool.promised_ -= depth;
  if (pool.promised_ > 0) return;
  last_depth_ = 0;
  for (const auto& [number, other] : pools_) {
    if (other.get() != &pool) last_depth_ = std::max(last_depth_, other->queue().depth());
  }
  pools_.erase(pool.number_);
}

int SharedReceives::Consumed(const ibv_wc& completion) {
  const auto pool = pools_.find(completion.wr_id & ~Receives::kMark);
  return pool == pools_.end() ? 0 : pool->second->receives().Consumed();
}

}  // namespace gradwire::rdma
