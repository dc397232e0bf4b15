// gradwire ps swarm: one server under many simulated workers.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <optional>
#include <thread>
#include <utility>

#include "bench/table.h"
#include "cli/ps.h"
#include "cli/rank_process.h"
#include "cli/report.h"
#include "cli/standard_output.h"
#include "cli/usage.h"
#include "parameter_server/swarm.h"
#include "transport/bootstrap/launcher.h"

namespace gradwire::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kStartPatience{10};
constexpr std::chrono::seconds kEndPatience{10};
constexpr std::chrono::milliseconds kServerInterval{10};
constexpr int64_t kMinSlice = 1 << 10, kMaxSlice = 64 << 10;  // bytes
constexpr size_t kLongestGreeting = 64 << 10;                 // bytes

// A server of our own: this program, started as `gradwire ps serve`.
class OwnServer {
 public:
  static absl::StatusOr<OwnServer> Start(const Settings& settings, int64_t slice_bytes,
                                         int64_t window);
  OwnServer(OwnServer&& other) noexcept
      : process_(std::exchange(other.process_, {})), address_(std::move(other.address_)) {}
  OwnServer& operator=(OwnServer&&) = delete;
  ~OwnServer() { End().IgnoreError(); }

  const std::string& address() const { return address_; }
  int64_t resident() const { return ps::ResidentBytes(process_.pid); }
  // Passes on what it has to say.
  void Listen() { process_.err.Pass().IgnoreError(); }
  // Asks it to end and waits; kills it when it does not. An error when it failed.
  absl::Status End();

 private:
  OwnServer() = default;
  absl::Status ReadAddress();
  // Its exit status once it has ended.
  absl::StatusOr<int> Await(Clock::time_point deadline);

  RankProcess process_;
  std::string address_;
};

// The child's variables: ours, and what `settings` have changed. Secrets do not belong into the
// command line.
std::vector<std::string> ChildEnvironment(const Settings& settings) {
  Environment variables = ProcessEnvironment();
  const Settings defaults;
  for (const SettingInfo& info : AllSettings()) {
    variables.erase(info.variable());
    if (info.get(settings) != info.get(defaults)) variables[info.variable()] = info.get(settings);
  }
  std::vector<std::string> environment;
  for (const auto& [name, value] : variables) environment.push_back(name + "=" + value);
  return environment;
}

absl::StatusOr<OwnServer> OwnServer::Start(const Settings& settings, int64_t slice_bytes,
                                           int64_t window) {
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return InternalError("/proc does not tell this program's file; use --servers");
  OwnServer server;
  GW_ASSIGN_OR_RETURN(
      server.process_,
      RankProcess::Start(
          {.program = program,
           .arguments = {"gradwire", "ps", "serve", "--port", "0", "--address", "127.0.0.1",
                         "--consistency", "asp", "--window", std::to_string(window),
                         "--slice-bytes", std::to_string(slice_bytes)},
           .environment = ChildEnvironment(settings),
           .prefix = "server: "}));
  GW_RETURN_IF_ERROR(server.ReadAddress());
  return server;
}

absl::Status OwnServer::ReadAddress() {
  constexpr std::string_view kBefore = " at ";
  const auto deadline = Clock::now() + kStartPatience;
  std::string line;
  while (line.find('\n') == std::string::npos) {
    pollfd ready{process_.out.fd(), POLLIN, 0};
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
    if (left.count() <= 0 || line.size() > kLongestGreeting) {
      return DeadlineExceeded("gradwire ps serve does not say where it listens");
    }
    poll(&ready, 1, static_cast<int>(left.count()));
    std::array<char, 1024> text;
    const ssize_t count = read(process_.out.fd(), text.data(), text.size());
    if (count > 0) line.append(text.data(), static_cast<size_t>(count));
    if (count == 0) {
      process_.err.Finish().IgnoreError();
      return FailedPrecondition("gradwire ps serve ended before it listened");
    }
  }
  const size_t begin = line.find(kBefore);
  const size_t end = line.find(", ", begin);
  if (begin == std::string::npos || end == std::string::npos) {
    return InternalError("gradwire ps serve said '{}'", line.substr(0, line.find('\n')));
  }
  address_ = line.substr(begin + kBefore.size(), end - begin - kBefore.size());
  return ParseHostPort(address_).status();
}

absl::StatusOr<int> OwnServer::Await(Clock::time_point deadline) {
  while (true) {
    int status = 0;
    Listen();
    const pid_t ended = waitpid(process_.pid, &status, WNOHANG);
    if (ended == process_.pid) return status;
    if (ended < 0 && errno != EINTR) return ErrnoError(errno, "cannot wait for the server");
    if (Clock::now() >= deadline) return DeadlineExceeded("the server does not end");
    std::this_thread::sleep_for(kServerInterval);
  }
}

absl::Status OwnServer::End() {
  if (process_.pid < 0) return absl::OkStatus();
  kill(process_.pid, SIGTERM);
  absl::StatusOr<int> status = Await(Clock::now() + kEndPatience);
  if (!status.ok()) {
    kill(process_.pid, SIGKILL);
    Await(Clock::now() + kEndPatience).IgnoreError();
  }
  process_.err.Finish().IgnoreError();
  process_.pid = -1;
  GW_RETURN_IF_ERROR(status.status());
  if (WIFEXITED(*status) && WEXITSTATUS(*status) == 0) return absl::OkStatus();
  return MakeError(absl::StatusCode::kUnknown, "the server at {} ended with {} {}", address_,
                   WIFEXITED(*status) ? "exit code" : "signal",
                   WIFEXITED(*status) ? WEXITSTATUS(*status) : WTERMSIG(*status));
}

struct SwarmCommand {
  Settings settings;
  ps::SwarmOptions options;
  std::vector<int> workers = {10};
  std::string bytes = "4K";
  std::string interval = "0";
  int64_t window = 4;
  std::string json;
  const CLI::Option* slice_option = nullptr;
  const CLI::Option* window_option = nullptr;

  absl::Status Complete();
  std::string Header(const std::string& transport) const;
  // `server_bytes`: what the server grew by; -1: not known.
  std::string Line(const ps::SwarmReport& report, double server_bytes) const;
  // Whether all succeeded.
  absl::StatusOr<bool> Measure(int count, nlohmann::ordered_json& results);
  int Run();
};

absl::Status SwarmCommand::Complete() {
  absl::StatusOr<int64_t> size = ParseByteSize(bytes);
  if (!size.ok()) return Annotate(size.status(), "--bytes");
  options.bytes = *size;
  const auto pause = ParseDuration(interval);
  if (!pause.ok()) return Annotate(pause.status(), "--interval");
  options.interval = *pause;
  if (!options.servers.empty() && window_option->count() > 0) {
    return InvalidArgument("--window is for a server of our own; those of --servers have theirs");
  }
  for (const int count : workers) {
    options.workers = count;
    GW_RETURN_IF_ERROR(Validate(options));
  }
  if (slice_option->count() == 0) {
    // Slots as large as what they hold.
    const int64_t fitting = (options.bytes + 63) / 64 * 64;
    settings.slice_bytes = std::clamp(fitting, kMinSlice, kMaxSlice);
  }
  return absl::OkStatus();
}

// `words` as lines of comment.
std::string Comment(const std::string& words) {
  std::string lines = Wrapped(words, 2);
  for (size_t at = 0; at < lines.size(); at = lines.find('\n', at) + 1) lines[at] = '#';
  return lines;
}

std::string SwarmCommand::Header(const std::string& transport) const {
  std::string text = Comment("gradwire ps swarm: " + transport);
  text += Comment(options.servers.empty()
                      ? fmt::format("server of our own: asp, 1 thread, window {}, slices of {} B",
                                    window, settings.slice_bytes)
                      : fmt::format("servers: {}", fmt::join(options.servers, ", ")));
  text += Comment(
      fmt::format("each worker: {} push-pulls of {} B, {}; TLS {}", options.steps, options.bytes,
                  options.interval.count() == 0 ? "one after another" : "one every " + interval,
                  settings.tls_ca.empty() && settings.tls_cert.empty() ? "off" : "on"));
  text += Comment(
      "memory: resident, of a connected worker at the server and here, here without its tensors");
  text += fmt::format("# {:>10} {:>6} {:>6} {:>11} {:>20} {:>7} {:>11}\n", "workers", "ok",
                      "set-up", "connect, ms", "push-pull (us)", "updates", "memory (KB)");
  text += fmt::format("# {:>4} {:>5} {:>6} {:>6} {:>5} {:>5} {:>6} {:>6} {:>6} {:>7} {:>5} {:>5}\n",
                      "want", "conn", "(%)", "(1/s)", "p50", "p99", "p50", "p95", "p99", "(1/s)",
                      "serv.", "here");
  return text;
}

std::string SwarmCommand::Line(const ps::SwarmReport& report, double server_bytes) const {
  const auto number = bench::FormatNumber;
  const ps::Distribution& connect = report.connect;
  const ps::Distribution& step = report.push_pull;
  // Never rounded up to 100.
  const double success = std::floor(report.success() * 1e4) / 100;
  return fmt::format(
      "{:>6} {:>5} {:>6} {:>6} {:>5} {:>5} {:>6} {:>6} {:>6} {:>7} {:>5} {:>5}\n", report.workers,
      report.connected, number(success, 6), number(report.setup_rate(), 6),
      number(connect.p50 * 1e3, 5), number(connect.p99 * 1e3, 5), number(step.p50 * 1e6, 6),
      number(step.p95 * 1e6, 6), number(step.p99 * 1e6, 6), number(report.update_rate(), 7),
      server_bytes < 0 ? "-" : number(server_bytes / 1e3, 5), number(report.worker_bytes / 1e3, 5));
}

nlohmann::ordered_json ToJson(const ps::Distribution& times) {
  return {{"count", times.count}, {"mean", times.mean}, {"p50", times.p50},
          {"p95", times.p95},     {"p99", times.p99},   {"max", times.max}};
}

nlohmann::ordered_json ToJson(const ps::SwarmReport& report, double server_bytes) {
  nlohmann::ordered_json json = {{"workers", report.workers},
                                 {"connected", report.connected},
                                 {"steps_wanted", report.steps_wanted},
                                 {"steps_done", report.steps_done},
                                 {"success", report.success()},
                                 {"connections_per_second", report.setup_rate()},
                                 {"connect_s", ToJson(report.connect)},
                                 {"push_pull_s", ToJson(report.push_pull)},
                                 {"updates_per_second", report.update_rate()},
                                 {"run_s", report.run_seconds},
                                 {"server_bytes_per_worker", nullptr},
                                 {"worker_bytes", report.worker_bytes},
                                 {"tensor_bytes", report.tensor_bytes},
                                 {"errors", report.errors}};
  if (server_bytes >= 0) json["server_bytes_per_worker"] = server_bytes;
  return json;
}

absl::StatusOr<bool> SwarmCommand::Measure(int count, nlohmann::ordered_json& results) {
  ps::SwarmOptions swarm = options;
  swarm.workers = count;
  std::optional<OwnServer> own;
  if (options.servers.empty()) {
    GW_ASSIGN_OR_RETURN(OwnServer started,
                        OwnServer::Start(settings, settings.slice_bytes, window));
    own.emplace(std::move(started));
    swarm.servers = {own->address()};
  }
  int64_t before = -1, most = 0;
  const auto look = [&](int, uint64_t) {
    if (!own) return;
    own->Listen();
    const int64_t now = own->resident();
    if (before < 0) before = now;  // the shards are there, the workers are not
    most = std::max(most, now);
  };
  absl::StatusOr<ps::SwarmReport> report = ps::RunSwarm(swarm, settings, look);
  const absl::Status ended = own ? own->End() : absl::OkStatus();
  if (!report.ok()) return report.status();
  const double server_bytes =
      own && report->connected > 0 ? static_cast<double>(most - before) / report->connected : -1;
  if (results.empty()) PrintText("{}", Header(report->transport));
  PrintText("{}", Line(*report, server_bytes));
  for (const std::string& error : report->errors) {
    PrintError("gradwire: {} workers: {}\n", count, error);
  }
  results.push_back(ToJson(*report, server_bytes));
  GW_RETURN_IF_ERROR(ended);
  return report->connected == count && report->steps_done == report->steps_wanted;
}

int SwarmCommand::Run() {
  if (const absl::Status status = Complete(); !status.ok()) return ReportError(status);
  absl::StatusOr<bench::JsonOutput> output = OpenJson(json);
  if (!output.ok()) return ReportError(output.status());
  SetUpLogging(settings.log_level);
  IgnoreBrokenConnections();
  nlohmann::ordered_json report = {{"servers", options.servers},
                                   {"bytes", options.bytes},
                                   {"steps", options.steps},
                                   {"interval_us", options.interval.count()},
                                   {"tls", !settings.tls_ca.empty() || !settings.tls_cert.empty()}};
  auto results = nlohmann::ordered_json::array();
  int code = kDone;
  for (const int count : workers) {
    const absl::StatusOr<bool> all = Measure(count, results);
    if (!all.ok()) {
      code = ReportError(Annotate(all.status(), fmt::format("{} workers", count)));
    } else if (!*all) {
      code = kFailed;
    }
  }
  report["results"] = std::move(results);
  const absl::Status written = output->Write(report);
  return written.ok() ? code : ReportError(written);
}

}  // namespace

void AddPsSwarm(CLI::App& ps, Action& action) {
  auto command = std::make_shared<SwarmCommand>();
  ps::SwarmOptions& options = command->options;
  CLI::App* app = ps.add_subcommand("swarm", "Load servers with many simulated workers");
  app->footer(
      "Examples:\n"
      "  gradwire ps swarm --workers 10,100,1000,2000     one after another, each with\n"
      "                                                   a server of our own\n"
      "  gradwire ps swarm --workers 100 --interval 10ms  a step every 10 ms\n"
      "  gradwire ps swarm --servers node1:4000 --workers 500\n"
      "Every worker holds links of its own, over RDMA queue pairs. Exit code 1 unless\n"
      "all connected and every push-pull was answered.\n");
  app->add_option("--workers", command->workers, "How many; several numbers: one run for each")
      ->delimiter(',')
      ->capture_default_str();
  app->add_option("--servers", options.servers,
                  "HOST:PORT of all servers, asp or ssp, in the order of their index; default: one "
                  "of our own")
      ->delimiter(',');
  app->add_option("--bytes", command->bytes, "Of the tensor that each pushes and pulls")
      ->capture_default_str();
  app->add_option("--steps", options.steps, "Push-pulls of each worker")->capture_default_str();
  app->add_option("--interval", command->interval,
                  "From one push-pull of a worker to its next, such as 10ms; 0: at once")
      ->capture_default_str();
  command->window_option =
      app->add_option("--window", command->window, "Our own server's slots of a worker, 2..64")
          ->check(Between(2, 64))
          ->capture_default_str();
  app->add_option("--json", command->json,
                  "Write the numbers as JSON to FILE too, - for stdout alone")
      ->type_name("FILE");
  AddSettings(*app, command->settings);
  command->slice_option = app->get_option("--slice-bytes");
  app->callback([command, &action] { action = [command] { return command->Run(); }; });
}

}  // namespace gradwire::cli
