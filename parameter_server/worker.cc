#include "parameter_server/worker.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

#include "parameter_server/clip.h"
#include "parameter_server/convert.h"
#include "parameter_server/worker_internal.h"

namespace gradwire::ps {

absl::Status Worker::Impl::Latch(absl::Status status) {
  if (!status.ok() && failure_.ok()) failure_ = status;
  return status;
}

absl::StatusOr<Handle> Worker::Impl::Ask(Op op, uint8_t flags, int first, int last, float scale) {
  GW_RETURN_IF_ERROR(failure_);
  if (left_) return FailedPrecondition("worker {} has left", number_);
  if (first < 0 || last > layout_.size() || first > last) {
    return InvalidArgument("tensors [{}, {}) are not within 0..{}", first, last, layout_.size());
  }
  const uint64_t number = ++last_operation_;
  Operation& operation = operations_[number];
  operation = {.op = op, .flags = flags, .first = first, .last = last, .scale = scale};
  const bool ends = (flags & Request::kEndOfStep) != 0;
  const bool pushes = Pushes(op) || ends;
  operation.step = pushes ? step_ + 1 : step_ + (step_open_ ? 1 : 0);
  if (pushes) step_open_ = true;
  if ((flags & Request::kHold) != 0) operation.squares.resize(shards_.size());
  if (Pushes(op) || op == Op::kAssign) {
    const auto begin = static_cast<size_t>(layout_.offset(first));
    const auto count = static_cast<size_t>(layout_.offset(last)) - begin;
    const std::span<const float> values = gradients_.subspan(begin, count);
    if (options_.clip_norm > 0 && Pushes(op) && job_.consistency != Consistency::kBsp) {
      operation.scale = ClipScale(SquaredNorm(values), options_.clip_norm);
    }
    if (options_.wire != DataType::kFloat32) {
      const size_t size = SizeOf(options_.wire);
      GW_RETURN_IF_ERROR(
          Pack(values, options_.wire, packed_region_.bytes().subspan(begin * size, count * size)));
    }
  }
  for (Shard& shard : shards_) {
    const SliceRange range = placement_.Find(shard.index, first, last);
    if (range.count == 0 && !ends) continue;
    Request request{.op = op,
                    .flags = flags,
                    .first = range.first,
                    .count = range.count,
                    .scale = operation.scale,
                    .step = operation.step};
    ++operation.outstanding;
    shard.asked.emplace_back(number, request);
    Send(shard, request);
  }
  if (ends) {
    ++step_;
    ++stats_.steps;
    step_open_ = false;
  }
  // Sets out at once; what does not go now goes while somebody waits.
  for (Shard& shard : shards_) {
    if (shard.link != nullptr) shard.link->Pump().IgnoreError();  // its end is seen by Progress
  }
  GW_RETURN_IF_ERROR(transport_->Flush());
  return Handle{number};
}

void Worker::Impl::Send(Shard& shard, const Request& request) {
  // Two pointers: small enough for std::function not to allocate.
  shard.link->Ask(request, [this, &shard](const Reply& reply) { Answered(shard, reply); });
}

void Worker::Impl::Answered(Shard& shard, const Reply& reply) {
  Operation& operation = operations_.at(shard.asked.front().first);
  shard.asked.pop_front();
  --operation.outstanding;
  members_ = reply.members;
  if (reply.waited_for >= 0) {
    stats_.held_up += std::chrono::microseconds(reply.waited_us);
    stats_.held_up_by = reply.waited_for;
  }
  if (reply.code != 0) {
    operation.status.Update(Annotate(reply.status(), NameOf(shard.server)));
    return;
  }
  if (!operation.squares.empty()) {
    operation.squares[static_cast<size_t>(shard.index)] = reply.squares;
  }
  if (!Pulls(operation.op)) return;
  stats_.max_staleness = std::max(stats_.max_staleness, operation.step - reply.min_clock);
  if (options_.wire == DataType::kFloat32) return;
  const SliceRange range = placement_.Find(shard.index, operation.first, operation.last);
  if (range.count == 0) return;
  const std::vector<Slice>& slices = placement_.slices(shard.index);
  const Slice& final = slices[range.first + range.count - 1];
  const auto begin = static_cast<size_t>(slices[range.first].begin);
  const size_t count = static_cast<size_t>(final.begin + final.count) - begin;
  const size_t size = SizeOf(options_.wire);
  Unpack(landing_region_.bytes().subspan(begin * size, count * size), options_.wire,
         parameters_.subspan(begin, count))
      .IgnoreError();  // type and sizes fit by construction
}

absl::Status Worker::Impl::Progress(Deadline deadline) {
  for (const auto& [server, why] : TakeLost()) {
    servers_[static_cast<size_t>(server)].lost = true;
    for (Shard& shard : shards_) {
      if (shard.server == server) GW_RETURN_IF_ERROR(FailOver(shard, why, deadline));
    }
  }
  for (Shard& shard : shards_) {
    if (const absl::Status sent = shard.link->Pump(); !sent.ok()) {
      GW_RETURN_IF_ERROR(FailOver(shard, sent, deadline));
    }
  }
  std::array<Completion, 64> completions;
  const absl::StatusOr<int> count = transport_->Wait(completions, deadline);
  if (!count.ok()) {
    return absl::IsDeadlineExceeded(count.status()) ? absl::OkStatus() : count.status();
  }
  std::vector<std::pair<Shard*, absl::Status>> broken;
  for (int i = 0; i < *count; ++i) {
    const Completion& completion = completions[static_cast<size_t>(i)];
    for (Shard& shard : shards_) {
      if (shard.link->link() != completion.link) continue;
      // One failure is enough: what follows on the same link means nothing.
      if (std::ranges::count(broken, &shard, &std::pair<Shard*, absl::Status>::first) > 0) break;
      const absl::Status handled = shard.link->Handle(completion);
      if (!handled.ok()) broken.emplace_back(&shard, handled);
      break;
    }
  }
  for (const auto& [shard, why] : broken) GW_RETURN_IF_ERROR(FailOver(*shard, why, deadline));
  return absl::OkStatus();
}

std::string Worker::Impl::Overdue(const Operation& operation) const {
  std::vector<std::string> silent;
  for (const Shard& shard : shards_) {
    if (!shard.asked.empty()) {
      silent.push_back(fmt::format("shard {} at {}", shard.index, NameOf(shard.server)));
    }
  }
  std::string hint;
  if (job_.consistency != Consistency::kAsp) {
    hint = fmt::format("; under {} it may wait for other workers: `gradwire ps status {}` tells",
                       ps::NameOf(job_.consistency), servers_.front().address);
  }
  return fmt::format("no answer from {} for step {} within --op-timeout ({} ms){}",
                     fmt::join(silent, ", "), operation.step, settings_.op_timeout.count(), hint);
}

absl::Status Worker::Impl::Wait(Handle handle) {
  GW_RETURN_IF_ERROR(failure_);
  const auto found = operations_.find(handle.number);
  if (found == operations_.end()) {
    return InvalidArgument("operation {} has been waited for, or never was", handle.number);
  }
  Operation& operation = found->second;
  const Deadline start = Clock::now(), deadline = start + settings_.op_timeout;
  absl::Status status;
  while (operation.outstanding > 0 && status.ok()) {
    if (Clock::now() >= deadline) {
      status = absl::DeadlineExceededError(Overdue(operation));
    } else {
      status = Progress(deadline);
    }
  }
  stats_.waited += Clock::now() - start;
  status.Update(operation.status);
  if (status.ok() && !operation.squares.empty()) held_squares_ = std::move(operation.squares);
  if (operation.outstanding == 0) operations_.erase(found);
  return Latch(status);
}

absl::Status Worker::Impl::PushPullClipped() {
  GW_ASSIGN_OR_RETURN(const Handle held, Ask(Op::kPush, Request::kHold, 0, layout_.size()));
  GW_RETURN_IF_ERROR(Wait(held));
  // Every worker adds in the same order, so all scale by the same.
  const double squares = std::accumulate(held_squares_.begin(), held_squares_.end(), 0.0);
  GW_ASSIGN_OR_RETURN(const Handle applied,
                      Ask(Op::kPull, Request::kApplyHeld | Request::kEndOfStep, 0, layout_.size(),
                          ClipScale(squares, options_.clip_norm)));
  return Wait(applied);
}

absl::Status Worker::Impl::PushPull() {
  if (options_.clip_norm > 0 && job_.consistency == Consistency::kBsp) return PushPullClipped();
  GW_ASSIGN_OR_RETURN(const Handle handle,
                      Ask(Op::kPushPull, Request::kEndOfStep, 0, layout_.size()));
  return Wait(handle);
}

absl::Status Worker::Impl::EndStep() {
  GW_ASSIGN_OR_RETURN(const Handle handle, Ask(Op::kPush, Request::kEndOfStep, 0, 0));
  return Wait(handle);
}

absl::Status Worker::Impl::Initialize(std::span<const float> values) {
  if (values.size() != gradients_.size()) {
    return InvalidArgument("{} first values for {} parameters", values.size(), gradients_.size());
  }
  // First values travel as gradients do.
  std::ranges::copy(values, gradients_.begin());
  GW_ASSIGN_OR_RETURN(const Handle handle, Ask(Op::kAssign, 0, 0, layout_.size()));
  GW_RETURN_IF_ERROR(Wait(handle));
  std::ranges::fill(gradients_, 0.0f);
  return absl::OkStatus();
}

WorkerStats Worker::Impl::Stats() const {
  WorkerStats stats = stats_;
  for (const Shard& shard : shards_) {
    if (shard.link == nullptr) continue;
    stats.bytes_pushed += shard.link->bytes_pushed();
    stats.bytes_pulled += shard.link->bytes_pulled();
  }
  stats.transport = transport_->counters();
  return stats;
}

// --- Worker ---

absl::StatusOr<std::unique_ptr<Worker>> Worker::Join(const std::vector<std::string>& servers,
                                                     const Layout& layout,
                                                     const WorkerOptions& options,
                                                     const Settings& settings) {
  auto impl = std::make_unique<Impl>(layout, options, settings);
  GW_RETURN_IF_ERROR(impl->Join(servers));
  return std::unique_ptr<Worker>(new Worker(std::move(impl)));
}

Worker::Worker(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Worker::~Worker() = default;

int64_t Worker::number() const { return impl_->number_; }
const Layout& Worker::layout() const { return impl_->layout_; }
const Placement& Worker::placement() const { return impl_->placement_; }
Consistency Worker::consistency() const { return impl_->job_.consistency; }
int64_t Worker::staleness() const { return impl_->job_.staleness; }
int64_t Worker::step() const { return impl_->step_; }
const std::string& Worker::transport() const { return impl_->job_.transport; }
int64_t Worker::members() const { return impl_->members_; }
std::string Worker::description() const { return impl_->description_; }
WorkerStats Worker::stats() const { return impl_->Stats(); }
std::span<float> Worker::parameters() { return impl_->parameters_; }
std::span<float> Worker::gradients() { return impl_->gradients_; }

Eigen::Map<Eigen::ArrayXf> Worker::parameter(int tensor) {
  return {impl_->parameters_.data() + impl_->layout_.offset(tensor),
          static_cast<Eigen::Index>(impl_->layout_.tensor(tensor).count())};
}
Eigen::Map<Eigen::ArrayXf> Worker::gradient(int tensor) {
  return {impl_->gradients_.data() + impl_->layout_.offset(tensor),
          static_cast<Eigen::Index>(impl_->layout_.tensor(tensor).count())};
}

absl::Status Worker::Initialize(std::span<const float> values) { return impl_->Initialize(values); }
absl::StatusOr<Handle> Worker::PushAsync(int first, int last) {
  return impl_->Ask(Op::kPush, 0, first, last);
}
absl::StatusOr<Handle> Worker::PullAsync(int first, int last) {
  return impl_->Ask(Op::kPull, 0, first, last);
}
absl::StatusOr<Handle> Worker::PushPullAsync(int first, int last) {
  return impl_->Ask(Op::kPushPull, 0, first, last);
}
absl::Status Worker::Wait(Handle handle) { return impl_->Wait(handle); }
absl::Status Worker::EndStep() { return impl_->EndStep(); }

absl::Status Worker::Push() {
  GW_ASSIGN_OR_RETURN(const Handle handle,
                      impl_->Ask(Op::kPush, Request::kEndOfStep, 0, impl_->layout_.size()));
  return impl_->Wait(handle);
}
absl::Status Worker::Pull() {
  GW_ASSIGN_OR_RETURN(const Handle handle, impl_->Ask(Op::kPull, 0, 0, impl_->layout_.size()));
  return impl_->Wait(handle);
}
absl::Status Worker::PushPull() { return impl_->PushPull(); }
absl::Status Worker::Leave() { return impl_->Leave(); }

}  // namespace gradwire::ps
