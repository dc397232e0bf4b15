#include "analysis/analyse.h"

#include <algorithm>
#include <map>
#include <utility>

#include "analysis/attribution.h"
#include "analysis/clocks.h"
#include "analysis/critical_path.h"
#include "analysis/findings.h"
#include "analysis/median.h"
#include "analysis/recordings.h"
#include "analysis/run_model.h"
#include "analysis/trace.h"
#include "collectives/exchange.h"

namespace gradwire::analysis {
namespace {

// Beyond it a size in bytes is no number that a machine has.
constexpr uint64_t kMostElements = uint64_t{1} << 48;

// What the recorder noted of an operation; nothing for what cannot be.
std::optional<OperationKey> KeyOf(const Doing& doing) {
  if (doing.operation->detail > static_cast<uint8_t>(CollectiveKind::kBarrier)) return {};
  OperationKey key;
  key.kind = static_cast<CollectiveKind>(doing.operation->detail);
  if (doing.operands == nullptr) return key;
  const int type = doing.operands->detail / 16, op = doing.operands->detail % 16;
  if (type >= kDataTypeCount || op >= kReduceOpCount) return {};
  key.type = static_cast<DataType>(type);
  key.op = static_cast<ReduceOp>(op);
  if (doing.operands->value > kMostElements) return {};
  key.count = doing.operands->value;
  key.root = std::max<int>(0, doing.operands->peer);
  return key;
}

RankTimes TimesOf(int rank, const Doing& doing, const Attribution& attribution) {
  RankTimes times{rank, doing.begin_ns, doing.end_ns, attribution.Of(rank, doing.number), {}};
  for (const Interval& each : times.intervals) {
    times.total_ns[static_cast<size_t>(each.in)] += each.end_ns - each.begin_ns;
  }
  return times;
}

void AddFlows(const Trace& trace, size_t most, Run& run) {
  // The operation that a moment of a rank belongs to; 0: none. Every rank did all of them.
  const auto operation_at = [&](int rank, int64_t moment) -> uint64_t {
    const auto next = std::partition_point(
        run.operations.begin(), run.operations.end(),
        [&](const Operation& each) { return trace.Find(rank, each.number)->end_ns <= moment; });
    const bool inside =
        next != run.operations.end() && trace.Find(rank, next->number)->begin_ns <= moment;
    return inside ? next->number : 0;
  };
  std::vector<Flow> all;
  trace.ForEachWrite([&](int from, int to, uint64_t, const Write& write) {
    if (write.written_ns < 0 || write.arrived_ns < 0) return;
    const uint64_t operation = operation_at(from, write.written_ns);
    if (operation == 0) return;
    const int64_t posted = write.posted_ns >= 0 ? write.posted_ns : write.written_ns;
    all.push_back({from, to, posted, write.arrived_ns, write.bytes, operation});
  });
  std::sort(all.begin(), all.end(),
            [](const Flow& a, const Flow& b) { return a.posted_ns < b.posted_ns; });
  if (all.size() <= most) {
    run.flows = std::move(all);
    return;
  }
  // Evenly over time, so that all pairs have theirs.
  run.problems.push_back(
      fmt::format("Of {} writes {} are kept for the timeline.", all.size(), most));
  for (size_t i = 0; i < most; ++i) run.flows.push_back(all[i * all.size() / most]);
}

std::optional<StepSummary> SummaryOf(const std::vector<StepTimes>& steps) {
  if (steps.empty()) return std::nullopt;
  std::map<uint64_t, int64_t> slowest;  // by number
  double all = 0, held = 0;
  for (const StepTimes& step : steps) {
    const int64_t took = step.end_ns - step.begin_ns;
    slowest[step.number] = std::max(slowest[step.number], took);
    all += static_cast<double>(took);
    held += static_cast<double>(step.held_ns);
  }
  std::vector<int64_t> times;
  for (const auto& [number, took] : slowest) times.push_back(took);
  return StepSummary{times.size(), Median(std::move(times)), all > 0 ? held / all : 0};
}

void AddSteps(const Trace& trace, Run& run) {
  for (const telemetry::Recording& recording : trace.recordings()) {
    const auto& steps = trace.Steps(recording.facts.rank);
    run.steps.insert(run.steps.end(), steps.begin(), steps.end());
  }
  std::stable_sort(run.steps.begin(), run.steps.end(),
                   [](const StepTimes& a, const StepTimes& b) { return a.begin_ns < b.begin_ns; });
  run.step_summary = SummaryOf(run.steps);
}

void AddRanks(const Trace& trace, Run& run) {
  for (size_t i = 0; i < trace.recordings().size(); ++i) {
    const telemetry::Facts& facts = trace.recordings()[i].facts;
    run.ranks.push_back({facts.rank, facts.machine.host, facts.transport, facts.device,
                         trace.alignment()[i].offset_ns, trace.alignment()[i].error_ns,
                         facts.lost_events, facts.counters, facts.settings});
  }
  const telemetry::Facts& first = trace.recordings().front().facts;
  run.name = first.transport;
  run.command = first.command;
  run.started = first.started;
  run.machine = first.machine;
  run.world_size = trace.world_size();
}

}  // namespace

absl::StatusOr<Run> Analyse(const std::filesystem::path& folder, const AnalyseOptions& options) {
  GW_ASSIGN_OR_RETURN(Recordings recordings, ReadRecordings(folder));
  Run run;
  std::vector<Alignment> alignment = AlignClocks(recordings.ranks, recordings.problems);
  run.problems = std::move(recordings.problems);
  const Trace trace(std::move(recordings), std::move(alignment));
  const Attribution attribution(trace);
  AddRanks(trace, run);
  int strange = 0, cut = 0;
  int64_t ended = 0;  // of the operation before, on every rank
  for (const uint64_t number : trace.Numbers()) {
    Operation operation;
    operation.number = number;
    bool whole = true, known = true;
    for (const telemetry::Recording& recording : trace.recordings()) {
      const Doing* const doing = trace.Find(recording.facts.rank, number);
      if (doing == nullptr) {
        whole = false;  // overwritten on this rank
        continue;
      }
      const auto key = KeyOf(*doing);
      known = known && key.has_value();
      if (key) {
        operation.kind = NameOf(key->kind);
        operation.what = key->Describe();
        operation.bytes = key->count * SizeOf(key->type);
      }
      operation.retransmits += doing->retransmits;
      operation.ranks.push_back(TimesOf(recording.facts.rank, *doing, attribution));
    }
    if (!known) {
      ++strange;
      continue;
    }
    if (!whole) {
      ++cut;
      continue;
    }
    const int64_t after = std::exchange(
        ended,
        std::max_element(operation.ranks.begin(), operation.ranks.end(),
                         [](const RankTimes& a, const RankTimes& b) { return a.end_ns < b.end_ns; })
            ->end_ns);
    if (operation.bytes == 0 && !options.barriers) continue;
    operation.critical = CriticalPath(trace, attribution, operation, after);
    run.operations.push_back(std::move(operation));
  }
  if (strange > 0) {
    run.problems.push_back(
        fmt::format("{} of a kind that is not known.",
                    strange == 1 ? "1 operation is" : fmt::format("{} operations are", strange)));
  }
  if (cut > 0) {
    run.problems.push_back(
        fmt::format("{} kept by some ranks only and left out.",
                    cut == 1 ? "1 operation was" : fmt::format("{} operations were", cut)));
  }
  if (run.operations.empty()) {
    return FailedPrecondition("{}: no operation was recorded by all {} ranks that left a file",
                              folder.string(), trace.recordings().size());
  }
  AddFlows(trace, options.flows, run);
  AddSteps(trace, run);
  run.findings = FindingsOf(run);
  AddModel(trace.recordings(), run);
  return run;
}

}  // namespace gradwire::analysis
