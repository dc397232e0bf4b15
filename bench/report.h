// The JSON report of -J: nccl-tests' keys, and what else a reader needs to judge the numbers.
#pragma once

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "bench/collective.h"
#include "bench/options.h"
#include "bench/runner.h"
#include "bench/table.h"
#include "transport/settings.h"
#include "transport/status.h"

namespace gradwire::bench {

// Filled while the benchmark runs and written at its end, on rank 0.
class Report {
 public:
  // Creates `path`, or path.0, path.1, ... when that exists: a file is never overwritten. The error
  // names the path and the reason.
  static absl::StatusOr<Report> Create(const std::string& path);

  const std::string& path() const { return path_; }

  // The command line, without what `settings` mark as secret, and what runs where.
  void Begin(const std::vector<std::string>& arguments, const CollectiveInfo& collective,
             const Options& options, const Settings& settings, const std::vector<RankLine>& ranks);
  void Add(const Row& row);
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
