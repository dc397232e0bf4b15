#include "bench/replay.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <memory>
#include <span>

#include "bench/collective.h"
#include "bench/pattern.h"
#include "bench/table.h"
#include "collectives/gradient_buckets.h"

namespace gradwire::bench {
namespace {

// One way to send the gradients, on one rank.
class Mode {
 public:
  static absl::StatusOr<Mode> Make(Communicator& communicator, std::span<const int64_t> sizes,
                                   int64_t bucket_bytes) {
    Mode mode(communicator, sizes);
    GW_ASSIGN_OR_RETURN(mode.buckets_, GradientBuckets::Create(communicator, sizes, bucket_bytes));
    mode.row_.bucket_bytes = bucket_bytes;
    mode.row_.tensors = static_cast<int64_t>(sizes.size());
    mode.row_.operations = mode.buckets_->count();
    for (const int64_t size : sizes) {
      mode.row_.bytes += size * static_cast<int64_t>(sizeof(float));
    }
    return mode;
  }

  absl::Status TimeStep() {
    GW_RETURN_IF_ERROR(communicator_->Barrier());
    const ResourceUse before = CurrentUse(communicator_->stats());
    const Clock::time_point start = Clock::now();
    {
      const StepScope recorded = communicator_->BeginStep();
      GW_RETURN_IF_ERROR(Step());
    }
    row_.samples.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count());
    used_ += CurrentUse(communicator_->stats()) - before;
    return absl::OkStatus();
  }

  absl::Status CheckStep(const Pattern& pattern) {
    for (int i = 0; i < buckets_->count(); ++i) {
      pattern.Fill(View(i), communicator_->rank(), Offset(i));
    }
    GW_RETURN_IF_ERROR(Step());
    for (int i = 0; i < buckets_->count(); ++i)
      wrong_ += pattern.CountUnreduced(View(i), Offset(i));
    return absl::OkStatus();
  }

  // Timed steps send zeros, which stay zeros however often they are summed.
  void Clear() {
    for (int i = 0; i < buckets_->count(); ++i) std::ranges::fill(buckets_->gradients(i), 0.0f);
    row_.samples.clear();
    used_ = {};
  }

  // Makes all ranks' results one.
  absl::StatusOr<ReplayRow> Finish(const Options& options) {
    const double ranks = communicator_->size();
    GW_RETURN_IF_ERROR(communicator_->AllReduce(row_.samples, ReduceOp::kMax));
    std::array<double, 8> sums = {used_.user_seconds,       used_.system_seconds,
                                  used_.voluntary_switches, used_.involuntary_switches,
                                  used_.syscalls,           used_.blocks,
                                  used_.bytes_copied,       static_cast<double>(wrong_)};
    GW_RETURN_IF_ERROR(communicator_->AllReduce(sums));
    row_.step = Summarize(row_.samples);
    if (row_.step.p50 > 0) {
      row_.algorithm_bandwidth = static_cast<double>(row_.bytes) / (row_.step.p50 * 1e3);
    }
    row_.bus_bandwidth =
        row_.algorithm_bandwidth * AllCollectives()[0].BusFactor(communicator_->size());
    const double steps = ranks * static_cast<double>(options.iterations);
    const double moved = static_cast<double>(row_.bytes) * steps;
    row_.cost = CostOf({sums[0], sums[1], sums[2], sums[3], sums[4], sums[5], sums[6]}, moved / 1e9,
                       steps, moved * AllCollectives()[0].MovedFactor(communicator_->size()));
    if (options.checks > 0) row_.wrong = static_cast<int64_t>(sums[7]);
    return row_;
  }

 private:
  Mode(Communicator& communicator, std::span<const int64_t> sizes)
      : communicator_(&communicator), sizes_(sizes) {}

  // As a backward pass that takes no time: every gradient becomes final at once.
  absl::Status Step() {
    int64_t end = 0;
    for (const int64_t size : sizes_) buckets_->Ready(end += size);
    CommunicationTime time;
    absl::Status status;
    for (int i = 0; i < buckets_->count(); ++i) status.Update(buckets_->Wait(i, time));
    return status;
  }
  TensorView View(int bucket) const { return buckets_->gradients(bucket); }
  size_t Offset(int bucket) const { return static_cast<size_t>(buckets_->offset(bucket)); }

  Communicator* communicator_;
  std::span<const int64_t> sizes_;
  std::unique_ptr<GradientBuckets> buckets_;
  ReplayRow row_;
  ResourceUse used_;
  size_t wrong_ = 0;
};

}  // namespace

absl::StatusOr<std::vector<ReplayRow>> Replay(Communicator& communicator,
                                              const std::vector<Gradient>& gradients,
                                              const Options& options) {
  std::vector<int64_t> sizes;
  for (const Gradient& gradient : gradients) sizes.push_back(gradient.size());
  std::vector<Mode> modes;
  for (const int64_t bucket_bytes : {int64_t{1}, options.bucket_bytes}) {
    GW_ASSIGN_OR_RETURN(Mode mode, Mode::Make(communicator, sizes, bucket_bytes));
    modes.push_back(std::move(mode));
  }
  if (options.checks > 0) {
    GW_ASSIGN_OR_RETURN(const Pattern pattern,
                        Pattern::Make(DataType::kFloat32, ReduceOp::kSum, communicator.size()));
    for (int64_t i = 0; i < options.checks; ++i) {
      for (Mode& mode : modes) GW_RETURN_IF_ERROR(mode.CheckStep(pattern));
    }
  }
  for (const int64_t steps : {options.warmups, options.iterations}) {
    for (Mode& mode : modes) mode.Clear();
    for (int64_t i = 0; i < steps; ++i) {
      for (Mode& mode : modes) GW_RETURN_IF_ERROR(mode.TimeStep());
    }
  }
  std::vector<ReplayRow> rows;
  for (Mode& mode : modes) {
    GW_ASSIGN_OR_RETURN(ReplayRow row, mode.Finish(options));
    rows.push_back(std::move(row));
  }
  return rows;
}

std::string ReplayHeader(const std::string& description, const Options& options, int ranks) {
  std::string text = fmt::format("# gradwire: {}\n", description);
  text += fmt::format(
      "# gradients of {}, float32, summed over {} rank{}, last layer first, issued\n"
      "# asynchronously; both ways by turns, {} warm-up and {} timed steps, {} checked\n"
      "# bucket: bytes of a bucket, none: each tensor by itself; ops: all-reduces of a\n"
      "# step; p50 p95 p99: of a step, the slowest rank's; cpu: user and system, of one\n"
      "# rank\n#\n",
      options.model, ranks, ranks == 1 ? "" : "s", options.warmups, options.iterations,
      options.checks);
  text += fmt::format("# {:>6} {:>7} {:>9} {:>4} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6}\n",
                      "bucket", "tensors", "bytes", "ops", "p50", "p95", "p99", "algbw", "busbw",
                      "cpu", "#wrong");
  text +=
      fmt::format("# {:>6} {:>7} {:>9} {:>4} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6}\n", "(B)",
                  "", "(B)", "", "(ms)", "(ms)", "(ms)", "(GB/s)", "(GB/s)", "(s/GB)", "");
  return text;
}

std::string FormatRow(const ReplayRow& row) {
  const auto number = [](double value) { return FormatNumber(value, 6); };
  return fmt::format(
      "{:>8} {:7} {:9} {:4} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6}\n",
      row.bucket_bytes == 1 ? "none" : std::to_string(row.bucket_bytes), row.tensors, row.bytes,
      row.operations, number(row.step.p50 / 1e3), number(row.step.p95 / 1e3),
      number(row.step.p99 / 1e3), number(row.algorithm_bandwidth), number(row.bus_bandwidth),
      number(row.cost.cpu_seconds_per_gb()), row.wrong ? std::to_string(*row.wrong) : "N/A");
}

std::string ReplayFooter(int64_t wrong) {
  return fmt::format("# Out of bounds values : {} {}\n", wrong, wrong == 0 ? "OK" : "FAILED");
}

}  // namespace gradwire::bench
