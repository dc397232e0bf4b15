#include "bench/sampling.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <new>

#include "bench/pattern.h"
#include "bench/statistics.h"

namespace gradwire::bench {
namespace {

constexpr int64_t kHuge = 256 << 20;  // bytes from which fewer calls must do
constexpr size_t kPage = 4096;

// One size, on one rank.
class Sampler {
 public:
  Sampler(Group& group, const SamplingOptions& options, int64_t bytes, const Pattern& pattern,
          float* tensor)
      : group_(group),
        options_(options),
        pattern_(pattern),
        huge_(bytes >= kHuge),
        count_(static_cast<size_t>(bytes) / sizeof(float)),
        tensor_(tensor) {}

  absl::StatusOr<std::string> Run() {
    GW_RETURN_IF_ERROR(Check());
    // Zeros stay zeros when they are summed in place again and again; all pages are resident.
    std::memset(tensor_, 0, count_ * sizeof(float));
    GW_ASSIGN_OR_RETURN(const int iterations, WarmUp());
    GW_RETURN_IF_ERROR(Measure(iterations));
    GW_RETURN_IF_ERROR(Check());
    return Row();
  }

  int64_t wrong() const { return wrong_; }

 private:
  static double Now() {
    // One clock for all processes of a host, so that starts and ends can be compared.
    return std::chrono::duration<double, std::micro>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }

  absl::Status Check() {
    pattern_.Fill(TensorView(tensor_, count_, DataType::kFloat32), group_.rank(), 0);
    GW_RETURN_IF_ERROR(group_.AllReduce(tensor_, count_));
    std::vector<double> wrong = {static_cast<double>(
        pattern_.CountUnreduced(ConstTensorView(tensor_, count_, DataType::kFloat32), 0))};
    GW_RETURN_IF_ERROR(group_.Max(wrong));
    wrong_ += static_cast<int64_t>(wrong[0]);
    return absl::OkStatus();
  }

  // Calls until a tenth of the budget is spent; returns how many timed calls fill the budget. The
  // mean decides, not the fastest call, so that rare long stalls count.
  absl::StatusOr<int> WarmUp() {
    const int at_least = huge_ ? 1 : 2;
    double spent = 0;
    int calls = 0;
    while (calls < at_least || (calls < 50 && spent < 0.1 * options_.budget * 1e6)) {
      GW_RETURN_IF_ERROR(group_.Barrier());
      const double start = Now();
      GW_RETURN_IF_ERROR(group_.AllReduce(tensor_, count_));
      std::vector<double> took = {Now() - start};
      GW_RETURN_IF_ERROR(group_.Max(took));
      spent += took[0];
      ++calls;
    }
    const double mean = std::max(spent / calls, 0.1);
    const double low = std::min(options_.min_iterations, huge_ ? 3 : options_.min_iterations);
    return static_cast<int>(std::clamp(options_.budget * 1e6 / mean, low,
                                       std::max<double>(low, options_.max_iterations)));
  }

  absl::Status Measure(int iterations) {
    durations_.resize(static_cast<size_t>(iterations));
    starts_.resize(durations_.size());
    ends_.resize(durations_.size());
    for (size_t i = 0; i < durations_.size(); ++i) {
      GW_RETURN_IF_ERROR(group_.Barrier());
      starts_[i] = Now();
      GW_RETURN_IF_ERROR(group_.AllReduce(tensor_, count_));
      ends_[i] = Now();
      durations_[i] = ends_[i] - starts_[i];
    }
    GW_RETURN_IF_ERROR(group_.Max(durations_));
    GW_RETURN_IF_ERROR(group_.Max(starts_));
    return group_.Max(ends_);
  }

  std::string Row() const {
    const Summary time = Summarize(durations_);
    std::vector<double> together(durations_.size());
    for (size_t i = 0; i < together.size(); ++i) together[i] = ends_[i] - starts_[i];
    const double bytes = static_cast<double>(count_ * sizeof(float));
    const double bandwidth = time.p50 > 0 ? bytes / (time.p50 * 1e3) : 0;
    const double ranks = group_.size();
    return fmt::format("{},{},{},{},{:.2f},{:.2f},{:.2f},{:.4f},{:.4f},in,{},{},{},{:.2f}",
                       options_.label, options_.transport, group_.size(), count_ * sizeof(float),
                       time.p50, time.min, time.p99, bandwidth, bandwidth * 2 * (ranks - 1) / ranks,
                       durations_.size(), wrong_, options_.round, Summarize(together).p50);
  }

  Group& group_;
  const SamplingOptions& options_;
  const Pattern& pattern_;
  const bool huge_;
  const size_t count_;
  float* const tensor_;
  int64_t wrong_ = 0;
  std::vector<double> durations_;  // microseconds, largest of all ranks after Measure
  std::vector<double> starts_;
  std::vector<double> ends_;
};

}  // namespace

void Group::FreePages::operator()(std::byte* pages) const {
  ::operator delete[](pages, std::align_val_t{kPage});
}

absl::StatusOr<std::byte*> Group::Allocate(size_t bytes) {
  pages_.reset(new (std::align_val_t{kPage}, std::nothrow) std::byte[bytes]);
  if (pages_ == nullptr) {
    return MakeError(absl::StatusCode::kResourceExhausted,
                     "no memory for a tensor of {} bytes on this rank; measure smaller sizes",
                     bytes);
  }
  return pages_.get();
}

std::string SamplingHeader() {
  return "peer,transport,ranks,bytes,median_us,min_us,p99_us,algbw_GBs,busbw_GBs,mode,iters,bad,"
         "rep,median_last_us";
}

absl::StatusOr<int64_t> Sample(Group& group, const SamplingOptions& options,
                               const std::function<void(const std::string&)>& print) {
  GW_ASSIGN_OR_RETURN(const Pattern pattern,
                      Pattern::Make(DataType::kFloat32, ReduceOp::kSum, group.size()));
  if (options.sizes.empty()) return 0;
  // Never empty, so that a size below one element still has a place.
  const int64_t largest = *std::max_element(options.sizes.begin(), options.sizes.end());
  const size_t place = (static_cast<size_t>(largest) / kPage + 1) * kPage;
  GW_ASSIGN_OR_RETURN(std::byte* const memory, group.Allocate(place));
  int64_t wrong = 0;
  for (const int64_t bytes : options.sizes) {
    Sampler sampler(group, options, bytes, pattern,
                    static_cast<float*>(static_cast<void*>(memory)));
    GW_ASSIGN_OR_RETURN(const std::string row, sampler.Run());
    wrong += sampler.wrong();
    if (group.rank() == 0) print(row);
  }
  return wrong;
}

}  // namespace gradwire::bench
