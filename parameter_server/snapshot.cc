// A shard's state set aside while pushes go on, and taken over from a checkpoint.
#include <algorithm>
#include <utility>

#include "parameter_server/shard.h"

namespace gradwire::ps {

bool Shard::SnapshotDue() const {
  return next_snapshot_ > 0 && snapshot_ == nullptr && step() >= next_snapshot_;
}

void Shard::BeginSnapshot() {
  if (snapshot_ != nullptr) return;
  const int64_t step = this->step();
  snapshot_ = std::make_unique<ShardSnapshot>();
  snapshot_->step = step;
  if (const int64_t interval = options_.checkpoint_interval; interval > 0) {
    // Members that leave may let the least clock jump; all shards then name the same step.
    if (step >= next_snapshot_) snapshot_->step = step / interval * interval;
    next_snapshot_ = (step / interval + 1) * interval;
  }
  snapshot_->shard = shard_;
  snapshot_->shards = shards_;
  snapshot_->pieces = pieces_;
  snapshot_->parameters.resize(parameters_.size());
  for (const Optimizer::State& state : optimizer_->states()) {
    snapshot_->states.push_back({state.name, std::vector<float>(parameters_.size())});
  }
  for (const auto& [worker, clock] : clock_.steps()) {
    int64_t begun = 0;
    if (const auto member = members_.find(worker); member != members_.end()) {
      begun = std::ranges::count_if(member->second.pushed,
                                    [clock = clock](int64_t step) { return step > clock; });
    }
    snapshot_->clocks.push_back({worker, clock, begun});
  }
  std::ranges::sort(snapshot_->clocks, {}, &WorkerClock::worker);
  if (options_.consistency != Consistency::kBsp) {
    for (const SliceState& state : states_) {
      snapshot_->updates = std::max(snapshot_->updates, state.step);
    }
  }
  snapshot_->metadata = {{"optimizer", options_.optimizer.name},
                         {"lr", fmt::format("{}", optimizer_->options().learning_rate.value_or(0))},
                         {"lr-schedule", options_.optimizer.schedule.ToString()},
                         {"consistency", std::string(NameOf(options_.consistency))}};
  for (SliceState& state : states_) state.copied = false;
  snapshot_next_ = 0;
}

void Shard::CopyToSnapshot(uint32_t slice) {
  states_[slice].copied = true;
  const size_t at = offset(slice), size = count(slice);
  std::ranges::copy(parameters_.subspan(at, size),
                    snapshot_->parameters.begin() + static_cast<std::ptrdiff_t>(at));
  for (size_t i = 0; i < snapshot_->states.size(); ++i) {
    const float* const from = optimizer_->states()[i].values.data() + at;
    std::copy_n(from, size, snapshot_->states[i].values.data() + at);
  }
}

std::unique_ptr<ShardSnapshot> Shard::ContinueSnapshot(int slices) {
  for (; snapshot_next_ < slices_.size() && slices > 0; ++snapshot_next_) {
    if (states_[snapshot_next_].copied) continue;
    CopyToSnapshot(snapshot_next_);
    --slices;
  }
  return snapshot_next_ < slices_.size() ? nullptr : std::move(snapshot_);
}

absl::Status Shard::Restore(const LoadedPieces& loaded) {
  if (loaded.parameters.size() != parameters_.size()) {
    return InternalError("shard {} was given {} of {} parameters", shard_, loaded.parameters.size(),
                         parameters_.size());
  }
  std::vector<Optimizer::State>& states = optimizer_->states();
  if (states.size() != loaded.states.size()) {
    return InvalidArgument("--optimizer {}: has {} arrays of state, the checkpoint {} has {}",
                           options_.optimizer.name, states.size(), loaded.info.folder.string(),
                           loaded.states.size());
  }
  for (size_t i = 0; i < states.size(); ++i) {
    if (states[i].name != loaded.states[i].name) {
      return InvalidArgument("--optimizer {}: keeps {}, the checkpoint {} has {}",
                             options_.optimizer.name, states[i].name, loaded.info.folder.string(),
                             loaded.states[i].name);
    }
    std::ranges::copy(loaded.states[i].values, states[i].values.data());
  }
  std::ranges::copy(loaded.parameters, parameters_.begin());
  assigned_ = slices_.size();
  const int64_t step = loaded.info.step;
  const bool steps = options_.consistency == Consistency::kBsp || loaded.info.updates == 0;
  for (SliceState& state : states_) {
    state.assigned = true;
    state.step = steps ? step : loaded.info.updates;
  }
  if (options_.consistency == Consistency::kBsp) {
    for (int64_t worker = 0; worker < options_.workers; ++worker) clock_.Advance(worker, step);
  }
  // Workers of ssp and asp go on where every shard had them; who is not there yet waits for none.
  for (const WorkerClock& clock : loaded.info.clocks()) known_[clock.worker] = clock.step;
  reached_ = step;
  if (options_.checkpoint_interval > 0) {
    next_snapshot_ = (step / options_.checkpoint_interval + 1) * options_.checkpoint_interval;
  }
  return absl::OkStatus();
}

}  // namespace gradwire::ps
