// What a benchmark run measures, in nccl-tests' terms, and its flags.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "bench/collective.h"
#include "bench/sampling.h"
#include "collectives/types.h"
#include "transport/status.h"

namespace gradwire::bench {

// Which ranks' time a row shows.
enum class Average : uint8_t { kRank0, kMean, kMin, kMax };

struct Options {
  // --- Sizes in bytes: from min to max by factor, or by step when the factor is 1 ---
  int64_t min_bytes = 32 << 20;
  int64_t max_bytes = 32 << 20;
  int64_t step_bytes = 1 << 20;
  int64_t step_factor = 1;
  std::vector<int64_t> sizes;  // instead of those, when not empty

  // --- What is called ---
  std::vector<DataType> types = {DataType::kFloat32};
  std::vector<ReduceOp> ops = {ReduceOp::kSum};
  int64_t root = 0;  // -1: each rank in turn
  // Buffers from Communicator::Allocate instead of ordinary memory.
  bool registered = false;

  // --- Instead of sizes: the gradients of a model, all-reduce only ---
  std::string model;  // of ModelNames(); empty: none
  int64_t bucket_bytes = 25 << 20;

  // --- How often ---
  int64_t iterations = 20;
  int64_t warmups = 1;
  int64_t cycles = 1;  // of the whole sweep; 0: until stopped
  int64_t checks = 1;  // verified calls per row and half; 0: none
  Average average = Average::kMean;

  // --- What is reported ---
  std::string report_file;  // JSON; empty: none
  // GB/s that the average bus bandwidth must reach; negative: any. NCCL_TESTS_MIN_BW.
  double min_bandwidth = -1;
  bool csv = false;  // one row of CSV per size instead of the table; all-reduce only
  SamplingOptions sampling;

  // --- Where ---
  int64_t ranks = 0;  // local ranks to start; 0: this process is one rank of a job, or alone
};

// Flags that several subcommands have: --budget, --sizes.
CLI::Option* AddBudgetFlag(CLI::App& command, double& budget, const std::string& help);
CLI::Option* AddSizeListFlag(CLI::App& command, std::vector<int64_t>& sizes,
                             const std::string& help);
// Declares the flags that every benchmark has: sizes, iterations, local ranks.
void AddSweepFlags(CLI::App& command, Options& options);
// Declares the flags of `collective` on `command`; parsing writes to `options`, which outlives it.
// nccl-tests' flags that mean nothing here are known, and refused with the reason unless they ask
// for what is done anyway.
void AddFlags(CLI::App& command, const CollectiveInfo& collective, Options& options);

// Reads NCCL_TESTS_MIN_BW.
absl::Status ReadEnvironment(const std::map<std::string, std::string>& environment,
                             Options& options);

// Relations that no single flag can state, for a world of `ranks`.
absl::Status Validate(const Options& options, int ranks);

// The sizes of a sweep, ascending unless listed; at most kMaxSizes.
inline constexpr size_t kMaxSizes = 100'000;
absl::StatusOr<std::vector<int64_t>> SizesOf(const Options& options);

}  // namespace gradwire::bench
