#include "bench/report.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <ctime>
#include <span>
#include <utility>

#include "bench/resources.h"
#include "transport/file_io.h"

namespace gradwire::bench {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kReportVersion = 1;
constexpr int kMaxNames = 10'000;  // of the same file

std::string LocalTime() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  char text[32];
  return std::string(text, std::strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &local));
}

Json Numbers(const Half& half) {
  Json json = {{"time", half.time_us},
               {"alg_bw", half.algorithm_bandwidth},
               {"bus_bw", half.bus_bandwidth},
               {"nwrong", nullptr}};
  if (half.wrong) json["nwrong"] = *half.wrong;
  json.update(ToJson(half.cost));
  return json;
}

Json PerCall(const Half& half) {
  Json json = ToJson(half.per_call);
  json["times_us"] = half.samples;
  return json;
}

}  // namespace

absl::StatusOr<std::vector<RankLine>> GatherRankLines(World& world, const std::string& transport,
                                                      const std::string& description,
                                                      std::chrono::milliseconds timeout) {
  GW_ASSIGN_OR_RETURN(const std::vector<std::string> descriptions,
                      world.AllGather("bench/devices", description, {}, timeout));
  std::vector<RankLine> lines;
  for (int rank = 0; rank < world.size(); ++rank) {
    lines.push_back({world.peer(rank), transport, descriptions[static_cast<size_t>(rank)]});
  }
  return lines;
}

Json DescribeRun(const std::vector<std::string>& arguments, const Settings& settings,
                 const std::vector<RankLine>& ranks) {
  Json json = {{"version", kReportVersion},         {"start_time", LocalTime()},
               {"args", WithoutSecrets(arguments)}, {"settings", EffectiveSettings(settings)},
               {"machine", ToJson(ThisMachine())},  {"devices", Json::array()}};
  for (const RankLine& line : ranks) {
    json["devices"].push_back({{"rank", line.peer.rank},
                               {"group", 0},
                               {"pid", line.peer.pid},
                               {"hostname", line.peer.host},
                               {"cores", line.peer.cores},
                               {"device", 0},
                               {"transport", line.transport},
                               {"device_info", line.description}});
  }
  return json;
}

Json EffectiveSettings(const Settings& settings) {
  Json json = Json::object();
  for (const SettingInfo& info : AllSettings()) {
    if (!info.secret) json[std::string(info.name)] = info.get(settings);
  }
  return json;
}

Json ToJson(const Machine& machine) {
  return {{"cpu_model", machine.cpu}, {"cores", machine.cores}, {"kernel", machine.kernel}};
}

Json ToJson(const Cost& cost) {
  Json json = {{"cpu_s_per_gb", cost.cpu_seconds_per_gb()},
               {"user_s_per_gb", cost.user_seconds_per_gb},
               {"system_s_per_gb", cost.system_seconds_per_gb},
               {"voluntary_switches_per_call", cost.voluntary_switches},
               {"involuntary_switches_per_call", cost.involuntary_switches},
               {"syscalls_per_call", cost.syscalls},
               {"blocks_per_call", cost.blocks}};
  if (cost.copies_per_byte) json["copies_per_byte"] = *cost.copies_per_byte;
  return json;
}

Json ToJson(const Summary& microseconds) {
  return {{"min_us", microseconds.min},     {"max_us", microseconds.max},
          {"avg_us", microseconds.avg},     {"p50_us", microseconds.p50},
          {"p95_us", microseconds.p95},     {"p99_us", microseconds.p99},
          {"stdev_us", microseconds.stdev}, {"cv_pct", microseconds.cv_pct}};
}

absl::StatusOr<JsonOutput> JsonOutput::Create(const std::string& path) {
  const auto refuse = [](const std::string& file, int error) {
    return InvalidArgument(
        "--json {}: cannot write here: {}; name a file in a folder that can be written", file,
        std::generic_category().message(error));
  };
  JsonOutput output;
  // Another way to say it, also where standard output is a file.
  output.path_ = path == "/dev/stdout" ? "-" : path;
  if (!output.wanted() || output.is_standard_output()) return output;
  struct stat facts {};
  if (stat(path.c_str(), &facts) == 0 && !S_ISREG(facts.st_mode)) {
    if (S_ISDIR(facts.st_mode)) return refuse(path, EISDIR);
    if (access(path.c_str(), W_OK) != 0) return refuse(path, errno);
    return output;
  }
  for (int number = 0; number <= kMaxNames; ++number) {
    output.fd_ = open(output.path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (output.fd_ >= 0) return output;
    if (errno != EEXIST) return refuse(output.path_, errno);
    output.path_ = fmt::format("{}.{}", path, number);
  }
  return InvalidArgument("--json {}: it and {} numbered files beside it exist; remove some", path,
                         kMaxNames);
}

JsonOutput::JsonOutput(JsonOutput&& other) noexcept { *this = std::move(other); }

JsonOutput& JsonOutput::operator=(JsonOutput&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  std::swap(written_, other.written_);
  return *this;
}

JsonOutput::~JsonOutput() {
  if (fd_ < 0) return;
  close(fd_);
  if (!written_) unlink(path_.c_str());
}

absl::Status JsonOutput::WriteText(std::string_view text) {
  if (!wanted()) return absl::OkStatus();
  if (is_standard_output()) {
    const bool whole = std::fwrite(text.data(), 1, text.size(), stdout) == text.size();
    if (std::fflush(stdout) == 0 && whole) return absl::OkStatus();
    return ErrnoError(errno, "cannot write JSON to standard output");
  }
  const ConstBytes bytes = std::as_bytes(std::span(text.data(), text.size()));
  if (fd_ >= 0) {
    if (ftruncate(fd_, 0) != 0 || lseek(fd_, 0, SEEK_SET) != 0) {
      return ErrnoError(errno, "{}: cannot write", path_);
    }
    const absl::Status status = WriteWhole(fd_, bytes, path_);
    written_ = status.ok();
    return status;
  }
  // A pipe is opened now: its reader may not have come before.
  const int fd = open(path_.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) return ErrnoError(errno, "{}: cannot write", path_);
  const absl::Status status = WriteWhole(fd, bytes, path_);
  close(fd);
  return status;
}

absl::Status JsonOutput::Write(const Json& json) {
  // Text that is no UTF-8 (a host name, an argument) must not cost the report.
  return WriteText(json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

void Report::Begin(const std::vector<std::string>& arguments, const CollectiveInfo& collective,
                   const Options& options, const Settings& settings,
                   const std::vector<RankLine>& ranks) {
  json_ = DescribeRun(arguments, settings, ranks);
  Json config = {{"collective", collective.name},
                 {"ranks", ranks.size()},
                 {"minimum_bytes", options.min_bytes},
                 {"maximum_bytes", options.max_bytes}};
  if (options.step_factor > 1) {
    config["step_factor"] = options.step_factor;
  } else {
    config["step_bytes"] = options.step_bytes;
  }
  if (!options.sizes.empty()) config["sizes"] = options.sizes;
  config["warmup_iters"] = options.warmups;
  config["iterations"] = options.iterations;
  config["run_cycles"] = options.cycles;
  config["validation"] = options.checks;
  config["average"] = static_cast<int>(options.average);
  config["local_register"] = options.registered ? 1 : 0;
  json_["config"] = std::move(config);
  json_["results"] = Json::array();
}

void Report::Add(const Row& row) {
  json_["results"].push_back({{"size", row.bytes},
                              {"count", row.measured.count},
                              {"type", NameOf(row.measured.type)},
                              {"redop", OpColumn(row.measured)},
                              {"root", RootColumn(row.measured)},
                              {"out_of_place", Numbers(row.out_of_place)},
                              {"out_of_place_per_iter", PerCall(row.out_of_place)},
                              {"in_place", Numbers(row.in_place)},
                              {"in_place_per_iter", PerCall(row.in_place)}});
}

void Report::End(const Options& options, const Totals& totals) {
  json_["out_of_bounds"] = {{"count", totals.wrong}, {"okay", totals.wrong == 0}};
  Json bandwidth = {{"bandwidth", totals.bus_bandwidth}, {"okay", "unchecked"}};
  if (options.min_bandwidth >= 0) bandwidth["okay"] = totals.BandwidthOkay(options);
  json_["average_bus_bandwidth"] = std::move(bandwidth);
}

void Report::AddError(const std::string& message) { json_["errors"].push_back(message); }

absl::Status Report::Write() {
  if (!json_.contains("errors")) json_["errors"] = Json::array();
  json_["end_time"] = LocalTime();
  return output_.Write(json_);
}

}  // namespace gradwire::bench
