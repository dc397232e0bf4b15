// The JSON report of -J: nccl-tests' keys, and what else a reader needs to judge the numbers.
#pragma once

#include <chrono>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
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

// Filled while the benchmark runs and written at its end, on rank 0.
class Report {
 public:
  // Creates `path`, or path.0, path.1, ... when that exists: a file is never overwritten. The error
  // names the path and the reason.
  static absl::StatusOr<Report> Create(const std::string& path);

  const std::string& path() const { return path_; }

  // What runs where, and how often what is called.
  void Begin(const std::vector<std::string>& arguments, const CollectiveInfo& collective,
             const Options& options, const Settings& settings, const std::vector<RankLine>& ranks);
  void Add(const Row& row);
  void Add(nlohmann::ordered_json result) { json_["results"].push_back(std::move(result)); }
  void End(const Options& options, const Totals& totals);
  void AddError(const std::string& message);

  // Writes the file and closes it. To be called once.
  absl::Status Write();

  const nlohmann::ordered_json& json() const { return json_; }

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::string path_;
  std::unique_ptr<std::FILE, Close> file_;
  nlohmann::ordered_json json_;
};

}  // namespace gradwire::bench
