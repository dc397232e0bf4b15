// Studies that other programs of ours measure: what they print becomes the table.
#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "analysis/units.h"
#include "bench/study/runner.h"
#include "transport/file_io.h"

namespace gradwire::bench {
namespace {

using Json = nlohmann::json;
using analysis::Chart;
using analysis::SizeText;
using analysis::Study;

absl::StatusOr<std::string> Output(const StudyOptions& options,
                                   const std::vector<std::string>& command) {
  GW_ASSIGN_OR_RETURN(StudyProgram program,
                      options.run(command, kProgramLimit, {"GRADWIRE_DEVICE=" + options.device}));
  if (program.exit_code != 0) {
    return InternalError("{} ended with {}: {}", command[1], program.exit_code, program.output);
  }
  return std::move(program.output);
}

analysis::Series Line(const std::string& name) { return {name, {}, {}, {}}; }

}  // namespace

absl::StatusOr<Study> StudyWriteVsRead(const StudyOptions& options) {
  Study study;
  study.name = "write_vs_read";
  study.question = "What does an RDMA READ cost against a WRITE?";
  study.devices = {options.device};
  const auto example =
      std::filesystem::path(options.program).parent_path() / "example_rdma_write_vs_read";
  study.commands = {fmt::format(
      "GRADWIRE_DEVICE={} gradwire launch -n 2 -- example_rdma_write_vs_read", options.device)};
  if (!std::filesystem::exists(example)) {
    study.answer = "Not measured.";
    study.notes = {
        fmt::format("{} is not there: it is built with GRADWIRE_EXTRAS on", example.string())};
    return study;
  }
  if (options.progress) options.progress(0, 1, "operations one by one and in a full queue");
  GW_ASSIGN_OR_RETURN(const std::string output, Output(options, {options.program, "launch", "-n",
                                                                 "2", "--", example.string()}));
  study.table.columns = {"bytes",      "WRITE us",  "READ us", "ratio",
                         "WRITE MB/s", "READ MB/s", "ratio"};
  Chart chart{.kind = Chart::Kind::kLine,
              .title = "One operation, from posting to completion",
              .x_label = "size",
              .y_label = "us",
              .log_y = true,
              .x = {},
              .series = {Line("WRITE"), Line("READ")}};
  std::istringstream lines(output);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line.starts_with("[0] ") ? line.substr(4) : line);
    std::vector<double> numbers;
    for (double number; words >> number;) numbers.push_back(number);
    if (numbers.size() != study.table.columns.size()) continue;
    study.table.rows.push_back(
        {SizeText(static_cast<uint64_t>(numbers[0])), fmt::format("{:.1f}", numbers[1]),
         fmt::format("{:.1f}", numbers[2]), fmt::format("{:.2f}", numbers[3]),
         fmt::format("{:.1f}", numbers[4]), fmt::format("{:.1f}", numbers[5]),
         fmt::format("{:.2f}", numbers[6])});
    chart.x.push_back(SizeText(static_cast<uint64_t>(numbers[0])));
    chart.series[0].y.emplace_back(numbers[1]);
    chart.series[1].y.emplace_back(numbers[2]);
  }
  if (study.table.rows.empty()) {
    return ProtocolError("study write_vs_read: no figures in what {} printed", example.string());
  }
  const auto &first = study.table.rows.front(), &last = study.table.rows.back();
  study.answer = fmt::format(
      "{}: a READ takes {} times as long as a WRITE; {}: {} times, with {} times its bandwidth. A "
      "READ is a request that has to come back with the data, and few may be on their way, which "
      "is why gradients are written.",
      first[0], first[3], last[0], last[3], last[6]);
  study.charts = {std::move(chart)};
  return study;
}

absl::StatusOr<Study> StudyAllReduceVsPs(const StudyOptions& options) {
  Study study;
  study.name = "allreduce_vs_ps";
  study.question = "When does a parameter server beat an all-reduce of the same bytes?";
  study.devices = {options.device};
  const std::vector<std::string> rest = {"bench", "ps", "--ranks", "3",
                                         "-n",    "20", "--sizes", "4096,262144,4194304,16777216"};
  study.commands = {
      fmt::format("GRADWIRE_DEVICE={} gradwire {}", options.device, fmt::join(rest, " "))};
  const std::filesystem::path report = options.folder / "ps.json";
  std::error_code error;
  std::filesystem::remove(report, error);
  if (options.progress) options.progress(0, 1, "push-pull and all-reduce in turns");
  std::vector<std::string> command = {options.program};
  command.insert(command.end(), rest.begin(), rest.end());
  command.insert(command.end(), {"-J", report.string()});
  GW_RETURN_IF_ERROR(Output(options, command).status());
  GW_ASSIGN_OR_RETURN(const auto bytes, ReadFile(report, kMaxReport));
  std::filesystem::remove(report, error);
  const Json json = Json::parse(bytes, nullptr, /*allow_exceptions=*/false);
  study.table.columns = {"size", "push-pull us", "p99", "all-reduce us", "p99", "ratio"};
  Chart chart{.kind = Chart::Kind::kLine,
              .title = "One step of 2 workers: 1 server, or each other",
              .x_label = "size",
              .y_label = "us",
              .log_y = true,
              .x = {},
              .series = {Line("push-pull"), Line("all-reduce")}};
  try {
    for (const Json& row : json.at("results")) {
      const double pushed = row.at("push_pull").at("p50_us").get<double>();
      const double reduced = row.at("all_reduce").at("p50_us").get<double>();
      const std::string size = SizeText(row.at("size").get<uint64_t>());
      study.table.rows.push_back(
          {size, fmt::format("{:.1f}", pushed),
           fmt::format("{:.1f}", row.at("push_pull").at("p99_us").get<double>()),
           fmt::format("{:.1f}", reduced),
           fmt::format("{:.1f}", row.at("all_reduce").at("p99_us").get<double>()),
           fmt::format("{:.2f}", pushed / reduced)});
      chart.x.push_back(size);
      chart.series[0].y.emplace_back(pushed);
      chart.series[1].y.emplace_back(reduced);
    }
  } catch (const Json::exception& failed) {
    return ProtocolError("study allreduce_vs_ps: {}", failed.what());
  }
  if (study.table.rows.empty()) return ProtocolError("study allreduce_vs_ps: no figures");
  const auto &first = study.table.rows.front(), &last = study.table.rows.back();
  study.answer = fmt::format(
      "A step by the server takes {} times an all-reduce at {}, {} times at {}. All bytes of all "
      "workers pass through the server, W/S times the model in and out; in a ring each rank moves "
      "2 (W-1)/W of it. What a server buys is that workers need not wait for each other.",
      first[5], first[0], last[5], last[0]);
  study.charts = {std::move(chart)};
  return study;
}

}  // namespace gradwire::bench
