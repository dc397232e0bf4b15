#include "cli/bench_common.h"

#include <cstdio>

#include "cli/report.h"

namespace gradwire::cli {

void PrintNow(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

void PrintComment(const std::string& text) {
  std::string lines = "\n" + Wrapped(text, 2);
  for (size_t at = lines.find("\n  "); at != std::string::npos; at = lines.find("\n  ", at + 1)) {
    lines[at + 1] = '#';
  }
  PrintNow(lines.substr(1));
}

void AddJsonFlag(CLI::App& command, std::string& file) {
  command.add_option("-J,--json", file, "writes the numbers as JSON to FILE too, - for stdout")
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
  if (place->family == "single" && ranks > 1) return RunCommandLocally(ranks);
  const auto world = JoinJobWorld(settings);
  if (!world.ok()) return ReportError(world.status(), place->rank);
  nlohmann::ordered_json json;
  const absl::StatusOr<int64_t> wrong = measure(**world, json);
  absl::Status status = wrong.status();
  if (status.ok() && place->rank == 0 && !file.empty()) status = WriteJson(json, file);
  const absl::Status left = (*world)->Leave(Message(status));
  if (!status.ok()) return ReportError(status, place->rank);
  if (!left.ok()) return ReportError(left, place->rank);
  // Every rank knows the verdict; one gives it, so that a launcher sees one failure, not many.
  return *wrong == 0 || place->rank != 0 ? kDone : kFailed;
}

}  // namespace gradwire::cli
