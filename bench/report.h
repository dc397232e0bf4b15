// The JSON report of -J: nccl-tests' keys, and what else a reader needs to judge the numbers.
#pragma once

#include <chrono>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bench/collective.h"
#include "bench/options.h"
#include "bench/resources.h"
#include "bench/runner.h"
#include "bench/statistics.h"
#include "bench/table.h"
#include "transport/bootstrap/world.h"
#include "transport/machine.h"
#include "transport/settings.h"
#include "transport/status.h"

namespace gradwire::bench {

// Every rank's device, which each rank tells the others; collective over `world`.
absl::StatusOr<std::vector<RankLine>> GatherRankLines(World& world, const std::string& transport,
                                                      const std::string& description,
                                                      std::chrono::milliseconds timeout);

// The head of every report: version, time, machine, ranks with their devices, settings in effect
// and the command line, both without what settings mark as secret.
nlohmann::ordered_json DescribeRun(const std::vector<std::string>& arguments,
                                   const Settings& settings, const std::vector<RankLine>& ranks);
nlohmann::ordered_json EffectiveSettings(const Settings& settings);
nlohmann::ordered_json ToJson(const Machine& machine);
// Keys cpu_s_per_gb, user_s_per_gb, ..., blocks_per_call.
nlohmann::ordered_json ToJson(const Cost& cost);
// Keys min_us, ..., p99_us, stdev_us, cv_pct.
nlohmann::ordered_json ToJson(const Summary& microseconds);

// Where -J and --json write: a file, of which nothing is left unless it was written. One that
// exists is kept, and ours is called FILE.0, FILE.1, ... A device or a pipe is written as it is,
// "-" is standard output, and an empty path nothing at all.
class JsonOutput {
 public:
  // Before the work, so that a bad path costs nobody's time: InvalidArgument names it.
  static absl::StatusOr<JsonOutput> Create(const std::string& path);
  JsonOutput() = default;
  JsonOutput(JsonOutput&& other) noexcept;
  JsonOutput& operator=(JsonOutput&& other) noexcept;
  ~JsonOutput();

  bool wanted() const { return !path_.empty(); }
  bool is_standard_output() const { return path_ == "-"; }
  const std::string& path() const { return path_; }  // under which it is found
  // The text, and with a second call that one instead.
  absl::Status WriteText(std::string_view text);
  absl::Status Write(const nlohmann::ordered_json& json);

 private:
  std::string path_;
  int fd_ = -1;  // of a regular file
  bool written_ = false;
};

// Filled while the benchmark runs and written at its end, on rank 0.
class Report {
 public:
  explicit Report(JsonOutput output) : output_(std::move(output)) {}

  const JsonOutput& output() const { return output_; }

  // What runs where, and how often what is called.
  void Begin(const std::vector<std::string>& arguments, const CollectiveInfo& collective,
             const Options& options, const Settings& settings, const std::vector<RankLine>& ranks);
  void Add(const Row& row);
  void Add(nlohmann::ordered_json result) { json_["results"].push_back(std::move(result)); }
  void End(const Options& options, const Totals& totals);
  void AddError(const std::string& message);

  absl::Status Write();

  const nlohmann::ordered_json& json() const { return json_; }

 private:
  JsonOutput output_;
  nlohmann::ordered_json json_;
};

}  // namespace gradwire::bench
