#include "bench/options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <functional>
#include <limits>

#include "bench/model_gradients.h"
#include "transport/settings.h"

namespace gradwire::bench {
namespace {

constexpr int64_t kMaxBytes = int64_t{1} << 40;
constexpr int64_t kMaxCalls = 10'000'000;

// nccl-tests' flags for what does not exist here. `neutral` is the value that asks for nothing else
// than what is done.
struct ForeignFlag {
  const char* names;
  std::string_view neutral;
  std::string_view reason;
};
constexpr std::array<ForeignFlag, 13> kForeignFlags = {{
    {"-t,--nthreads", "1", "a rank is one process; start more ranks with --ranks"},
    {"-g,--ngpus", "1", "tensors lie in host memory; start more ranks with --ranks"},
    {"-m,--agg_iters", "1", "each call is one collective, nothing is aggregated; see -n"},
    {"-p,--parallel_init", "0", "a process is one rank, there is nothing to set up in parallel"},
    {"-z,--blocking", "2", "a call returns when its result is complete, as with -z 2"},
    {"-y,--stream_null", "0", "there are no CUDA streams"},
    {"-G,--cudagraph", "0", "there are no CUDA graphs"},
    {"-u,--unalign", "0", "tensors start on a page"},
    {"-M,--memory_report", "0", "there is no device memory to report"},
    {"-T,--timeout", "0", "every wait has a deadline already; set it with --op-timeout"},
    {"-C,--report_cputime", "0", "the CPU time is in the column cpu of each row"},
    {"-S,--report_timestamps", "0", "rows carry no time of day; the report of -J has it"},
    {"-I,--per_iter_timing", "0", "calls are always timed one by one: columns p50, p95 and p99"},
}};

// Reports what a parser of ours says as CLI11 wants it.
template <typename T>
T OrThrow(const absl::StatusOr<T>& parsed, const std::string& flag) {
  if (!parsed.ok()) throw CLI::ValidationError(flag, Message(parsed.status()));
  return *parsed;
}

int64_t Bounded(const std::string& flag, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high) {
    throw CLI::ValidationError(flag, fmt::format("{} is outside {}..{}", value, low, high));
  }
  return value;
}

// The flag's long name, for errors.
std::string LongName(const std::string& names) { return names.substr(names.find("--")); }

CLI::Option* AddText(CLI::App& command, const std::string& names, const std::string& help,
                     const std::string& shown_default,
                     std::function<void(const std::string&)> parse) {
  CLI::Option* option = command.add_option_function<std::string>(names, std::move(parse), help);
  if (!shown_default.empty()) option->default_str(shown_default);
  return option;
}

void AddBytes(CLI::App& command, const std::string& names, int64_t& target, const std::string& help,
              const std::string& shown_default) {
  AddText(command, names, help, shown_default, [names, &target](const std::string& text) {
    const std::string flag = LongName(names);
    target = Bounded(flag, OrThrow(ParseByteSize(text), flag), 0, kMaxBytes);
  });
}

// A size as a user writes it.
std::string Shown(int64_t bytes) {
  if (bytes > 0 && bytes % (1 << 20) == 0) return fmt::format("{}M", bytes >> 20);
  if (bytes > 0 && bytes % (1 << 10) == 0) return fmt::format("{}K", bytes >> 10);
  return fmt::format("{}", bytes);
}

void AddNumber(CLI::App& command, const std::string& names, int64_t& target, int64_t low,
               int64_t high, const std::string& help) {
  AddText(command, names, help, fmt::format("{}", target),
          [names, &target, low, high](const std::string& text) {
            const std::string flag = LongName(names);
            target = Bounded(flag, OrThrow(ParseInt(text), flag), low, high);
          });
}

std::vector<int64_t> ParseSizes(const std::string& list) {
  std::vector<int64_t> sizes;
  for (const std::string& size : CLI::detail::split(list, ',')) {
    sizes.push_back(Bounded("--sizes", OrThrow(ParseByteSize(size), "--sizes"), 0, kMaxBytes));
  }
  return sizes;
}

void AddForeignFlags(CLI::App& command) {
  for (const ForeignFlag& foreign : kForeignFlags) {
    const std::string names = foreign.names;
    // Hidden from --help by the empty group. With or without a value.
    command
        .add_option_function<std::string>(
            names,
            [names, neutral = foreign.neutral, reason = foreign.reason](const std::string& value) {
              if (value != neutral) {
                throw CLI::ValidationError(names, fmt::format("not supported: {}", reason));
              }
            })
        ->expected(0, 1)
        ->group("");
  }
}

absl::StatusOr<double> ParseBandwidth(const std::string& text) {
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || rest != end || !(value >= 0 && value < 1e6)) {
    return InvalidArgument("NCCL_TESTS_MIN_BW='{}' is not a bandwidth in GB/s, such as 1.5", text);
  }
  return value;
}

}  // namespace

CLI::Option* AddBudgetFlag(CLI::App& command, double& budget, const std::string& help) {
  return AddText(
      command, "--budget", help, fmt::format("{}", budget), [&budget](const std::string& text) {
        if (!CLI::detail::lexical_cast(text, budget) || !(budget > 0 && budget <= 3600)) {
          throw CLI::ValidationError("--budget", text + " is not a time in 0..3600 seconds");
        }
      });
}

CLI::Option* AddSizeListFlag(CLI::App& command, std::vector<int64_t>& sizes,
                             const std::string& help) {
  return AddText(command, "--sizes", help, "",
                 [&sizes](const std::string& list) { sizes = ParseSizes(list); });
}

void AddSweepFlags(CLI::App& command, Options& options) {
  AddBytes(command, "-b,--minbytes", options.min_bytes, "smallest size; K, M and G are binary",
           Shown(options.min_bytes));
  AddBytes(command, "-e,--maxbytes", options.max_bytes, "largest size", Shown(options.max_bytes));
  AddBytes(command, "-i,--stepbytes", options.step_bytes, "bytes between sizes", "1M");
  AddNumber(command, "-f,--stepfactor", options.step_factor, 1, 1 << 20,
            "factor between sizes, instead of -i; 1: off");
  AddSizeListFlag(command, options.sizes, "sizes as a comma list, instead of -b -e -i -f");
  AddNumber(command, "-n,--iters", options.iterations, 1, kMaxCalls, "timed calls per row");
  AddNumber(command, "-w,--warmup_iters", options.warmups, 0, kMaxCalls, "untimed calls per row");
  AddNumber(command, "--ranks", options.ranks, 0, 4096,
            "starts that many local ranks of this command; 0: be one rank of the job");
}

void AddFlags(CLI::App& command, const CollectiveInfo& collective, Options& options) {
  AddSweepFlags(command, options);
  command
      .add_option(
          "-J,--output_file,--json", options.report_file,
          "writes the numbers as JSON to FILE too, - for stdout alone; an existing file is kept "
          "and the name gets a number")
      ->option_text("FILE");
  AddNumber(command, "-N,--run_cycles", options.cycles, 0, kMaxCalls,
            "repetitions of the whole sweep; 0: until stopped");
  AddNumber(command, "-c,--check", options.checks, 0, kMaxCalls,
            "calls per row whose result is compared element by element; 0: none");
  AddText(command, "-d,--datatype", "float|double|int32|int64|half|bfloat16|all", "float",
          [&options](const std::string& name) {
            options.types.clear();
            for (int i = 0; name == "all" && i < kDataTypeCount; ++i) {
              options.types.push_back(static_cast<DataType>(i));
            }
            if (name != "all") options.types = {OrThrow(ParseDataType(name), "--datatype")};
          });
  if (collective.reduces) {
    AddText(command, "-o,--op", "sum|avg|min|max|prod|all", "sum",
            [&options](const std::string& name) {
              options.ops.clear();
              for (int i = 0; name == "all" && i < kReduceOpCount; ++i) {
                options.ops.push_back(static_cast<ReduceOp>(i));
              }
              if (name != "all") options.ops = {OrThrow(ParseReduceOp(name), "--op")};
            });
  }
  if (collective.rooted) {
    AddText(command, "-r,--root", "rank whose tensor is sent, or all", "0",
            [&options](const std::string& text) {
              constexpr int64_t kMaxRank = std::numeric_limits<int>::max();
              options.root =
                  text == "all" ? -1
                                : Bounded("--root", OrThrow(ParseInt(text), "--root"), 0, kMaxRank);
            });
  }
  AddText(command, "-a,--average",
          "time that a row shows: 0 rank 0's, 1 mean of the ranks, 2 smallest, 3 largest", "1",
          [&options](const std::string& text) {
            options.average = static_cast<Average>(
                Bounded("--average", OrThrow(ParseInt(text), "--average"), 0, 3));
          });
  AddText(command, "-R,--local_register",
          "1: tensors from the library's allocator, registered once; 0: ordinary memory", "0",
          [&options](const std::string& text) {
            options.registered =
                Bounded("--local_register", OrThrow(ParseInt(text), "--local_register"), 0, 1) == 1;
          });
  if (collective.id != Collective::kAllReduce) {
    AddForeignFlags(command);
    return;
  }
  const std::string replay = "Gradients of a model (docs/bench.md)";
  command
      .add_option("--model", options.model,
                  fmt::format("instead of sizes: all gradients of a training step, each tensor by\n"
                              "itself and in buckets; {}",
                              fmt::join(ModelNames(), "|")))
      ->check(CLI::IsMember(std::vector<std::string>(ModelNames().begin(), ModelNames().end())))
      ->option_text("MODEL")
      ->group(replay);
  AddText(command, "--bucket-bytes", "bytes of a bucket with --model", "25M",
          [&options](const std::string& text) {
            options.bucket_bytes = Bounded(
                "--bucket-bytes", OrThrow(ParseByteSize(text), "--bucket-bytes"), 2, kMaxBytes);
          })
      ->group(replay);
  const std::string group = "Comparison with other libraries (docs/bench.md)";
  command.add_flag("--csv", options.csv, "one CSV row per size, by the method of bench peers")
      ->group(group);
  AddBudgetFlag(command, options.sampling.budget, "timed seconds per size with --csv")
      ->group(group);
  command.add_option("--peer", options.sampling.label, "first column of the CSV")
      ->group(group)
      ->capture_default_str();
  command.add_option("--rep", options.sampling.round, "column rep of the CSV")->group(group);
  AddForeignFlags(command);
}

absl::Status ReadEnvironment(const std::map<std::string, std::string>& environment,
                             Options& options) {
  const auto found = environment.find("NCCL_TESTS_MIN_BW");
  if (found == environment.end()) return absl::OkStatus();
  GW_ASSIGN_OR_RETURN(options.min_bandwidth, ParseBandwidth(found->second));
  return absl::OkStatus();
}

absl::Status Validate(const Options& options, int ranks) {
  if (options.ranks != 0 && options.ranks != ranks) {
    return InvalidArgument(
        "--ranks {} inside a job of {} ranks; leave it out, or unset the launcher's variables",
        options.ranks, ranks);
  }
  if (options.root >= ranks) {
    return InvalidArgument("--root {} does not exist; the job has ranks 0..{}", options.root,
                           ranks - 1);
  }
  if (options.cycles == 0 && !options.report_file.empty()) {
    return InvalidArgument("a run without end (-N 0) never writes its report; leave out -J or -N");
  }
  if (options.csv && !options.report_file.empty()) {
    return InvalidArgument("--csv has no JSON report; leave out one of --csv and -J");
  }
  if (!options.model.empty()) {
    if (options.csv) return InvalidArgument("--model has no CSV; leave out --csv");
    if (options.types != std::vector{DataType::kFloat32} ||
        options.ops != std::vector{ReduceOp::kSum} || options.cycles != 1) {
      return InvalidArgument("--model replays sums of float, once; leave out -d, -o and -N");
    }
  }
  if (options.checks > 0 || options.csv) {
    GW_RETURN_IF_ERROR(Pattern::Make(DataType::kFloat32, ReduceOp::kSum, ranks).status());
  }
  return SizesOf(options).status();
}

absl::StatusOr<std::vector<int64_t>> SizesOf(const Options& options) {
  if (!options.sizes.empty()) return options.sizes;
  if (options.max_bytes < options.min_bytes) {
    return InvalidArgument("--maxbytes {} is below --minbytes {}", options.max_bytes,
                           options.min_bytes);
  }
  const bool multiply = options.step_factor > 1;
  std::vector<int64_t> sizes;
  int64_t size = options.min_bytes;
  while (size <= options.max_bytes) {
    if (sizes.size() == kMaxSizes) {
      return InvalidArgument("more than {} sizes from {} to {}; use a larger -i or -f", kMaxSizes,
                             options.min_bytes, options.max_bytes);
    }
    sizes.push_back(size);
    if (size == options.max_bytes) break;
    // Both stay far from overflow: a size is at most 2^40, a factor 2^20.
    const int64_t next = multiply ? size * options.step_factor : size + options.step_bytes;
    if (next == size) {
      return InvalidArgument("sizes from {} to {} need a step: -i above 0, or -f with -b above 0",
                             options.min_bytes, options.max_bytes);
    }
    size = next;
  }
  return sizes;
}

}  // namespace gradwire::bench
