#include "parameter_server/shard.h"

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "parameter_server/clip.h"

namespace gradwire::ps {
namespace {

using ConstArray = Eigen::Map<const Eigen::ArrayXf>;
using Array = Eigen::Map<Eigen::ArrayXf>;

Array ArrayOf(std::span<float> values) {
  return {values.data(), static_cast<Eigen::Index>(values.size())};
}
ConstArray ArrayOf(std::span<const float> values) {
  return {values.data(), static_cast<Eigen::Index>(values.size())};
}

absl::Status CheckStep(const Request& request) {
  return request.step >= 0 && request.step <= kMaxStep
             ? absl::OkStatus()
             : InvalidArgument("step {} cannot be", request.step);
}

}  // namespace

Shard::Shard(const Layout& layout, const Placement& placement, int shard,
             std::span<float> parameters, const ShardOptions& options)
    : shard_(shard),
      shards_(placement.shards()),
      begin_(placement.begin(shard)),
      slices_(placement.slices(shard)),
      parameters_(parameters),
      options_(options),
      pieces_(PiecesOf(layout, placement, shard)),
      states_(slices_.size()),
      scratch_(static_cast<size_t>(placement.largest_slice())),
      next_snapshot_(options.checkpoint_interval) {
  if (options_.consistency != Consistency::kBsp) return;
  sums_.resize(parameters.size());
  for (int worker = 0; worker < options_.workers; ++worker) clock_.Add(worker, 0);
}

absl::StatusOr<std::unique_ptr<Shard>> Shard::Make(const Layout& layout, const Placement& placement,
                                                   int shard, std::span<float> parameters,
                                                   const ShardOptions& options) {
  if (options.staleness < 0) {
    return InvalidArgument("--staleness {}: must not be negative", options.staleness);
  }
  if (options.workers < 1)
    return InvalidArgument("--workers {}: must be positive", options.workers);
  if (static_cast<int64_t>(parameters.size()) != placement.end(shard) - placement.begin(shard)) {
    return InternalError("shard {} has room for {} elements, not {}", shard, parameters.size(),
                         placement.end(shard) - placement.begin(shard));
  }
  std::unique_ptr<Shard> self(new Shard(layout, placement, shard, parameters, options));
  GW_ASSIGN_OR_RETURN(self->optimizer_,
                      Optimizer::Make(options.optimizer, static_cast<int64_t>(parameters.size())));
  if (self->optimizer_->whole_pieces() && options.consistency != Consistency::kBsp) {
    return InvalidArgument(
        "--optimizer {}: updates whole tensors at once, which needs "
        "--consistency bsp",
        options.optimizer.name);
  }
  return self;
}

size_t Shard::offset(uint32_t slice) const {
  return static_cast<size_t>(slices_[slice].begin - begin_);
}
std::span<float> Shard::values(uint32_t slice) {
  return parameters_.subspan(offset(slice), count(slice));
}
std::span<float> Shard::sum(uint32_t slice) {
  return std::span(sums_).subspan(offset(slice), count(slice));
}

// --- Members ---

absl::StatusOr<int64_t> Shard::Admit(int64_t worker, int64_t step) {
  GW_RETURN_IF_ERROR(failure_);
  const bool bsp = options_.consistency == Consistency::kBsp;
  if (worker < 0 || (bsp && worker >= options_.workers)) {
    return InvalidArgument("worker {}: numbers are 0..{} here", worker, options_.workers - 1);
  }
  if (removed_.contains(worker)) {
    return FailedPrecondition(
        "worker {} has left, and bsp goes on without it; only a job of ssp or "
        "asp takes workers back",
        worker);
  }
  Member& member = members_[worker];
  member.pushed.resize(slices_.size());
  member.fresh = !bsp || promoted_;
  if (!clock_.Has(worker)) {
    // A worker that is new or was away must not hold the others up.
    const auto known = known_.find(worker);
    clock_.Add(worker, promoted_ && step >= 0
                           ? step
                           : std::max(this->step(), known == known_.end() ? 0 : known->second));
  }
  return clock_.Of(worker);
}

void Shard::Remove(int64_t worker, const std::string& lost) {
  const bool member = members_.erase(worker) > 0;
  if (!member && !clock_.Has(worker)) return;
  if (!lost.empty()) ++counters_.workers_lost;
  known_[worker] = clock_.Of(worker);
  reached_ = std::max(reached_, clock_.Of(worker));
  const int64_t before = clock_.Min();
  if (options_.consistency == Consistency::kBsp) {
    if (!lost.empty() && options_.on_loss == OnLoss::kFail) {
      if (failure_.ok()) {
        failure_ = Unavailable("{}; bsp needs all {} workers (--on-loss shrink goes on without)",
                               lost, options_.workers);
      }
      return;
    }
    removed_.insert(worker);
    clock_.Remove(worker);
    for (uint32_t slice = 0; slice < slices_.size(); ++slice) {
      const SliceState& state = states_[slice];
      // Without a first gradient the sum is still that of an earlier step.
      const bool begun = state.summing > 0 && state.last_worker >= 0;
      if (begun && !state.complete && NextWorker(state) < 0) Complete(slice);
    }
    // A replica has no members, it only hears who left.
    if ((member && members_.empty()) || removed_.size() == static_cast<size_t>(options_.workers)) {
      EndJob();
    }
  } else {
    clock_.Remove(worker);
  }
  Tell({.flags = Request::kLeft, .worker = worker});
  if (options_.consistency == Consistency::kBsp) TellClock(worker, 0, before);
}

void Shard::EndJob() {
  removed_.clear();
  for (int number = 0; number < options_.workers; ++number) clock_.Add(number, reached_);
  for (SliceState& state : states_) {
    // A slice may have been updated in a step that nobody ended, which is now taken anew.
    state = {
        .assigned = state.assigned, .copied = state.copied, .step = std::min(state.step, reached_)};
  }
}

// --- Pushes ---

absl::Status Shard::Check(int64_t worker, const Request& request) const {
  GW_RETURN_IF_ERROR(failure_);
  const auto member = members_.find(worker);
  if (member == members_.end()) {
    return FailedPrecondition("worker {} is not a member of shard {}; it must join", worker,
                              shard_);
  }
  GW_RETURN_IF_ERROR(CheckStep(request));
  if (!(std::abs(request.scale) <= std::numeric_limits<float>::max())) {
    return InvalidArgument("a gradient cannot be scaled by {}", request.scale);
  }
  // A pull may end a step too: that which applies what is held.
  const bool pushes = request.op == Op::kPush || request.op == Op::kPushPull ||
                      (request.flags & (Request::kEndOfStep | Request::kApplyHeld)) != 0;
  if (!pushes) return absl::OkStatus();
  if (!initialized()) {
    return FailedPrecondition("shard {} has no values yet: Initialize() comes before a push",
                              shard_);
  }
  const int64_t clock = clock_.Of(worker);
  if (request.step <= clock) {
    return MakeError(absl::StatusCode::kAlreadyExists,
                     "worker {} has pushed step {} before; its next is {}", worker, request.step,
                     clock + 1);
  }
  if (request.step != clock + 1 && !member->second.fresh) {
    return FailedPrecondition("worker {} pushes step {}, but {} comes next", worker, request.step,
                              clock + 1);
  }
  return absl::OkStatus();
}

std::span<const float> Shard::Condition(std::span<const float> gradient, float scale) {
  if (scale == 1 && options_.clip_value <= 0) return gradient;
  const std::span<float> scratch = std::span(scratch_).first(gradient.size());
  std::ranges::copy(gradient, scratch.begin());
  if (options_.clip_value > 0) ClipValues(scratch, static_cast<float>(options_.clip_value));
  if (scale != 1) Scale(scratch, scale);
  return scratch;
}

Shard::Taken Shard::Take(int64_t worker, const Request& request, uint32_t slice,
                         std::span<const float> values) {
  Member& member = members_.at(worker);
  int64_t& pushed = member.pushed[slice];
  if (pushed >= request.step) {
    ++counters_.duplicates;
    return Taken::kDuplicate;
  }
  // A step that is begun ends as the next one: only the first may lie ahead.
  if (std::exchange(member.fresh, false)) clock_.Advance(worker, request.step - 1);
  if (options_.consistency == Consistency::kBsp) {
    const Taken taken = Sum(worker, request, slice, values);
    if (taken != Taken::kWait) pushed = request.step;
    return taken;
  }
  pushed = request.step;
  ++counters_.gradients_taken;
  const std::span<const float> gradient = Condition(values, request.scale);
  Update(slice, worker, request.step, gradient);
  Tell({.first = slice, .count = 1, .step = request.step, .worker = worker}, gradient);
  return Taken::kTaken;
}

int64_t Shard::NextWorker(const SliceState& state) const {
  for (int64_t worker = state.last_worker + 1; worker < options_.workers; ++worker) {
    if (!removed_.contains(worker)) return worker;
  }
  return -1;
}

Shard::Taken Shard::Sum(int64_t worker, const Request& request, uint32_t slice,
                        std::span<const float> values) {
  SliceState& state = states_[slice];
  // Applied before a link broke, or before this was the primary.
  if (request.step <= state.step) {
    ++counters_.duplicates;
    return Taken::kDuplicate;
  }
  if (state.summing == 0) {
    state.summing = request.step;
    state.last_worker = -1;
    state.hold = (request.flags & Request::kHold) != 0;
  }
  if (state.summing != request.step || NextWorker(state) != worker) return Taken::kWait;
  const bool first = state.last_worker < 0;
  if (first) {
    ArrayOf(sum(slice)) = ArrayOf(values) * request.scale;
  } else {
    ArrayOf(sum(slice)) += ArrayOf(values) * request.scale;
  }
  ++counters_.gradients_taken;
  state.last_worker = worker;
  if (NextWorker(state) < 0) Complete(slice);
  return Taken::kTaken;
}

void Shard::Complete(uint32_t slice) {
  SliceState& state = states_[slice];
  state.complete = true;
  if (options_.clip_value > 0) ClipValues(sum(slice), static_cast<float>(options_.clip_value));
  if (!state.hold) {
    ApplySum(slice, 1);
    return;
  }
  state.squares = SquaredNorm(sum(slice));
  state.squares_step = state.summing;
}

SliceRange Shard::PieceOf(uint32_t slice) const {
  const int tensor = slices_[slice].tensor;
  uint32_t first = slice, last = slice + 1;
  while (first > 0 && slices_[first - 1].tensor == tensor) --first;
  while (last < slices_.size() && slices_[last].tensor == tensor) ++last;
  return {first, last - first};
}

void Shard::ApplySum(uint32_t slice, float scale) {
  SliceState& state = states_[slice];
  const int64_t step = state.summing;
  const std::span<float> gradient = sum(slice);
  if (scale != 1) Scale(gradient, scale);
  Tell({.first = slice, .count = 1, .step = step}, gradient);
  state.hold = false;
  if (!optimizer_->whole_pieces()) {
    Update(slice, -1, step, gradient);
    return;
  }
  const SliceRange piece = PieceOf(slice);
  for (uint32_t i = piece.first; i < piece.first + piece.count; ++i) {
    if (!states_[i].complete || states_[i].hold || states_[i].summing != step) return;
  }
  const size_t begin = offset(piece.first);
  size_t size = 0;
  for (uint32_t i = piece.first; i < piece.first + piece.count; ++i) {
    if (snapshot_ != nullptr && !states_[i].copied) CopyToSnapshot(i);
    size += count(i);
    states_[i] = {.assigned = states_[i].assigned,
                  .copied = states_[i].copied,
                  .step = step,
                  .squares_step = states_[i].squares_step,
                  .squares = states_[i].squares};
    ++counters_.slices_applied;
  }
  optimizer_->Update(step, optimizer_->LearningRateAt(step), static_cast<int64_t>(begin),
                     parameters_.subspan(begin, size), std::span(sums_).subspan(begin, size));
}

void Shard::Update(uint32_t slice, int64_t worker, int64_t step, std::span<const float> gradient) {
  SliceState& state = states_[slice];
  if (snapshot_ != nullptr && !state.copied) CopyToSnapshot(slice);
  state.step = worker < 0 ? step : state.step + 1;
  state.summing = 0;
  state.complete = false;
  ++counters_.slices_applied;
  optimizer_->Update(state.step, optimizer_->LearningRateAt(step),
                     static_cast<int64_t>(offset(slice)), values(slice), gradient);
}

void Shard::Announce(int64_t worker, int64_t step) {
  const auto member = members_.find(worker);
  if (member == members_.end() || !member->second.fresh || step <= clock_.Of(worker) ||
      options_.consistency == Consistency::kBsp) {
    return;
  }
  clock_.Advance(worker, step);
  TellClock(worker, step, 0);
}

void Shard::EndStep(int64_t worker, int64_t step) {
  const int64_t before = clock_.Min();
  clock_.Advance(worker, step);
  if (const auto member = members_.find(worker); member != members_.end()) {
    member->second.fresh = false;
  }
  TellClock(worker, step, before);
}

void Shard::Tell(Request change, std::span<const float> values) {
  if (!observer_) return;
  change.op = Op::kReplicate;
  observer_(change, values);
}

// Under BSP what one worker has pushed lives in this shard's sums alone: a replica counts a step
// only once all have pushed it.
void Shard::TellClock(int64_t worker, int64_t step, int64_t before) {
  if (options_.consistency != Consistency::kBsp) {
    Tell({.flags = Request::kEndOfStep, .step = step, .worker = worker});
  } else if (clock_.Min() > before) {
    Tell({.flags = Request::kEndOfStep, .step = clock_.Min()});
  }
}

void Shard::Assign(uint32_t slice, std::span<const float> values) {
  SliceState& state = states_[slice];
  if (state.assigned) return;
  state.assigned = true;
  ++assigned_;
  std::ranges::copy(values, this->values(slice).begin());
  Tell({.flags = Request::kAssigned, .first = slice, .count = 1}, values);
}

double Shard::HeldSquares(const SliceRange& range, int64_t step) const {
  double squares = 0;
  for (uint32_t slice = range.first; slice < range.first + range.count; ++slice) {
    if (states_[slice].squares_step != step) return -1;
    squares += states_[slice].squares;
  }
  return squares;
}

void Shard::ApplyHeld(const SliceRange& range, int64_t step, float scale) {
  for (uint32_t slice = range.first; slice < range.first + range.count; ++slice) {
    const SliceState& state = states_[slice];
    if (state.complete && state.hold && state.summing == step) ApplySum(slice, scale);
  }
}

// --- Pulls ---

bool Shard::Readable(uint32_t slice, int64_t step) const {
  const SliceState& state = states_[slice];
  if (!state.assigned) return false;
  switch (options_.consistency) {
    case Consistency::kBsp:
      // A slice that nobody pushed in a step is what it was.
      return state.step >= step || (clock_.Min() >= step && state.summing == 0);
    case Consistency::kSsp:
      return clock_.Min() >= step - options_.staleness;
    case Consistency::kAsp:
      return true;
  }
  return false;
}

int64_t Shard::WaitsFor(uint32_t slice, int64_t step) const {
  const SliceState& state = states_[slice];
  if (!state.assigned) return -1;
  if (options_.consistency == Consistency::kBsp && state.summing > 0 && !state.complete) {
    return NextWorker(state);
  }
  return clock_.Min() < step ? clock_.Slowest() : -1;
}

// --- Replica ---

absl::Status Shard::CheckReplay(const Request& request) const {
  GW_RETURN_IF_ERROR(CheckStep(request));
  const bool sum = request.worker < 0;
  const bool gradient = request.count > 0 && (request.flags & Request::kAssigned) == 0;
  const bool step = (request.flags & Request::kEndOfStep) != 0;
  if ((gradient || step) && sum != (options_.consistency == Consistency::kBsp)) {
    return FailedPrecondition(
        "shard {}: its primary is not under {}, as this replica is; start all "
        "servers with the same options",
        shard_, NameOf(options_.consistency));
  }
  return absl::OkStatus();
}

void Shard::Replay(const Request& change, uint32_t slice, std::span<const float> values) {
  const int64_t step = change.step;
  if ((change.flags & Request::kAssigned) != 0) {
    Assign(slice, values);
    return;
  }
  if (change.worker >= 0) {
    Member& member = members_[change.worker];
    member.pushed.resize(slices_.size());
    member.pushed[slice] = step;
    Update(slice, change.worker, step, values);
    return;
  }
  SliceState& state = states_[slice];
  std::ranges::copy(values, sum(slice).begin());
  state.summing = step;
  state.complete = true;
  // It was scaled and clipped before it came here.
  if (!optimizer_->whole_pieces()) {
    Update(slice, -1, step, values);
  } else {
    ApplySum(slice, 1);
  }
}

void Shard::EndReplay(const Request& change) {
  const int64_t worker = change.worker, step = change.step;
  if ((change.flags & Request::kEndOfStep) != 0) {
    if (worker >= 0) {
      if (!clock_.Has(worker)) clock_.Add(worker, step);
      clock_.Advance(worker, step);
    } else {
      for (int64_t each = 0; each < options_.workers; ++each) clock_.Advance(each, step);
    }
  }
  if ((change.flags & Request::kLeft) != 0) Remove(worker, "");
}

}  // namespace gradwire::ps
