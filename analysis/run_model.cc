#include "analysis/run_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <utility>

#include "analysis/median.h"
#include "analysis/model.h"
#include "collectives/algorithms.h"
#include "collectives/exchange.h"
#include "transport/settings.h"

namespace gradwire::analysis {
namespace {

// What is predicted beside what was measured.
constexpr std::array<int, 4> kWorlds = {2, 4, 8, 16};
constexpr std::array<uint64_t, 3> kSizes = {64 << 10, 1 << 20, 16 << 20};
constexpr std::array<uint64_t, 3> kSlices = {64 << 10, 256 << 10, 1 << 20};

// The settings that decide how an all-reduce goes.
absl::StatusOr<Settings> SettingsOf(const telemetry::Facts& facts) {
  Settings settings;
  for (const char* name : {"slice-bytes", "slots", "all-reduce", "latency-bytes"}) {
    const auto found = facts.settings.find(name);
    if (found == facts.settings.end()) {
      return FailedPrecondition("the recording does not tell its --{}", name);
    }
    GW_RETURN_IF_ERROR(Annotate(SetSetting(settings, name, found->second),
                                fmt::format("--{} of the recording", name)));
  }
  return settings;
}

Case CaseOf(const Settings& settings, bool oversubscribed, int ranks, uint64_t bytes) {
  return {.algorithm = ChooseAllReduce(settings, ranks, oversubscribed, bytes),
          .ranks = ranks,
          .bytes = bytes,
          .slice_bytes = static_cast<uint64_t>(settings.slice_bytes),
          .window = settings.slots};
}

// Its critical path, but for the wait for a rank that had not begun: that is not the collective's.
double Microseconds(const Operation& operation) {
  int64_t ns = 0;
  for (const auto& [rank, interval] : operation.critical) {
    if (interval.in == Class::kLatePeer && interval.peer == rank) continue;
    ns += interval.end_ns - interval.begin_ns;
  }
  return static_cast<double>(ns) / 1e3;
}

std::vector<Sample> SamplesOf(const telemetry::Facts& facts, const Settings& settings,
                              const Run& run) {
  std::map<std::pair<uint64_t, std::string>, std::vector<double>> kinds;  // by bytes and what
  for (const Operation& operation : run.operations) {
    if (operation.kind != NameOf(CollectiveKind::kAllReduce) || operation.bytes == 0) continue;
    if (operation.critical.empty()) continue;
    kinds[{operation.bytes, operation.what}].push_back(Microseconds(operation));
  }
  std::vector<Sample> samples;
  for (auto& [kind, times] : kinds) {
    // The first of a kind may open links and register memory.
    if (times.size() > 1) times.erase(times.begin());
    samples.push_back({kind.second,
                       CaseOf(settings, facts.oversubscribed, run.world_size, kind.first),
                       Median(std::move(times))});
  }
  return samples;
}

// What a MB reduced took, by the events of reductions: median of those that are long enough for the
// call itself not to count. Nothing when none was recorded.
std::optional<double> GammaOf(const std::vector<telemetry::Recording>& ranks) {
  constexpr uint32_t kLeastBytes = 16 << 10;
  std::vector<double> gammas;
  for (const telemetry::Recording& rank : ranks) {
    for (const telemetry::Event& event : rank.events) {
      if (event.kind != telemetry::Kind::kReduce || event.bytes < kLeastBytes) continue;
      gammas.push_back(static_cast<double>(event.end_ns - event.begin_ns) * 1e3 / event.bytes);
    }
  }
  if (gammas.empty()) return std::nullopt;
  return Median(std::move(gammas));
}

void AddPredictions(const Settings& settings, int ranks, Model& model) {
  const Costs costs = CostsOf(model);
  const auto add = [&](const Settings& with, int of_ranks) {
    for (const uint64_t bytes : kSizes) {
      const Case of = CaseOf(with, /*oversubscribed=*/false, of_ranks, bytes);
      model.predictions.push_back({std::string(NameOf(of.algorithm)), of.ranks, of.bytes,
                                   of.slice_bytes, CriticalPath(of, costs).Microseconds(costs)});
    }
  };
  for (const int world : kWorlds) add(settings, world);
  for (const uint64_t slice : kSlices) {
    Settings other = settings;
    other.slice_bytes = static_cast<int64_t>(slice);
    const bool there =
        settings.slice_bytes == other.slice_bytes && std::ranges::count(kWorlds, ranks) > 0;
    if (!there) add(other, ranks);
  }
}

absl::StatusOr<Model> ModelOf(const std::vector<telemetry::Recording>& ranks, const Run& run) {
  const telemetry::Facts& facts = ranks.front().facts;
  if (run.world_size < 2) return FailedPrecondition("one rank alone sends nothing");
  if (run.ranks.size() != static_cast<size_t>(run.world_size)) {
    return FailedPrecondition("recordings of some ranks are missing");
  }
  GW_ASSIGN_OR_RETURN(const Settings settings, SettingsOf(facts));
  GW_ASSIGN_OR_RETURN(Model model,
                      Fit(SamplesOf(facts, settings, run), {.gamma_us_per_mb = GammaOf(ranks)}));
  AddPredictions(settings, run.world_size, model);
  if (facts.oversubscribed) {
    model.notes.push_back(
        "ranks shared cores here, which these prices contain; predictions for other worlds are of "
        "a core per rank, and so too high");
  }
  return model;
}

}  // namespace

void AddModel(const std::vector<telemetry::Recording>& ranks, Run& run) {
  absl::StatusOr<Model> model = ModelOf(ranks, run);
  if (model.ok()) {
    run.model = *std::move(model);
    return;
  }
  run.model_note = fmt::format(
      "No model of the time by size, since {}; record several sizes with `gradwire bench allreduce "
      "-b 1K -e 16M -f 4 --telemetry DIR` for one.",
      Message(model.status()));
}

}  // namespace gradwire::analysis
