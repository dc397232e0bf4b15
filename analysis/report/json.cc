#include "analysis/report/json.h"

#include "analysis/model_json.h"

namespace gradwire::analysis {
namespace {

// A rank or peer, null when it is none.
Json RankOrNull(int rank) { return rank < 0 ? Json(nullptr) : Json(rank); }

// Only classes that took time.
Json TimesJson(const ClassTimes& times) {
  Json json = Json::object();
  for (int i = 0; i < kClassCount; ++i) {
    if (times[i] != 0) json[std::string(NameOf(static_cast<Class>(i)))] = times[i];
  }
  return json;
}

Json TallyJson(const Tally& tally) {
  return {{"operations", tally.operations},
          {"total_ns", tally.total_ns},
          {"class_ns", TimesJson(tally.class_ns)}};
}

// A column for each name, filled row by row.
class Columns {
 public:
  explicit Columns(std::vector<const char*> names) : names_(std::move(names)) {
    for (const char* name : names_) json_[name] = Json::array();
  }
  void Add(std::initializer_list<Json> row) {
    size_t i = 0;
    for (const Json& value : row) json_[names_[i++]].push_back(value);
  }
  Json Take() { return std::move(json_); }

 private:
  std::vector<const char*> names_;
  Json json_ = Json::object();
};

Json IntervalsJson(const std::vector<Interval>& intervals) {
  Columns columns({"begin_ns", "end_ns", "class", "peer"});
  for (const Interval& interval : intervals) {
    columns.Add(
        {interval.begin_ns, interval.end_ns, NameOf(interval.in), RankOrNull(interval.peer)});
  }
  return columns.Take();
}

Json PathJson(const std::vector<PathStep>& steps) {
  Columns columns({"rank", "begin_ns", "end_ns", "class", "peer"});
  for (const PathStep& step : steps) {
    columns.Add({step.rank, step.interval.begin_ns, step.interval.end_ns, NameOf(step.interval.in),
                 RankOrNull(step.interval.peer)});
  }
  return columns.Take();
}

Json FlowsJson(const std::vector<Flow>& flows) {
  Columns columns({"from", "to", "posted_ns", "arrived_ns", "bytes", "operation"});
  for (const Flow& flow : flows) {
    columns.Add({flow.from, flow.to, flow.posted_ns, flow.arrived_ns, flow.bytes, flow.operation});
  }
  return columns.Take();
}

Json OperationJson(const Operation& operation) {
  Json ranks = Json::array();
  for (const RankTimes& times : operation.ranks) {
    ranks.push_back({{"rank", times.rank},
                     {"begin_ns", times.begin_ns},
                     {"end_ns", times.end_ns},
                     {"class_ns", TimesJson(times.total_ns)},
                     {"intervals", IntervalsJson(times.intervals)}});
  }
  return {{"number", operation.number},     {"kind", operation.kind},
          {"what", operation.what},         {"bytes", operation.bytes},
          {"begin_ns", BeginOf(operation)}, {"end_ns", EndOf(operation)},
          {"ranks", std::move(ranks)},      {"critical_path", PathJson(operation.critical)}};
}

Json RankInfoJson(const RankInfo& info) {
  return {{"rank", info.rank},
          {"host", info.host},
          {"transport", info.transport},
          {"device", info.device},
          {"clock_offset_ns", info.clock_offset_ns},
          {"clock_error_ns", info.clock_error_ns},
          {"lost_events", info.lost_events},
          {"counters", info.counters},
          {"settings", info.settings}};
}

Json StepsJson(const Run& run) {
  Columns columns({"rank", "number", "begin_ns", "end_ns", "held_ns"});
  for (const StepTimes& step : run.steps) {
    columns.Add({step.rank, step.number, step.begin_ns, step.end_ns, step.held_ns});
  }
  return {{"count", run.step_summary->count},
          {"median_ns", run.step_summary->median_ns},
          {"held", run.step_summary->held},
          {"sentence", Sentence(*run.step_summary)},
          {"times", columns.Take()}};
}

template <typename Item, typename Function>
Json ArrayOf(const std::vector<Item>& items, Function function) {
  Json json = Json::array();
  for (const Item& item : items) json.push_back(function(item));
  return json;
}

Json NumbersOrNull(const std::vector<std::optional<double>>& values) {
  return ArrayOf(values, [](const std::optional<double>& value) {
    return value ? Json(*value) : Json(nullptr);
  });
}

const char* KindName(Chart::Kind kind) {
  switch (kind) {
    case Chart::Kind::kLine:
      return "line";
    case Chart::Kind::kPoint:
      return "point";
    case Chart::Kind::kBar:
      return "bar";
    case Chart::Kind::kStackedBar:
      return "stacked_bar";
  }
  return "line";
}

}  // namespace

void to_json(Json& json, const Finding& finding) {
  json = {{"class", NameOf(finding.in)},
          {"rank", RankOrNull(finding.rank)},
          {"peer", RankOrNull(finding.peer)},
          {"share", finding.share},
          {"ns_per_operation", finding.ns_per_operation},
          {"sentence", finding.sentence},
          {"advice", finding.advice}};
}

void to_json(Json& json, const RunTally& tally) {
  json = {{"median_operation_ns", tally.median_ns},
          {"ranks", ArrayOf(tally.ranks,
                            [](const RankTally& rank) {
                              Json entry = TallyJson(rank.tally);
                              entry["rank"] = rank.rank;
                              return entry;
                            })},
          {"kinds", ArrayOf(tally.kinds,
                            [](const KindTally& kind) {
                              Json entry = TallyJson(kind.tally);
                              entry["what"] = kind.what;
                              entry["bytes"] = kind.bytes;
                              entry["median_operation_ns"] = kind.median_ns;
                              return entry;
                            })},
          {"critical_path", TallyJson(tally.critical)}};
}

void to_json(Json& json, const Run& run) {
  json = {
      {"name", run.name},
      {"command", run.command},
      {"started", run.started},
      {"machine",
       {{"cpu", run.machine.cpu}, {"cores", run.machine.cores}, {"kernel", run.machine.kernel}}},
      {"world_size", run.world_size},
      {"ranks", ArrayOf(run.ranks, RankInfoJson)},
      {"totals", TallyOf(run)},
      {"findings", run.findings},
      {"steps", run.step_summary ? StepsJson(run) : Json(nullptr)},
      {"model", run.model ? ToJson(*run.model) : Json(nullptr)},
      {"model_note", run.model_note},
      {"problems", run.problems},
      {"operations", ArrayOf(run.operations, OperationJson)},
      {"flows", FlowsJson(run.flows)}};
}

void to_json(Json& json, const Chart& chart) {
  json = {{"kind", KindName(chart.kind)},
          {"title", chart.title},
          {"x_label", chart.x_label},
          {"y_label", chart.y_label},
          {"log_y", chart.log_y},
          {"x", chart.x},
          {"series", ArrayOf(chart.series, [](const Series& series) {
             return Json{{"name", series.name},
                         {"y", NumbersOrNull(series.y)},
                         {"low", NumbersOrNull(series.low)},
                         {"high", NumbersOrNull(series.high)}};
           })}};
}

void to_json(Json& json, const Study& study) {
  json = {{"name", study.name},
          {"question", study.question},
          {"answer", study.answer},
          {"table", {{"columns", study.table.columns}, {"rows", study.table.rows}}},
          {"charts", study.charts},
          {"notes", study.notes},
          {"commands", study.commands},
          {"devices", study.devices},
          {"runs", study.runs}};
}

void to_json(Json& json, const Report& report) {
  Json classes = Json::array();
  for (int i = 0; i < kClassCount; ++i) {
    const auto value = static_cast<Class>(i);
    classes.push_back({{"name", NameOf(value)},
                       {"label", LabelOf(value)},
                       {"description", DescriptionOf(value)}});
  }
  json = {{"format", "gradwire report"},   {"version", kJsonVersion},
          {"classes", std::move(classes)}, {"title", report.title},
          {"summary", report.summary},     {"machine", report.machine},
          {"studies", report.studies},     {"runs", report.runs}};
}

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace gradwire::analysis
