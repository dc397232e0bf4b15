// gradwire config: every setting with its effective value and where that came from.
#include <fmt/core.h>

#include <cstdio>
#include <cstdlib>

#include "cli/command.h"
#include "cli/report.h"

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
  fmt::print(
      "# setting = value (where the value comes from)\n"
      "#     variable  unit  range: meaning\n");
  for (const auto& [info, value, source] : rows) {
    fmt::print("{} = {} ({})\n", info->name, value.empty() ? "(empty)" : value, source);
    std::string facts = fmt::format("{}  {}", info->variable(), info->unit);
    if (!info->range.empty()) facts += fmt::format("  {}", info->range);
    fmt::print("{}", Wrapped(fmt::format("{}: {}", facts, info->help), /*indent=*/4));
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
  config->callback([state, config, &action] {
    action = [state, config] {
      const std::vector<Row> rows = Effective(*config, state->settings);
      if (state->json != "-") Print(rows);
      if (state->json.empty()) return kDone;
      const absl::Status written = WriteJson(ToJson(rows), state->json);
      return written.ok() ? kDone : ReportError(written);
    };
  });
}

}  // namespace gradwire::cli
