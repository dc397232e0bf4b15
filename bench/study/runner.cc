#include "bench/study/runner.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <tuple>
#include <utility>

#include "analysis/analyse.h"
#include "analysis/median.h"
#include "analysis/units.h"
#include "transport/file_io.h"

namespace gradwire::bench {
namespace {

using Json = nlohmann::json;
using analysis::Class;
using analysis::Median;
using analysis::Run;
using Words = std::vector<std::string>;

constexpr std::string_view kUrxe = "urxe";

// One program's figures, out of place and in place together.
struct Sample {
  double time_us = 0;  // of one call, in a run without anything between them
  double bus_gbs = 0;
  double cpu_s_per_gb = 0;
};

struct Measured {
  std::vector<Sample> rounds;
  std::optional<Run> run;  // of the last round
  std::string refusal;
};

std::vector<double> Values(const Measured& measured, double Sample::*field) {
  std::vector<double> values;
  for (const Sample& sample : measured.rounds) values.push_back(sample.*field);
  return values;
}

int RanksOf(const StudyPlan& plan, const StudyPoint& point) {
  return point.ranks > 0 ? point.ranks : plan.ranks;
}

// The command for a point; `files` names its report and recordings, or is empty.
Words Command(const StudyPlan& plan, const StudyPoint& point, const StudyOptions& options,
              const std::filesystem::path& files) {
  const std::string bytes = fmt::format("{}", point.bytes > 0 ? point.bytes : plan.bytes);
  const int planned = point.calls > 0 ? point.calls : plan.calls;
  const int calls = std::max(5, static_cast<int>(planned * options.scale));
  Words words = {files.empty() ? "gradwire" : options.program,
                 "bench",
                 "allreduce",
                 "--ranks",
                 fmt::format("{}", RanksOf(plan, point)),
                 "--sizes",
                 bytes,
                 "-n",
                 fmt::format("{}", calls),
                 "-w",
                 "5"};
  words.insert(words.end(), plan.flags.begin(), plan.flags.end());
  // What a point says replaces what the plan says.
  for (size_t i = 0; i + 1 < point.flags.size(); i += 2) {
    const auto said = std::find(words.begin(), words.end(), point.flags[i]);
    if (said != words.end()) {
      *(said + 1) = point.flags[i + 1];
    } else {
      words.insert(words.end(), {point.flags[i], point.flags[i + 1]});
    }
  }
  // Only what goes over RDMA has a device; without a transport the machine chooses.
  if (const auto transport = std::find(words.begin(), words.end(), "--transport");
      transport == words.end() || *(transport + 1) == "rdma") {
    words.insert(words.end(), {"--device", options.device});
  }
  if (!files.empty()) {
    words.insert(words.end(), {"--telemetry", files.string(), "-J", (files / "report").string()});
  }
  return words;
}

std::string_view TransportOf(const StudyPoint& point) {
  const auto said = std::ranges::find(point.flags, "--transport");
  return said == point.flags.end() ? std::string_view() : std::string_view(*(said + 1));
}

Words Environment(const StudyPlan& plan, const StudyPoint& point, const StudyOptions& options) {
  if (options.device != kUrxe || TransportOf(point) == "tcp") return {};
  Words environment = plan.environment;
  environment.insert(environment.end(), point.environment.begin(), point.environment.end());
  return environment;
}

// For a reader: with the variables in front, and without the study's own files.
Words CommandWords(const StudyPlan& plan, const StudyPoint& point, const StudyOptions& options) {
  Words words = Environment(plan, point, options);
  const Words command = Command(plan, point, options, {});
  words.insert(words.end(), command.begin(), command.end());
  return words;
}

// "16", "64K": on an axis with the others it says where it lies between them.
bool IsSize(std::string_view label) {
  return !label.empty() && label.find_first_not_of("0123456789KM") == std::string_view::npos;
}

absl::StatusOr<Sample> ReadReport(const std::filesystem::path& path) {
  GW_ASSIGN_OR_RETURN(const auto bytes, ReadFile(path, kMaxReport));
  const Json json = Json::parse(bytes, nullptr, /*allow_exceptions=*/false);
  try {
    // The mean of both halves, since both are recorded.
    const Json& row = json.at("results").at(0);
    const auto mean = [&row](const char* key) {
      return (row.at("out_of_place").at(key).get<double>() +
              row.at("in_place").at(key).get<double>()) /
             2;
    };
    return Sample{mean("time"), mean("bus_bw"), mean("cpu_s_per_gb")};
  } catch (const Json::exception& error) {
    return ProtocolError("{}: {}", path.string(), error.what());
  }
}

// Why a program failed, of what it said: the first line that is an error of ours, else the last
// one.
std::string ReasonIn(const std::string& output) {
  constexpr std::string_view kError = "gradwire: ";
  std::string last = "it said nothing";
  std::istringstream lines(output);
  for (std::string line; std::getline(lines, line);) {
    const size_t error = line.find(kError);
    if (error != std::string::npos && line.find("# ") != 0) return line.substr(error);
    if (line.find_first_not_of(' ') != std::string::npos) last = line;
  }
  return last;
}

// `files`: an empty folder for the program's report and recordings.
absl::Status MeasureInto(const std::filesystem::path& files, const StudyPlan& plan,
                         const StudyPoint& point, const StudyOptions& options, Measured& measured) {
  GW_ASSIGN_OR_RETURN(const StudyProgram program,
                      options.run(Command(plan, point, options, files), kProgramLimit,
                                  Environment(plan, point, options)));
  if (point.refused) {
    if (program.exit_code != 2) {
      return InternalError("{} {}: it was to be refused, but ended with {}: {}", plan.varies,
                           point.label, program.exit_code, ReasonIn(program.output));
    }
    measured.refusal = ReasonIn(program.output);
    return absl::OkStatus();
  }
  if (program.exit_code != 0) {
    return InternalError("{} {} ended with {}: {}", plan.varies, point.label, program.exit_code,
                         ReasonIn(program.output));
  }
  GW_ASSIGN_OR_RETURN(const Sample sample, ReadReport(files / "report"));
  measured.rounds.push_back(sample);
  GW_ASSIGN_OR_RETURN(measured.run, analysis::Analyse(files, {}));
  return absl::OkStatus();
}

absl::Status MeasureOnce(const StudyPlan& plan, const StudyPoint& point,
                         const StudyOptions& options, Measured& measured) {
  std::error_code error;
  const std::filesystem::path files = options.folder / "study";
  std::filesystem::remove_all(files, error);
  std::filesystem::create_directories(files, error);
  if (error) return ErrnoError(error.value(), "cannot make the folder {}", files.string());
  const absl::Status status = MeasureInto(files, plan, point, options, measured);
  std::filesystem::remove_all(files, error);
  return status;
}

// Share of each class in all ranks' time of a run.
std::vector<double> Shares(const Run& run) {
  std::vector<double> shares(analysis::kClassCount);
  double total = 0;
  for (const auto& operation : run.operations) {
    for (const auto& rank : operation.ranks) {
      for (size_t i = 0; i < shares.size(); ++i) {
        shares[i] += static_cast<double>(rank.total_ns[i]);
        total += static_cast<double>(rank.total_ns[i]);
      }
    }
  }
  for (double& share : shares) share /= std::max(total, 1.0);
  return shares;
}

// Whether one point is slower than another beyond the spread of their rounds: of all pairs of a
// round of each, nine of ten say so (the U of Mann and Whitney, 1947, at most n^2 / 10). Two equal
// points of 3 rounds do by chance in one case of 20, of 5 rounds in one of 63; the extremes of many
// more often.
bool Apart(const Measured& quick, const Measured& slow) {
  size_t pairs = 0, against = 0;
  for (const Sample& one : quick.rounds) {
    for (const Sample& other : slow.rounds) {
      ++pairs;
      against += one.time_us >= other.time_us;
    }
  }
  return 10 * against <= pairs;
}

std::string Text(double us) { return analysis::TimeText(1000 * us); }

// "1.08", "12.3", "286": three digits.
std::string Times(double ratio) {
  return fmt::format("{:.{}f}", ratio, ratio >= 100 ? 0 : ratio >= 10 ? 1 : 2);
}

// The slowest of `points`, which differ in one thing, and what to say of them.
std::string Compare(const StudyPlan& plan, const std::vector<Measured>& all,
                    const std::vector<size_t>& points, size_t& slowest) {
  std::optional<size_t> best, worst;
  const auto time = [&all](size_t i) { return Median(Values(all[i], &Sample::time_us)); };
  for (const size_t i : points) {
    if (all[i].rounds.empty()) continue;
    if (!best || time(i) < time(*best)) best = i;
    if (!worst || time(i) > time(*worst)) worst = i;
  }
  if (!best || best == worst) return "";
  if (all[slowest].rounds.empty() || time(*worst) > time(slowest)) slowest = *worst;
  const std::string_view quickest = plan.points[*best].label, longest = plan.points[*worst].label;
  if (all[*best].rounds.size() > 1 && !Apart(all[*best], all[*worst])) {
    return fmt::format("No difference beyond the spread of the rounds: {} with {} to {} with {}. ",
                       Text(time(*best)), quickest, Text(time(*worst)), longest);
  }
  return fmt::format("{}uickest: {} with {}; slowest: {} with {} ({} times). ",
                     all[*best].rounds.size() > 1 ? "Q" : "Of one round, without a spread: q",
                     quickest, Text(time(*best)), longest, Text(time(*worst)),
                     Times(time(*worst) / time(*best)));
}

std::string Answer(const StudyPlan& plan, const std::vector<Measured>& all, size_t& slowest) {
  // Other sizes and worlds are other questions, and transports where they are not the question.
  std::map<std::tuple<int64_t, int, std::string_view>, std::vector<size_t>> groups;
  for (size_t i = 0; i < all.size(); ++i) {
    const StudyPoint& point = plan.points[i];
    const std::string_view transport =
        plan.across_transports ? std::string_view() : TransportOf(point);
    groups[{point.bytes, point.ranks, transport}].push_back(i);
  }
  std::string text;
  for (const auto& [what, points] : groups) text += Compare(plan, all, points, slowest);
  if (all[slowest].run && !all[slowest].run->findings.empty()) {
    text += fmt::format("With {}, {} ", plan.points[slowest].label,
                        all[slowest].run->findings.front().sentence);
  }
  return text + "In theory: " + std::string(plan.lesson);
}

// A point of urxe's own is none on another device.
bool Applies(const StudyPoint& point, const StudyOptions& options) {
  return point.environment.empty() || options.device == kUrxe;
}

}  // namespace

absl::StatusOr<analysis::Study> RunStudy(const StudyPlan& plan, const StudyOptions& options) {
  if (plan.measure != nullptr) return plan.measure(options);
  std::vector<Measured> all(plan.points.size());
  int done = 0;
  const int programs = static_cast<int>(plan.points.size()) * options.rounds;
  for (int round = 0; round < options.rounds; ++round) {
    for (size_t i = 0; i < plan.points.size(); ++i, ++done) {
      const StudyPoint& point = plan.points[i];
      if (point.refused && round > 0) continue;
      if (!Applies(point, options)) continue;
      if (options.progress) {
        options.progress(done, programs, fmt::format("{} {}", plan.varies, point.label));
      }
      const absl::Status measured = MeasureOnce(plan, point, options, all[i]);
      if (!measured.ok()) return Annotate(measured, fmt::format("study {}", plan.name));
    }
  }

  analysis::Study study;
  study.name = plan.name;
  study.question = plan.question;
  size_t slowest = 0;
  study.answer = Answer(plan, all, slowest);
  study.table.columns = {std::string(plan.varies), "time us", "min..max", "bus GB/s", "CPU s/GB",
                         "critical path in"};
  analysis::Chart times{.kind = std::ranges::all_of(plan.points, IsSize, &StudyPoint::label)
                                    ? analysis::Chart::Kind::kLine
                                    : analysis::Chart::Kind::kPoint,
                        .title = "Time of one all-reduce",
                        .x_label = std::string(plan.varies),
                        .y_label = "us",
                        .x = {},
                        .series = {{"median of the rounds", {}, {}, {}}}};
  analysis::Chart shares{.kind = analysis::Chart::Kind::kStackedBar,
                         .title = "Where all ranks' time goes",
                         .x_label = std::string(plan.varies),
                         .y_label = "%",
                         .x = {},
                         .series = {}};
  for (int i = 0; i < analysis::kClassCount; ++i) {
    shares.series.push_back({std::string(LabelOf(static_cast<Class>(i))), {}, {}, {}});
  }
  double least = 0, most = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    const StudyPoint& point = plan.points[i];
    if (!Applies(point, options)) {
      study.notes.push_back(fmt::format("{} {} is not measured: only --device urxe has it.",
                                        plan.varies, point.label));
      continue;
    }
    study.commands.push_back(fmt::format("{}", fmt::join(CommandWords(plan, point, options), " ")));
    if (!all[i].refusal.empty()) {
      study.notes.push_back(
          fmt::format("{} {} is refused: {}", plan.varies, point.label, all[i].refusal));
      continue;
    }
    const std::vector<double> us = Values(all[i], &Sample::time_us);
    const auto [low, high] = std::minmax_element(us.begin(), us.end());
    const double middle = Median(us);
    least = i == 0 ? middle : std::min(least, middle);
    most = std::max(most, middle);
    const Run& run = *all[i].run;
    const auto& findings = run.findings;
    study.table.rows.push_back(
        {point.label, fmt::format("{:.1f}", middle),
         fmt::format("{0:.{2}f}..{1:.{2}f}", *low, *high, middle < 100 ? 1 : 0),
         fmt::format("{:.3f}", Median(Values(all[i], &Sample::bus_gbs))),
         fmt::format("{:.2f}", Median(Values(all[i], &Sample::cpu_s_per_gb))),
         findings.empty()
             ? "-"
             : fmt::format("{} {:.0f} %", LabelOf(findings[0].in), 100 * findings[0].share)});
    times.x.push_back(point.label);
    times.series[0].y.emplace_back(middle);
    times.series[0].low.emplace_back(*low);
    times.series[0].high.emplace_back(*high);
    shares.x.push_back(point.label);
    const std::vector<double> parts = Shares(run);
    for (size_t k = 0; k < parts.size(); ++k) shares.series[k].y.emplace_back(100 * parts[k]);
    for (const analysis::RankInfo& info : run.ranks) {
      if (std::ranges::find(study.devices, info.device) == study.devices.end()) {
        study.devices.push_back(info.device);
      }
    }
    for (const std::string& problem : run.problems) {
      study.notes.push_back(fmt::format("{}: {}", point.label, problem));
    }
    if (plan.timeline && i == slowest) {
      study.runs.push_back(std::move(*all[i].run));
      study.runs.back().command = CommandWords(plan, point, options);
      study.runs.back().model_note.clear();  // sizes are not what the study is about
    }
  }
  times.log_y = most > 10 * least;
  // Classes that nobody spent time in only fill the legend.
  std::erase_if(shares.series, [](const analysis::Series& series) {
    return std::all_of(series.y.begin(), series.y.end(),
                       [](const auto& share) { return share.value_or(0) < 0.1; });
  });
  study.charts = {std::move(times), std::move(shares)};
  return study;
}

}  // namespace gradwire::bench
