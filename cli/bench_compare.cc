// gradwire bench compare: two configurations of one collective by turns in one job.
#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <vector>

#include "bench/comparison.h"
#include "bench/first_ranks.h"
#include "bench/options.h"
#include "bench/samples.h"
#include "cli/bench_common.h"
#include "cli/usage.h"

namespace gradwire::cli {
namespace {

using Json = nlohmann::ordered_json;

// One of both ways to run.
struct Side {
  std::string label;
  std::string flags;  // as given: settings and -R
  Settings settings;
  bool registered = false;
};

struct CompareRequest {
  const bench::CollectiveInfo* collective = nullptr;
  std::array<Side, 2> sides = {Side{"a", "--transport rdma"}, Side{"b", "--transport tcp"}};
  bench::SamplingOptions sampling{.sizes = {8, 1024, 65536, 1 << 20, 16 << 20}};
  int64_t rounds = 5;
  int ranks = 0;
  std::string file;
  bool registered = false;
  Settings settings;
};

// Settings of the job, which both sides share.
constexpr std::array<std::string_view, 10> kOfTheJob = {
    "rendezvous",        "job-id",   "token",        "tls-ca",
    "tls-cert",          "tls-key",  "join-timeout", "heartbeat-interval",
    "heartbeat-timeout", "log-level"};

// `side` becomes what its flags make of the common settings.
absl::Status Apply(const CompareRequest& request, Side& side) {
  side.settings = request.settings;
  side.registered = request.registered;
  CLI::App flags;
  AddSettingFlags(flags, side.settings);
  flags.add_option("-R,--local_register", side.registered);
  try {
    std::vector<std::string> words = CLI::detail::split_up(side.flags);
    std::reverse(words.begin(), words.end());
    flags.parse(std::move(words));
  } catch (const CLI::ParseError& error) {
    return InvalidArgument("--{} \"{}\": {}", side.label, side.flags, error.what());
  }
  for (const SettingInfo& info : AllSettings()) {
    if (std::ranges::find(kOfTheJob, info.name) != kOfTheJob.end() &&
        info.get(side.settings) != info.get(request.settings)) {
      return InvalidArgument("--{0}: --{1} is the whole job's; give it beside --{0}", side.label,
                             info.name);
    }
  }
  return Annotate(Validate(side.settings), fmt::format("--{}", side.label));
}

absl::StatusOr<int64_t> Measure(World& world, const CompareRequest& request, Json& json) {
  const auto print = [&world](const std::string& text) {
    if (world.rank() == 0) PrintNow(text);
  };
  // Both communicators are open all the time, each over links of its own, and idle ones sleep.
  const std::unique_ptr<World> second = bench::FirstRanks(world, world.size());
  std::array<std::unique_ptr<Communicator>, 2> communicators;
  std::vector<bench::Variant> variants;
  std::string head = fmt::format("# {} of float, in place, {} rank{}; {} round{}, {} s a size\n",
                                 request.collective->name, world.size(), Plural(world.size()),
                                 request.rounds, Plural(request.rounds), request.sampling.budget);
  Json sides = Json::array();
  for (size_t i = 0; i < communicators.size(); ++i) {
    const Side& side = request.sides[i];
    GW_ASSIGN_OR_RETURN(communicators[i],
                        Communicator::Create(i == 0 ? world : *second, side.settings));
    variants.push_back({side.label, communicators[i].get(), side.registered});
    head +=
        fmt::format("# {}: {}\n#    {}\n", side.label, side.flags, communicators[i]->description());
    sides.push_back({{"label", side.label},
                     {"flags", side.flags},
                     {"transport", communicators[i]->transport_name()},
                     {"device", communicators[i]->description()},
                     {"local_register", side.registered ? 1 : 0},
                     {"settings", bench::EffectiveSettings(side.settings)}});
  }
  print(head);
  GW_ASSIGN_OR_RETURN(json,
                      DescribeThisRun(world, request.settings, communicators[0]->transport_name(),
                                      communicators[0]->description()));
  json["collective"] = request.collective->name;
  json["rounds"] = request.rounds;
  json["budget_s"] = request.sampling.budget;
  json["sides"] = std::move(sides);

  GW_ASSIGN_OR_RETURN(
      const std::vector<bench::SampledRow> rows,
      bench::RunByTurns(variants, *request.collective, request.sampling, request.rounds,
                        [&](int64_t done) {
                          print(fmt::format("# round {} of {} done\n", done, request.rounds));
                        }));
  print(bench::ComparedHeader("a"));
  json["results"] = Json::array();
  for (const bench::Compared& row : bench::Compare(rows, "a")) {
    print(bench::ComparedRow(row));
    json["results"].push_back(bench::ToJson(row));
  }
  print(bench::ComparedFooter(rows));
  json["samples"] = Json::array();
  for (const bench::SampledRow& row : rows) json["samples"].push_back(bench::ToJson(row));
  return bench::CountWrong(rows);
}

int Run(CompareRequest& request) {
  for (Side& side : request.sides) {
    const absl::Status status = Apply(request, side);
    if (!status.ok()) return ReportError(status);
  }
  // Each side has recordings of its own.
  if (request.sides[0].settings.telemetry == request.sides[1].settings.telemetry) {
    for (Side& side : request.sides) {
      if (!side.settings.telemetry.empty()) side.settings.telemetry += "/" + side.label;
    }
  }
  return RunAsRank(request.settings, request.ranks == 0 ? 2 : request.ranks, request.file,
                   [&](World& world, Json& json) { return Measure(world, request, json); });
}

}  // namespace

void AddCompareBench(CLI::App& bench, Action& action) {
  CLI::App* command = bench.add_subcommand(
      "compare", "two configurations of a collective by turns in one job: RDMA beside TCP");
  auto request = std::make_shared<CompareRequest>();
  std::vector<std::string> names;
  for (const bench::CollectiveInfo& info : bench::AllCollectives()) names.emplace_back(info.name);
  command
      ->add_option_function<std::string>(
          "collective",
          [request](const std::string& name) {
            for (const bench::CollectiveInfo& info : bench::AllCollectives()) {
              if (info.name == name) request->collective = &info;
            }
          },
          "which one")
      ->required()
      ->check(CLI::IsMember(names))
      ->option_text(CLI::detail::join(names, "|"));
  command->add_option("--a", request->sides[0].flags, "settings of the first, and -R")
      ->capture_default_str();
  command->add_option("--b", request->sides[1].flags, "settings of the second, and -R")
      ->capture_default_str();
  command
      ->add_option("-R,--local_register", request->registered,
                   "1: tensors of both from the library's allocator; 0: ordinary memory")
      ->capture_default_str();
  bench::AddSizeListFlag(*command, request->sampling.sizes, "bytes, as a comma list")
      ->default_str("8,1K,64K,1M,16M");
  command->add_option("--rounds", request->rounds, "measurements of each")
      ->check(Between(1, 10'000))
      ->capture_default_str();
  bench::AddBudgetFlag(*command, request->sampling.budget,
                       "timed seconds per round, size and configuration");
  command
      ->add_option(
          "--ranks", request->ranks,
          "starts that many local ranks of this command; 0: two, or be one rank of the job")
      ->check(Between(0, 4096))
      ->capture_default_str();
  AddJsonFlag(*command, request->file);
  AddSettings(*command, request->settings);
  command->footer(
      "Both configurations are open in the same processes on links of their own, and\n"
      "take turns at each size, the first of them in turn: what disturbs the machine\n"
      "disturbs both, and no rank is placed differently. A ratio is made within one\n"
      "round; its least and most say what it is worth. Settings beside --a and --b are\n"
      "those of both.\n\n"
      "Examples:\n"
      "  gradwire bench compare allreduce\n"
      "  gradwire bench compare allreduce --ranks 4 -R 1 --sizes 1M,64M --rounds 9\n"
      "  gradwire bench compare allreduce --transport rdma \\\n"
      "    --a \"--signal-interval 8\" --b \"--signal-interval 1\"\n");
  command->callback([&action, request] { action = [request] { return Run(*request); }; });
}

}  // namespace gradwire::cli
