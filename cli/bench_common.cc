#include "cli/bench_common.h"

#include "cli/report.h"

namespace gradwire::cli {

void PrintComment(const std::string& text) {
  std::string lines = "\n" + Wrapped(text, 2);
  for (size_t at = lines.find("\n  "); at != std::string::npos; at = lines.find("\n  ", at + 1)) {
    lines[at + 1] = '#';
  }
  PrintNow(lines.substr(1));
}

void TellWritten(const bench::JsonOutput& output) {
  if (!output.wanted() || output.is_standard_output()) return;
  PrintText("# Wrote JSON output to {}\n", output.path());
}

void AddJsonFlag(CLI::App& command, std::string& file) {
  command
      .add_option(
          "-J,--json", file,
          "writes the numbers as JSON to FILE too, - for stdout alone; an existing file is kept")
      ->type_name("FILE");
}

absl::StatusOr<nlohmann::ordered_json> DescribeThisRun(World& world, const Settings& settings,
                                                       const std::string& transport,
                                                       const std::string& description) {
  GW_ASSIGN_OR_RETURN(const std::vector<bench::RankLine> lines,
                      bench::GatherRankLines(world, transport, description, settings.join_timeout));
  return bench::DescribeRun(CommandLine(), settings, lines);
}

int RunAsRank(
    const Settings& settings, int ranks, const std::string& file,
    const std::function<absl::StatusOr<int64_t>(World&, nlohmann::ordered_json&)>& measure) {
  const absl::StatusOr<LaunchPlace> place =
      FindLaunchPlace(ProcessEnvironment(), settings, /*allow_single=*/true);
  if (!place.ok()) return ReportError(place.status());
  // Before ranks are started, of which the first to notice would end the others.
  if (place->family == "single" && ranks > 1) {
    const absl::Status writable = bench::JsonOutput::Create(file).status();
    return writable.ok() ? RunCommandLocally(settings, ranks) : ReportError(writable);
  }
  absl::StatusOr<bench::JsonOutput> output = OpenJson(place->rank == 0 ? file : "");
  if (!output.ok()) return ReportError(output.status(), place->rank);
  const auto world = JoinJobWorld(settings);
  if (!world.ok()) return ReportError(world.status(), place->rank);
  nlohmann::ordered_json json;
  const absl::StatusOr<int64_t> wrong = measure(**world, json);
  absl::Status status = wrong.status();
  if (status.ok()) status = output->Write(json);
  if (status.ok()) TellWritten(*output);
  const absl::Status left = (*world)->Leave(Message(status));
  if (!status.ok()) return ReportError(status, place->rank);
  if (!left.ok()) return ReportError(left, place->rank);
  // Every rank knows the verdict; one gives it, so that a launcher sees one failure, not many.
  return *wrong == 0 || place->rank != 0 ? kDone : kFailed;
}

}  // namespace gradwire::cli
