#include "bench/sampling.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
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
class Measurement {
 public:
  Measurement(Group& group, const SamplingOptions& options, int64_t bytes, const Pattern& pattern,
              float* tensor)
      : group_(group),
        options_(options),
        pattern_(pattern),
        huge_(bytes >= kHuge),
        count_(group.CountOf(bytes)),
        tensor_(tensor) {}

  absl::StatusOr<SampledRow> Run() {
    GW_RETURN_IF_ERROR(Check());
    // Zeros stay zeros when they are summed in place again and again; all pages are resident.
    std::memset(tensor_, 0, count_ * sizeof(float));
    GW_ASSIGN_OR_RETURN(const int iterations, WarmUp());
    GW_RETURN_IF_ERROR(Measure(iterations));
    GW_RETURN_IF_ERROR(Check());
    return Row();
  }

 private:
  static double Now() {
    // One clock for all processes of a host, so that starts and ends can be compared.
    return std::chrono::duration<double, std::micro>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }

  absl::Status Check() {
    group_.Fill(pattern_, tensor_, count_);
    GW_RETURN_IF_ERROR(group_.Run(tensor_, count_));
    std::vector<double> wrong = {static_cast<double>(group_.CountWrong(pattern_, tensor_, count_))};
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
      GW_RETURN_IF_ERROR(group_.Run(tensor_, count_));
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
      GW_RETURN_IF_ERROR(group_.Run(tensor_, count_));
      ends_[i] = Now();
      durations_[i] = ends_[i] - starts_[i];
    }
    GW_RETURN_IF_ERROR(group_.Max(durations_));
    GW_RETURN_IF_ERROR(group_.Max(starts_));
    return group_.Max(ends_);
  }

  SampledRow Row() const {
    const Summary time = Summarize(durations_);
    std::vector<double> together(durations_.size());
    for (size_t i = 0; i < together.size(); ++i) together[i] = ends_[i] - starts_[i];
    const auto bytes = static_cast<int64_t>(count_ * sizeof(float));
    const double bandwidth = time.p50 > 0 ? static_cast<double>(bytes) / (time.p50 * 1e3) : 0;
    return {.peer = options_.label,
            .transport = options_.transport,
            .ranks = group_.size(),
            .bytes = bytes,
            .median_us = time.p50,
            .min_us = time.min,
            .p99_us = time.p99,
            .algorithm_bandwidth = bandwidth,
            .bus_bandwidth = bandwidth * group_.BusFactor(),
            .iterations = static_cast<int64_t>(durations_.size()),
            .wrong = wrong_,
            .round = options_.round,
            .median_last_us = Summarize(together).p50};
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

size_t Group::CountOf(int64_t bytes) const { return static_cast<size_t>(bytes) / sizeof(float); }

void Group::Fill(const Pattern& pattern, float* tensor, size_t count) const {
  pattern.Fill(TensorView(tensor, count, DataType::kFloat32), rank(), 0);
}

size_t Group::CountWrong(const Pattern& pattern, const float* tensor, size_t count) const {
  return pattern.CountUnreduced(ConstTensorView(tensor, count, DataType::kFloat32), 0);
}

double Group::BusFactor() const { return 2.0 * (size() - 1) / size(); }

std::string SamplingHeader() {
  return "peer,transport,ranks,bytes,median_us,min_us,p99_us,algbw_GBs,busbw_GBs,mode,iters,bad,"
         "rep,median_last_us";
}

std::string FormatCsv(const SampledRow& row) {
  return fmt::format("{},{},{},{},{:.2f},{:.2f},{:.2f},{:.4f},{:.4f},in,{},{},{},{:.2f}", row.peer,
                     row.transport, row.ranks, row.bytes, row.median_us, row.min_us, row.p99_us,
                     row.algorithm_bandwidth, row.bus_bandwidth, row.iterations, row.wrong,
                     row.round, row.median_last_us);
}

absl::StatusOr<SampledRow> ParseCsv(std::string_view line) {
  std::vector<std::string_view> cells;
  for (size_t begin = 0, end = 0; end != std::string_view::npos; begin = end + 1) {
    end = line.find(',', begin);
    cells.push_back(line.substr(begin, end == std::string_view::npos ? end : end - begin));
  }
  bool whole = cells.size() == 14 && cells[9] == "in";
  // Numbers are at least 0; a ratio or a median of anything else would mean nothing.
  const auto number = [&whole, &cells](size_t cell, auto& value) {
    if (!whole) return;
    const char* end = cells[cell].data() + cells[cell].size();
    const auto [rest, error] = std::from_chars(cells[cell].data(), end, value);
    whole = error == std::errc() && rest == end && value >= 0;
  };
  SampledRow row;
  number(2, row.ranks);
  number(3, row.bytes);
  number(4, row.median_us);
  number(5, row.min_us);
  number(6, row.p99_us);
  number(7, row.algorithm_bandwidth);
  number(8, row.bus_bandwidth);
  number(10, row.iterations);
  number(11, row.wrong);
  number(12, row.round);
  number(13, row.median_last_us);
  if (!whole) return InvalidArgument("'{}' is no row of {}", line, SamplingHeader());
  row.peer = cells[0];
  row.transport = cells[1];
  return row;
}

absl::StatusOr<Sampler> Sampler::Create(Group& group, const SamplingOptions& options) {
  Sampler sampler(group, options);
  // Never empty, so that a size below one element still has a place.
  const int64_t largest =
      options.sizes.empty() ? 0 : *std::max_element(options.sizes.begin(), options.sizes.end());
  const size_t place = (static_cast<size_t>(largest) / kPage + 1) * kPage;
  GW_ASSIGN_OR_RETURN(std::byte* const memory, group.Allocate(place));
  sampler.tensor_ = static_cast<float*>(static_cast<void*>(memory));
  return sampler;
}

absl::StatusOr<SampledRow> Sampler::Measure(int64_t bytes) {
  GW_ASSIGN_OR_RETURN(const Pattern pattern,
                      Pattern::Make(DataType::kFloat32, ReduceOp::kSum, group_->size()));
  return Measurement(*group_, options_, bytes, pattern, tensor_).Run();
}

absl::StatusOr<int64_t> Sample(Group& group, const SamplingOptions& options,
                               const std::function<void(const SampledRow&)>& print) {
  GW_ASSIGN_OR_RETURN(Sampler sampler, Sampler::Create(group, options));
  int64_t wrong = 0;
  for (const int64_t bytes : options.sizes) {
    GW_ASSIGN_OR_RETURN(const SampledRow row, sampler.Measure(bytes));
    wrong += row.wrong;
    if (group.rank() == 0) print(row);
  }
  return wrong;
}

}  // namespace gradwire::bench
