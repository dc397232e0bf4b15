#include "bench/runner.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <span>
#include <type_traits>

#include "bench/resources.h"
#include "bench/tensor_memory.h"

namespace gradwire::bench {
namespace {

double Now() {
  return std::chrono::duration<double, std::micro>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// What one rank finds out about one half; gathered as doubles.
struct RankResult {
  double time_us = 0;
  double wrong = 0;
  ResourceUse used;
};
constexpr size_t kFields = sizeof(RankResult) / sizeof(double);
static_assert(std::is_trivially_copyable_v<RankResult>);
static_assert(kFields * sizeof(double) == sizeof(RankResult));

absl::StatusOr<std::vector<RankResult>> Gather(Communicator& communicator, RankResult mine) {
  std::vector<RankResult> all(static_cast<size_t>(communicator.size()));
  GW_RETURN_IF_ERROR(
      communicator.AllGather(std::span<double>(&mine.time_us, kFields),
                             std::span<double>(&all[0].time_us, all.size() * kFields)));
  return all;
}

double TimeShown(const std::vector<RankResult>& results, Average average) {
  const auto less = [](const RankResult& a, const RankResult& b) { return a.time_us < b.time_us; };
  switch (average) {
    case Average::kRank0:
      return results[0].time_us;
    case Average::kMin:
      return std::min_element(results.begin(), results.end(), less)->time_us;
    case Average::kMax:
      return std::max_element(results.begin(), results.end(), less)->time_us;
    case Average::kMean:
      break;
  }
  double sum = 0;
  for (const RankResult& result : results) sum += result.time_us;
  return sum / static_cast<double>(results.size());
}

class Sweep {
 public:
  Sweep(Communicator& communicator, const CollectiveInfo& collective, const Options& options,
        std::byte* send, std::byte* receive)
      : communicator_(communicator),
        collective_(collective),
        options_(options),
        send_(send),
        receive_(receive) {
    communicator_.Record(false);
  }

  absl::StatusOr<Row> Measure(const Case& measured) {
    Row row{measured, measured.Bytes(communicator_.size())};
    GW_ASSIGN_OR_RETURN(row.out_of_place, MeasureHalf(measured, false));
    GW_ASSIGN_OR_RETURN(row.in_place, MeasureHalf(measured, true));
    return row;
  }

 private:
  absl::StatusOr<Half> MeasureHalf(const Case& measured, bool in_place) {
    Call call(measured, in_place, communicator_, send_, receive_);
    call.Clear();
    for (int64_t i = 0; i < options_.warmups; ++i) GW_RETURN_IF_ERROR(call.Run());

    Half half;
    GW_ASSIGN_OR_RETURN(RankResult mine, TimeRun(call));
    GW_RETURN_IF_ERROR(SampleCalls(call, half.samples));
    half.per_call = Summarize(half.samples);
    GW_ASSIGN_OR_RETURN(mine.wrong, CheckCalls(measured, call));

    GW_ASSIGN_OR_RETURN(const std::vector<RankResult> results, Gather(communicator_, mine));
    ResourceUse used;
    double wrong = 0;
    for (const RankResult& result : results) {
      used += result.used;
      wrong += result.wrong;
    }
    const double ranks = communicator_.size();
    const double gigabytes = static_cast<double>(measured.Bytes(communicator_.size())) / 1e9;
    half.time_us = TimeShown(results, options_.average);
    if (half.time_us > 0) half.algorithm_bandwidth = gigabytes / (half.time_us * 1e-6);
    half.bus_bandwidth = half.algorithm_bandwidth * collective_.BusFactor(communicator_.size());
    const double calls = ranks * static_cast<double>(options_.iterations);
    half.cost = CostOf(used, gigabytes * calls, calls,
                       gigabytes * 1e9 * calls * collective_.MovedFactor(communicator_.size()));
    if (options_.checks > 0) half.wrong = static_cast<int64_t>(wrong);
    return half;
  }

  // The column `time`: calls one after another without anything between them. With --telemetry
  // these are what is recorded.
  absl::StatusOr<RankResult> TimeRun(Call& call) {
    GW_RETURN_IF_ERROR(communicator_.Barrier());
    const ResourceUse before = CurrentUse(communicator_.stats());
    communicator_.Record(true);
    const double start = Now();
    for (int64_t i = 0; i < options_.iterations; ++i) GW_RETURN_IF_ERROR(call.Run());
    const double took = Now() - start;
    communicator_.Record(false);
    return RankResult{.time_us = took / static_cast<double>(options_.iterations),
                      .used = CurrentUse(communicator_.stats()) - before};
  }

  // The percentiles: a barrier before each call, and the slowest rank's time.
  absl::Status SampleCalls(Call& call, std::vector<double>& samples) {
    samples.resize(static_cast<size_t>(options_.iterations));
    for (double& sample : samples) {
      GW_RETURN_IF_ERROR(communicator_.Barrier());
      const double start = Now();
      GW_RETURN_IF_ERROR(call.Run());
      sample = Now() - start;
    }
    return communicator_.AllReduce(samples, ReduceOp::kMax);
  }

  absl::StatusOr<double> CheckCalls(const Case& measured, Call& call) {
    if (options_.checks == 0) return 0.0;
    GW_ASSIGN_OR_RETURN(const Pattern pattern,
                        Pattern::Make(measured.type, measured.op, communicator_.size()));
    size_t wrong = 0;
    for (int64_t i = 0; i < options_.checks; ++i) {
      call.Fill(pattern);
      GW_RETURN_IF_ERROR(call.Run());
      wrong += call.CountWrong(pattern);
    }
    return static_cast<double>(wrong);
  }

  Communicator& communicator_;
  const CollectiveInfo& collective_;
  const Options& options_;
  std::byte* send_;
  std::byte* receive_;
};

std::vector<int> RootsOf(const CollectiveInfo& collective, const Options& options, int ranks) {
  if (!collective.rooted || options.root >= 0) return {static_cast<int>(options.root)};
  std::vector<int> roots(static_cast<size_t>(ranks));
  std::iota(roots.begin(), roots.end(), 0);
  return roots;
}

}  // namespace

absl::StatusOr<Totals> RunSweep(Communicator& communicator, const CollectiveInfo& collective,
                                const Options& options,
                                const std::function<void(const Row&)>& print) {
  const int ranks = communicator.size();
  GW_RETURN_IF_ERROR(Validate(options, ranks));
  GW_ASSIGN_OR_RETURN(const std::vector<int64_t> sizes, SizesOf(options));
  const auto largest = static_cast<size_t>(*std::max_element(sizes.begin(), sizes.end()));
  GW_ASSIGN_OR_RETURN(const TensorMemory send,
                      TensorMemory::Make(communicator, largest, options.registered));
  GW_ASSIGN_OR_RETURN(const TensorMemory receive,
                      TensorMemory::Make(communicator, largest, options.registered));

  // An operation means nothing to a collective that does not reduce: one row then.
  const std::vector<ReduceOp> ops =
      collective.reduces ? options.ops : std::vector<ReduceOp>{ReduceOp::kSum};
  Sweep sweep(communicator, collective, options, send.data(), receive.data());
  Totals totals;
  int64_t halves = 0;
  for (int64_t cycle = 0; options.cycles == 0 || cycle < options.cycles; ++cycle) {
    for (const DataType type : options.types) {
      for (const ReduceOp op : ops) {
        for (const int root : RootsOf(collective, options, ranks)) {
          for (const int64_t bytes : sizes) {
            GW_ASSIGN_OR_RETURN(const Row row,
                                sweep.Measure(MakeCase(collective, type, op, root,
                                                       static_cast<size_t>(bytes), ranks)));
            for (const Half* half : {&row.out_of_place, &row.in_place}) {
              totals.wrong += half->wrong.value_or(0);
              // The mean of all halves so far, so that it also stands when nothing has been summed.
              totals.bus_bandwidth +=
                  (half->bus_bandwidth - totals.bus_bandwidth) / static_cast<double>(++halves);
            }
            print(row);
          }
        }
      }
    }
  }
  return totals;
}

}  // namespace gradwire::bench
