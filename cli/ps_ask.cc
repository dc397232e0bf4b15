// gradwire ps status, stop, checkpoint, export: what people ask of running servers.
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <future>
#include <thread>

#include "analysis/units.h"
#include "cli/ps.h"
#include "cli/report.h"
#include "cli/standard_output.h"
#include "parameter_server/checkpoint.h"
#include "parameter_server/control.h"

namespace gradwire::cli {
namespace {

// A server that runs answers at once.
constexpr std::chrono::seconds kReachPatience{3};
constexpr std::chrono::milliseconds kLeastPause{100};  // between two looks
// Of a table; the JSON has all.
constexpr size_t kShownWorkers = 20;

struct AskCommand {
  Settings settings;
  std::vector<std::string> servers;
  std::string json;
  std::string watch;
  CLI::Option* watch_option = nullptr;  // null or not given: once

  absl::StatusOr<std::unique_ptr<ps::ControlClient>> Open(const std::string& server) const {
    return ps::ControlClient::Open(server, settings,
                                   std::chrono::steady_clock::now() + kReachPatience);
  }
};

std::string Table(const ps::ServerStatus& status) {
  std::string how(ps::NameOf(status.consistency));
  if (status.consistency == ps::Consistency::kSsp) how += fmt::format(" {}", status.staleness);
  std::string text =
      fmt::format("server {} of {} at {}\n", status.server, status.servers, status.address);
  text += Wrapped(fmt::format("{}; {}", how, status.optimizer), 2);
  text += Wrapped(status.device, 2);
  if (!status.checkpoint.empty()) text += Wrapped("checkpoint: " + status.checkpoint, 2);
  if (!status.failure.empty()) text += Wrapped("FAILED: " + status.failure, 2);
  if (status.shards.empty()) return text + "  nobody has joined yet\n";

  text += fmt::format("\n  {:>5} {:>11} {:>9} {:>10} {:>6} {:>6} {:>5}  {}\n", "shard", "bytes",
                      "step", "updates/s", "dup", "ref", "links", "role");
  for (const ps::ShardStatus& shard : status.shards) {
    text += fmt::format("  {:>5} {:>11} {:>9} {:>10.0f} {:>6} {:>6} {:>5}  {}\n", shard.shard,
                        analysis::SizeText(static_cast<uint64_t>(shard.bytes)), shard.min_clock,
                        shard.updates_per_second, shard.duplicates, shard.refused, shard.links,
                        shard.role.substr(0, 17));
  }
  if (status.workers.empty()) return text + "\n  no workers\n";
  text += fmt::format("\n  {:>7} {:>9} {:>9} {:>8}  {}\n", "worker", "step", "waits for", "silent",
                      "who");
  for (size_t i = 0; i < std::min(status.workers.size(), kShownWorkers); ++i) {
    const ps::WorkerStatus& worker = status.workers[i];
    text += fmt::format("  {:>7} {:>9} {:>9} {:>6.1f} s  {}\n", worker.worker, worker.clock,
                        worker.waits_for < 0 ? "-" : std::to_string(worker.waits_for),
                        static_cast<double>(worker.silent_ms) / 1000, worker.who.substr(0, 38));
  }
  if (status.workers.size() > kShownWorkers) {
    const auto [least, most] =
        std::minmax_element(status.workers.begin(), status.workers.end(),
                            [](const auto& a, const auto& b) { return a.clock < b.clock; });
    text += fmt::format("  and {} more; all are at steps {}..{}\n",
                        status.workers.size() - kShownWorkers, least->clock, most->clock);
  }
  return text;
}

nlohmann::ordered_json ToJson(const ps::ServerStatus& status) {
  nlohmann::ordered_json json = {{"server", status.server},
                                 {"servers", status.servers},
                                 {"address", status.address},
                                 {"transport", status.transport},
                                 {"device", status.device},
                                 {"consistency", std::string(ps::NameOf(status.consistency))},
                                 {"staleness", status.staleness},
                                 {"optimizer", status.optimizer},
                                 {"checkpoint", status.checkpoint},
                                 {"failure", status.failure},
                                 {"shards", nlohmann::ordered_json::array()},
                                 {"workers", nlohmann::ordered_json::array()}};
  for (const ps::ShardStatus& shard : status.shards) {
    json["shards"].push_back({{"shard", shard.shard},
                              {"role", shard.role},
                              {"bytes", shard.bytes},
                              {"step", shard.min_clock},
                              {"updates", shard.updates},
                              {"updates_per_second", shard.updates_per_second},
                              {"duplicates", shard.duplicates},
                              {"refused", shard.refused},
                              {"links", shard.links}});
  }
  for (const ps::WorkerStatus& worker : status.workers) {
    json["workers"].push_back({{"worker", worker.worker},
                               {"who", worker.who},
                               {"step", worker.clock},
                               {"waits_for", worker.waits_for},
                               {"silent_ms", worker.silent_ms}});
  }
  return json;
}

// One look at all servers; those that answer are shown whatever the others do.
int ShowStatus(const AskCommand& command, bench::JsonOutput& output) {
  int code = kDone;
  std::string text;
  auto json = nlohmann::ordered_json::array();
  for (const std::string& server : command.servers) {
    const auto status = [&]() -> absl::StatusOr<ps::ServerStatus> {
      GW_ASSIGN_OR_RETURN(const auto client, command.Open(server));
      return client->Status();
    }();
    if (!status.ok()) {
      code = std::max(code, ReportError(status.status()));
      continue;
    }
    text += (text.empty() ? "" : "\n") + Table(*status);
    json.push_back(ToJson(*status));
  }
  if (!output.is_standard_output()) PrintNow(text);
  const absl::Status written = output.Write({{"servers", std::move(json)}});
  return written.ok() ? code : ReportError(written);
}

int Watch(const AskCommand& command) {
  SetUpLogging(command.settings.log_level);
  absl::StatusOr<bench::JsonOutput> output = OpenJson(command.json);
  if (!output.ok()) return ReportError(output.status());
  if (command.watch_option->count() == 0) return ShowStatus(command, *output);
  const auto pause = ParseDuration(command.watch.empty() ? "2s" : command.watch);
  if (!pause.ok()) return ReportError(Annotate(pause.status(), "--watch"));
  while (true) {
    if (isatty(STDOUT_FILENO) == 1) PrintText("\033[H\033[J");
    if (const int code = ShowStatus(command, *output); code != kDone) return code;
    PrintText("\n");
    std::this_thread::sleep_for(std::max(*pause, kLeastPause));
  }
}

int StopAll(const AskCommand& command) {
  SetUpLogging(command.settings.log_level);
  char host[256] = "";
  gethostname(host, sizeof(host) - 1);
  int code = kDone;
  for (const std::string& server : command.servers) {
    const auto client = command.Open(server);
    absl::Status status = client.status();
    if (status.ok()) status = (*client)->Stop(fmt::format("gradwire ps stop on {}", host));
    if (status.ok()) {
      PrintText("server {} ends\n", server);
    } else {
      code = std::max(code, ReportError(status));
    }
  }
  return code;
}

// All at once: a checkpoint is whole only when every server has written its part.
int CheckpointAll(const AskCommand& command) {
  SetUpLogging(command.settings.log_level);
  std::vector<std::future<absl::StatusOr<std::string>>> asked;
  for (const std::string& server : command.servers) {
    asked.push_back(
        std::async(std::launch::async, [&command, server]() -> absl::StatusOr<std::string> {
          GW_ASSIGN_OR_RETURN(const auto client, command.Open(server));
          return client->Checkpoint();
        }));
  }
  int code = kDone;
  for (size_t i = 0; i < asked.size(); ++i) {
    const absl::StatusOr<std::string> folder = asked[i].get();
    if (folder.ok()) {
      PrintText("server {}: {}\n", command.servers[i], *folder);
    } else {
      code = std::max(code, ReportError(folder.status()));
    }
  }
  return code;
}

std::shared_ptr<AskCommand> AddAsk(CLI::App& ps, Action& action, const char* name, const char* help,
                                   const char* footer, int (*run)(const AskCommand&),
                                   CLI::App** app) {
  auto command = std::make_shared<AskCommand>();
  *app = ps.add_subcommand(name, help);
  (*app)
      ->add_option("SERVER", command->servers, "HOST:PORT of a server, or several with commas")
      ->required()
      ->delimiter(',');
  AddSettings(**app, command->settings);
  (*app)->footer(footer);
  (*app)->callback([command, run, &action] { action = [command, run] { return run(*command); }; });
  return command;
}

}  // namespace

void AddPsStatus(CLI::App& ps, Action& action) {
  CLI::App* app = nullptr;
  const auto command =
      AddAsk(ps, action, "status", "show how servers and their workers are doing",
             "Examples:\n"
             "  gradwire ps status node1:4000,node2:4000\n"
             "  gradwire ps status node1:4000 --watch\n"
             "  gradwire ps status node1:4000 --json -\n"
             "step: the last that all workers have pushed whole; dup: slices that "
             "came again;\nref: requests refused. Exit code 1 when a server cannot "
             "be reached.\n",
             Watch, &app);
  app->add_option("--json", command->json, "write it as JSON to FILE, - for standard output")
      ->type_name("FILE");
  command->watch_option =
      app->add_option("--watch", command->watch, "again after so long; 2s without a value")
          ->expected(0, 1)
          ->type_name("TIME");
}

void AddPsStop(CLI::App& ps, Action& action) {
  CLI::App* app = nullptr;
  AddAsk(ps, action, "stop", "end servers",
         "Example:\n  gradwire ps stop node1:4000,node2:4000\n"
         "Workers that are still there see their server go down.\n",
         StopAll, &app);
}

void AddPsCheckpoint(CLI::App& ps, Action& action) {
  CLI::App* app = nullptr;
  AddAsk(ps, action, "checkpoint", "have servers write a checkpoint now",
         "Example:\n  gradwire ps checkpoint node1:4000,node2:4000\n"
         "Name all servers of the job: the checkpoint is whole when each has written its\n"
         "part. They were started with --checkpoint, the folder.\n",
         CheckpointAll, &app);
}

void AddPsExport(CLI::App& ps, Action& action) {
  struct Request {
    std::string checkpoint;
    std::string file;
  };
  auto request = std::make_shared<Request>();
  CLI::App* app = ps.add_subcommand("export", "make one safetensors file of a checkpoint");
  app->add_option("CHECKPOINT", request->checkpoint, "a checkpoint, or a folder: its newest")
      ->required();
  app->add_option("FILE", request->file, "the file to write")->required();
  app->footer(
      "Example:\n  gradwire ps export ckpt model.safetensors\n"
      "The form is that of gradwire train --checkpoint.\n");
  app->callback([request, &action] {
    action = [request] {
      const absl::Status exported = ps::ExportCheckpoint(request->checkpoint, request->file);
      if (!exported.ok()) return ReportError(exported);
      PrintText("wrote {}\n", request->file);
      return kDone;
    };
  });
}

}  // namespace gradwire::cli
