#include "analysis/report/thin.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>
#include <tuple>

#include "analysis/report/tally.h"

namespace gradwire::analysis {
namespace {

// An operation takes at most this part of the intervals, so that several have a timeline.
constexpr size_t kOperationsInDetail = 4;

int64_t LengthOf(const PathStep& step) { return step.interval.end_ns - step.interval.begin_ns; }

// Neighbours that are drawn as one.
class Piece {
 public:
  bool empty() const { return steps_.empty(); }
  int64_t length() const { return empty() ? 0 : end_ns() - begin_ns(); }
  int64_t begin_ns() const { return steps_.front().interval.begin_ns; }
  int64_t end_ns() const { return steps_.back().interval.end_ns; }
  void Add(const PathStep& step) { steps_.push_back(step); }

  PathStep Take() {
    std::map<std::tuple<int, Class, int>, int64_t> weights;
    PathStep heaviest = steps_.front();
    int64_t most = -1;
    for (const PathStep& step : steps_) {
      int64_t& weight = weights[{step.rank, step.interval.in, step.interval.peer}];
      weight += LengthOf(step);
      if (weight > most) {
        most = weight;
        heaviest = step;
      }
    }
    heaviest.interval.begin_ns = begin_ns();
    heaviest.interval.end_ns = end_ns();
    steps_.clear();
    return heaviest;
  }

 private:
  std::vector<PathStep> steps_;
};

std::vector<PathStep> Joined(const std::vector<PathStep>& steps, int64_t quantum_ns) {
  std::vector<PathStep> joined;
  Piece piece;
  for (const PathStep& step : steps) {
    const bool is_long = LengthOf(step) >= quantum_ns;
    if (!piece.empty() &&
        (is_long || piece.length() >= quantum_ns || piece.end_ns() != step.interval.begin_ns)) {
      joined.push_back(piece.Take());
    }
    if (is_long) {
      joined.push_back(step);
    } else {
      piece.Add(step);
    }
  }
  if (!piece.empty()) joined.push_back(piece.Take());
  return joined;
}

size_t SizeOf(const Operation& operation) {
  size_t size = operation.critical.size();
  for (const RankTimes& times : operation.ranks) size += times.intervals.size();
  return size;
}

// Fewer intervals for an operation that alone has too many. Returns the coarsest length.
int64_t CoarsenOperation(Operation& operation, size_t limit) {
  const size_t lanes = operation.ranks.size() + 1;
  int64_t coarsest = Coarsen(operation.critical, limit / lanes);
  for (RankTimes& times : operation.ranks) {
    std::vector<PathStep> steps;
    steps.reserve(times.intervals.size());
    for (const Interval& interval : times.intervals) steps.push_back({times.rank, interval});
    coarsest = std::max(coarsest, Coarsen(steps, limit / lanes));
    times.intervals.clear();
    for (const PathStep& step : steps) times.intervals.push_back(step.interval);
  }
  return coarsest;
}

Operation WithoutDetail(const Operation& operation) {
  Operation plain{.number = operation.number,
                  .kind = operation.kind,
                  .what = operation.what,
                  .bytes = operation.bytes,
                  .retransmits = operation.retransmits,
                  .ranks = {},
                  .critical = {}};
  for (const RankTimes& times : operation.ranks) {
    plain.ranks.push_back({times.rank, times.begin_ns, times.end_ns, {}, times.total_ns});
  }
  return plain;
}

// Indices of the operations to show: the median one, then the others from the slowest on.
std::vector<size_t> ByInterest(const Run& run) {
  std::vector<size_t> order(run.operations.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&run](size_t a, size_t b) {
    return DurationOf(run.operations[a]) > DurationOf(run.operations[b]);
  });
  if (!order.empty()) {
    const auto median = order.begin() + static_cast<ptrdiff_t>(order.size() / 2);
    std::rotate(order.begin(), median, median + 1);
  }
  return order;
}

}  // namespace

int64_t Coarsen(std::vector<PathStep>& steps, size_t limit) {
  if (steps.size() <= limit || steps.empty()) return 0;
  const int64_t span = steps.back().interval.end_ns - steps.front().interval.begin_ns;
  // Half of the length that would do if all steps were short, then longer until it does.
  int64_t quantum =
      std::max<int64_t>(1, span / static_cast<int64_t>(2 * std::max<size_t>(limit, 1)));
  std::vector<PathStep> joined = Joined(steps, quantum);
  while (joined.size() > limit && quantum < span) {
    quantum *= 2;
    joined = Joined(steps, quantum);
  }
  steps = std::move(joined);
  return quantum;
}

Thinned Thin(const Run& run, const Limits& limits) {
  Thinned thinned;
  Run& out = thinned.run;
  out = Run{.name = run.name,
            .command = run.command,
            .started = run.started,
            .machine = run.machine,
            .world_size = run.world_size,
            .ranks = run.ranks,
            .operations = {},
            .flows = {},
            .steps = {},  // summed up
            .step_summary = run.step_summary,
            .findings = run.findings,
            .model = run.model,
            .model_note = run.model_note,
            .problems = run.problems};

  const std::vector<size_t> order = ByInterest(run);
  const size_t shown = std::min(order.size(), limits.operations);
  if (shown < order.size()) {
    thinned.left_out.push_back(
        fmt::format("Of {} operations the median one and the {} slowest are shown; sums and "
                    "findings are of all.",
                    order.size(), shown - 1));
  }
  std::set<uint64_t> in_detail;
  std::map<size_t, Operation> kept;  // by place in the run
  size_t room = limits.intervals;
  int64_t coarsest = 0;
  bool is_full = false;
  for (size_t i = 0; i < shown; ++i) {
    const Operation& operation = run.operations[order[i]];
    const size_t most = std::max<size_t>(1, limits.intervals / kOperationsInDetail);
    is_full = is_full || std::min(SizeOf(operation), most) > room;
    if (is_full) {
      kept.emplace(order[i], WithoutDetail(operation));
      continue;
    }
    Operation copy = operation;
    if (SizeOf(copy) > most) coarsest = std::max(coarsest, CoarsenOperation(copy, most));
    room -= std::min(room, SizeOf(copy));
    in_detail.insert(copy.number);
    kept.emplace(order[i], std::move(copy));
  }
  for (auto& [place, operation] : kept) out.operations.push_back(std::move(operation));
  if (is_full) {
    thinned.left_out.push_back(
        fmt::format("Timelines are here of the median operation and the {} slowest of {}; the "
                    "Chrome trace and the CSV files of `gradwire analyze` have all.",
                    in_detail.size() - 1, order.size()));
  }
  if (coarsest > 0) {
    thinned.left_out.push_back(fmt::format(
        "In timelines with too many intervals, pieces up to {:.3f} us long show the class that "
        "fills most of them; sums are exact.",
        static_cast<double>(coarsest) / 1e3));
  }

  size_t flows = 0;
  for (const Flow& flow : run.flows) flows += in_detail.count(flow.operation);
  const size_t step =
      flows <= limits.flows ? 1 : (flows - 1) / std::max<size_t>(1, limits.flows) + 1;
  size_t number = 0;
  for (const Flow& flow : run.flows) {
    if (in_detail.count(flow.operation) == 0) continue;
    if (number++ % step == 0) out.flows.push_back(flow);
  }
  if (step > 1) {
    thinned.left_out.push_back(
        fmt::format("One write of {} is drawn as an arrow: there are {}.", step, flows));
  }
  return thinned;
}

}  // namespace gradwire::analysis
