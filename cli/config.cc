// gradwire config: every setting with its effective value and where that came from.
#include <fmt/core.h>

#include <cstdio>
#include <cstdlib>

#include "cli/command.h"
#include "cli/report.h"
#include "cli/standard_output.h"

namespace gradwire::cli {
namespace {

struct Row {
  const SettingInfo* info;
  std::string value;
  std::string source;  // default | environment | flag
};

std::vector<Row> Effective(const CLI::App& config, const Settings& settings) {
  std::vector<Row> rows;
  for (const SettingInfo& info : AllSettings()) {
    Row row{&info, info.get(settings), "default"};
    if (info.secret && !row.value.empty()) row.value = "(set)";
    if (config.get_option(fmt::format("--{}", info.name))->count() > 0) {
      row.source = "flag";
    } else if (std::getenv(info.variable().c_str()) != nullptr) {
      row.source = "environment";
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

void Print(const std::vector<Row>& rows) {
  PrintText(
      "# setting = value (where the value comes from)\n"
      "#     variable  unit  range: meaning\n");
  for (const auto& [info, value, source] : rows) {
    PrintText("{} = {} ({})\n", info->name, value.empty() ? "(empty)" : value, source);
    std::string facts = fmt::format("{}  {}", info->variable(), info->unit);
    if (!info->range.empty()) facts += fmt::format("  {}", info->range);
    PrintText("{}", Wrapped(fmt::format("{}: {}", facts, info->help), /*indent=*/4));
  }
}

nlohmann::ordered_json ToJson(const std::vector<Row>& rows) {
  auto settings = nlohmann::ordered_json::array();
  for (const auto& [info, value, source] : rows) {
    settings.push_back({{"name", info->name},
                        {"value", value},
                        {"variable", info->variable()},
                        {"unit", info->unit},
                        {"range", info->range},
                        {"source", source},
                        {"help", info->help}});
  }
  return {{"settings", settings}};
}

}  // namespace

void AddConfig(CLI::App& root, Action& action) {
  struct State {
    Settings settings;
    std::string json;
  };
  auto state = std::make_shared<State>();
  CLI::App* config = root.add_subcommand("config", "print the effective settings");
  config->add_option("--json", state->json, "write them as JSON to FILE, - for standard output")
      ->type_name("FILE");
  AddSettings(*config, state->settings);
  config->footer(
      "Examples:\n"
      "  gradwire config                      what is in effect here\n"
      "  gradwire config --slots 16 --json -  as JSON, with a flag tried out\n");
  config->callback([state, config, &action] {
    action = [state, config] {
      absl::StatusOr<bench::JsonOutput> json = OpenJson(state->json);
      if (!json.ok()) return ReportError(json.status());
      const std::vector<Row> rows = Effective(*config, state->settings);
      if (!json->is_standard_output()) Print(rows);
      const absl::Status written = json->Write(ToJson(rows));
      return written.ok() ? kDone : ReportError(written);
    };
  });
}

}  // namespace gradwire::cli
