#include "cli/command.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstdio>

#include "transport/urxe/settings.h"

namespace gradwire::cli {
namespace {

// Everything a reader of --help needs about one setting, in two lines.
std::string Describe(const SettingInfo& info) {
  const std::string standard = info.get(Settings());
  std::string facts = standard.empty() ? "default: empty" : "default: " + standard;
  if (!info.range.empty()) facts += fmt::format(", {}", info.range);
  if (info.unit != "text") facts += fmt::format(", {}", info.unit);
  return fmt::format("{}\n[{}; {}]", info.help, facts, info.variable());
}

}  // namespace

void AddSettingFlags(CLI::App& command, Settings& settings) {
  for (const SettingInfo& info : AllSettings()) {
    const std::string flag = fmt::format("--{}", info.name);
    command
        .add_option_function<std::string>(
            flag,
            [&settings, &info, flag](const std::string& value) {
              const absl::Status status = info.set(settings, value);
              if (!status.ok()) throw CLI::ValidationError(flag, Message(status));
            },
            Describe(info))
        ->type_name("")
        ->group("Settings");
  }
}

void AddSettings(CLI::App& command, Settings& settings) {
  // A bad variable is told after the parse, so that --help works all the same.
  auto environment = std::make_shared<absl::Status>();
  command.preparse_callback([&settings, environment](size_t) {
    absl::StatusOr<Settings> from_environment = SettingsFromEnvironment();
    *environment = from_environment.status();
    settings = from_environment.ok() ? *std::move(from_environment) : Settings();
  });
  AddSettingFlags(command, settings);
  command.parse_complete_callback([&settings, environment] {
    absl::Status status = *environment;
    if (status.ok()) status = Validate(settings);
    // urxe itself would offer no device then, and the data move over TCP.
    if (const char* problem = urxe_settings_problem();
        status.ok() && settings.transport != "tcp" && problem != nullptr) {
      status = InvalidArgument("{}", problem);
    }
    if (!status.ok()) throw CLI::ValidationError(Message(status));
  });
}

int ReportError(const absl::Status& status, int rank) {
  std::string message = Message(status);
  std::replace(message.begin(), message.end(), '\n', ' ');
  const std::string who = rank < 0 ? "" : fmt::format("rank {}: ", rank);
  // One write, so that lines of several processes on one terminal do not mix.
  const std::string line = fmt::format("gradwire: {}{}\n", who, message);
  std::fflush(stdout);
  std::fwrite(line.data(), 1, line.size(), stderr);
  return absl::IsInvalidArgument(status) || absl::IsNotFound(status) ? kMisuse : kFailed;
}

void SetUpLogging(const std::string& level, int rank) {
  auto logger = std::make_shared<spdlog::logger>("gradwire",
                                                 std::make_shared<spdlog::sinks::stderr_sink_mt>());
  const std::string who = rank < 0 ? "" : fmt::format(" rank {}:", rank);
  logger->set_pattern(fmt::format("%H:%M:%S.%e gradwire %l:{} %v", who));
  logger->set_level(spdlog::level::from_str(level));
  logger->flush_on(spdlog::level::trace);
  spdlog::set_default_logger(std::move(logger));
}

}  // namespace gradwire::cli
