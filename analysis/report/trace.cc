#include "analysis/report/trace.h"

#include <fmt/format.h>

#include <iterator>
#include <string>
#include <string_view>

#include "analysis/report/json.h"
#include "transport/file_io.h"

namespace gradwire::analysis {
namespace {

// Threads of a rank's process.
constexpr int kClassesThread = 1;
constexpr int kOperationsThread = 2;
constexpr int kCriticalThread = 3;
constexpr int kStepsThread = 4;
constexpr size_t kTraceBuffer = 1 << 20;

// The format's times are microseconds; three decimals keep the nanoseconds.
std::string Micros(int64_t ns) { return fmt::format("{:.3f}", static_cast<double>(ns) / 1e3); }

// Events are written as they come: a recording may have millions.
class TraceFile {
 public:
  explicit TraceFile(AtomicFile file) : file_(std::move(file)) {}

  absl::Status Begin(const Run& run) {
    const Json about = {{"name", run.name}, {"started", run.started}, {"command", run.command}};
    text_ =
        fmt::format("{{\"displayTimeUnit\":\"ns\",\"otherData\":{},\"traceEvents\":[", Dump(about));
    return absl::OkStatus();
  }

  // `fields` without braces.
  absl::Status Add(std::string_view fields) {
    fmt::format_to(std::back_inserter(text_), "{}\n{{{}}}", is_first_ ? "" : ",", fields);
    is_first_ = false;
    return text_.size() < kTraceBuffer ? absl::OkStatus() : Flush();
  }

  absl::Status End() {
    text_ += "\n]}\n";
    GW_RETURN_IF_ERROR(Flush());
    return file_.Commit();
  }

 private:
  absl::Status Flush() {
    GW_RETURN_IF_ERROR(file_.Append(text_));
    text_.clear();
    return absl::OkStatus();
  }

  AtomicFile file_;
  std::string text_;
  bool is_first_ = true;
};

absl::Status AddNames(TraceFile& trace, const Run& run) {
  const auto add = [&trace](int pid, int tid, std::string_view what, const Json& arguments) {
    return trace.Add(fmt::format(R"("ph":"M","pid":{},"tid":{},"name":"{}","args":{})", pid, tid,
                                 what, Dump(arguments)));
  };
  const std::pair<int, const char*> threads[] = {{kClassesThread, "where the time goes"},
                                                 {kOperationsThread, "operations"},
                                                 {kCriticalThread, "critical path"},
                                                 {kStepsThread, "steps of training"}};
  for (const RankInfo& info : run.ranks) {
    const std::string name = fmt::format("rank {} ({}, {})", info.rank, info.host, info.transport);
    GW_RETURN_IF_ERROR(add(info.rank, 0, "process_name", {{"name", name}}));
    GW_RETURN_IF_ERROR(add(info.rank, 0, "process_sort_index", {{"sort_index", info.rank}}));
    for (const auto& [tid, label] : threads) {
      if (tid == kStepsThread && run.steps.empty()) continue;
      GW_RETURN_IF_ERROR(add(info.rank, tid, "thread_name", {{"name", label}}));
      GW_RETURN_IF_ERROR(add(info.rank, tid, "thread_sort_index", {{"sort_index", tid}}));
    }
  }
  return absl::OkStatus();
}

absl::Status AddInterval(TraceFile& trace, int rank, int thread, const Interval& interval,
                         uint64_t operation) {
  const std::string peer =
      interval.peer < 0 ? std::string() : fmt::format(R"(,"peer":{})", interval.peer);
  return trace.Add(fmt::format(
      R"("ph":"X","cat":"class","name":"{}","pid":{},"tid":{},"ts":{},"dur":{},"args":{{"operation":{}{}}})",
      LabelOf(interval.in), rank, thread, Micros(interval.begin_ns),
      Micros(interval.end_ns - interval.begin_ns), operation, peer));
}

absl::Status AddOperation(TraceFile& trace, const Operation& operation) {
  const std::string what = Dump(Json(operation.what));
  for (const RankTimes& times : operation.ranks) {
    GW_RETURN_IF_ERROR(trace.Add(fmt::format(
        R"("ph":"X","cat":"operation","name":{},"pid":{},"tid":{},"ts":{},"dur":{},"args":{{"operation":{},"bytes":{}}})",
        what, times.rank, kOperationsThread, Micros(times.begin_ns),
        Micros(times.end_ns - times.begin_ns), operation.number, operation.bytes)));
    for (const Interval& interval : times.intervals) {
      GW_RETURN_IF_ERROR(
          AddInterval(trace, times.rank, kClassesThread, interval, operation.number));
    }
  }
  for (const PathStep& step : operation.critical) {
    GW_RETURN_IF_ERROR(
        AddInterval(trace, step.rank, kCriticalThread, step.interval, operation.number));
  }
  return absl::OkStatus();
}

// An arrow from the slice at the post to the slice at the arrival.
absl::Status AddFlow(TraceFile& trace, const Flow& flow, size_t id) {
  const auto end = [&](const char* phase, int rank, int64_t time_ns) {
    return trace.Add(fmt::format(
        R"("ph":"{}","bp":"e","cat":"write","name":"write","id":{},"pid":{},"tid":{},"ts":{},"args":{{"bytes":{},"operation":{}}})",
        phase, id, rank, kClassesThread, Micros(time_ns), flow.bytes, flow.operation));
  };
  GW_RETURN_IF_ERROR(end("s", flow.from, flow.posted_ns));
  return end("f", flow.to, flow.arrived_ns);
}

}  // namespace

absl::Status WriteTrace(const Run& run, const std::filesystem::path& path) {
  GW_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(path));
  TraceFile trace(std::move(file));
  GW_RETURN_IF_ERROR(trace.Begin(run));
  GW_RETURN_IF_ERROR(AddNames(trace, run));
  for (const Operation& operation : run.operations) {
    GW_RETURN_IF_ERROR(AddOperation(trace, operation));
  }
  for (const StepTimes& step : run.steps) {
    GW_RETURN_IF_ERROR(trace.Add(fmt::format(
        R"("ph":"X","cat":"step","name":"step {}","pid":{},"tid":{},"ts":{},"dur":{},"args":{{"stood still us":{}}})",
        step.number, step.rank, kStepsThread, Micros(step.begin_ns),
        Micros(step.end_ns - step.begin_ns), Micros(step.held_ns))));
  }
  size_t id = 0;
  for (const Flow& flow : run.flows) GW_RETURN_IF_ERROR(AddFlow(trace, flow, ++id));
  return trace.End();
}

}  // namespace gradwire::analysis
