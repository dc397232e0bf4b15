// What the subcommands of `gradwire bench` share.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "bench/report.h"
#include "cli/command.h"
#include "cli/standard_output.h"

namespace gradwire::cli {

// "s" unless it is one.
inline const char* Plural(int64_t count) { return count == 1 ? "" : "s"; }

// `text` as lines of comment within 80 columns.
void PrintComment(const std::string& text);

// The line about a report that was written, unless it is none or standard output.
void TellWritten(const bench::JsonOutput& output);

// -J, --json FILE.
void AddJsonFlag(CLI::App& command, std::string& file);

// The head of a report of this run; collective over `world`.
absl::StatusOr<nlohmann::ordered_json> DescribeThisRun(World& world, const Settings& settings,
                                                       const std::string& transport,
                                                       const std::string& description);

// Runs `measure` as one rank of the job that the environment names, and as rank 0 writes the JSON
// that it fills to `file`, unless that is empty. Without a job it starts `ranks` of this very
// command. `measure` returns the number of wrong elements. Returns the exit code.
int RunAsRank(
    const Settings& settings, int ranks, const std::string& file,
    const std::function<absl::StatusOr<int64_t>(World&, nlohmann::ordered_json&)>& measure);

}  // namespace gradwire::cli
