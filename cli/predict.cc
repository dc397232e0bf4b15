// gradwire predict: what all-reduces and parameter servers take on a network that is not here.
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <iterator>
#include <map>

#include "analysis/model_json.h"
#include "analysis/predict/predictor.h"
#include "analysis/predict/simulator_process.h"
#include "analysis/predict/table.h"
#include "analysis/units.h"
#include "bench/model_gradients.h"
#include "cli/command.h"
#include "cli/report.h"
#include "cli/standard_output.h"
#include "cli/usage.h"

namespace gradwire::cli {
namespace {

using analysis::Algorithm;
using analysis::Prediction;

constexpr uint64_t kMostSizes = 64;

constexpr const char* kPredictFooter = R"(Examples:
  gradwire predict --ranks 1024 --link 400G --latency 5us --bytes 1M..1G
  gradwire predict --ranks 64 --model resnet50 --topology fat_tree
  gradwire predict --ranks 64 --ranks-per-node 8 --link 400G --node-link 3.6T
  gradwire predict --ranks 256 --from rec/model.json --algorithm ring
  gradwire predict --ranks 40 --servers 8 --algorithm parameter_server

The schedule that is simulated is that of our implementation: segments, slices,
groups, windows of credits, pushes and pulls. A long one is simulated in part
and goes on at its pace; the error that this makes is measured and printed.
star is one switch without limits; fat_tree two levels of switches with as much
bandwidth up as down; torus direct links in three dimensions.
--transport rdma gives flows plain latency and bandwidth (SimGrid's CM02,
factors 1, no window); tcp has SimGrid's corrections for TCP (LV08), which know
Ethernet of 2009: 97 % of the bandwidth and 13 times the latency.
`time` is simulated, `model` by the formulas of docs/predict.md, which know
neither hops nor links that ranks share. Not in either: stragglers, losses,
processors that ranks share, memory bandwidth.)";

struct PredictRequest {
  analysis::Network network;
  std::string topology = "star";
  std::string transport = "rdma";
  std::vector<std::string> algorithms = {"all"};
  std::string bytes;
  std::string model;
  double link_bits = 100e9;
  double node_link_bits = 0;
  double reduce_bytes = 0;
  int servers = 1;
  std::string slice_bytes = "256K", server_slice_bytes = "64K";
  int slots = 16, server_window = 8;
  std::string from;
  std::string notes;  // on the model of --from
  std::string json;
  analysis::PredictorOptions options;
  int patience_s = 180;
  CLI::Option *link = nullptr, *node_link = nullptr, *latency = nullptr, *overhead = nullptr,
              *reduce_rate = nullptr;

  int Run();
  // For a reader, unless JSON alone is wanted.
  void Tell(const std::string& text) const {
    if (json != "-") PrintNow(text);
  }
  absl::Status CheckRates() const;
  absl::Status Predict(bench::JsonOutput& output);
  absl::Status ReadModel(std::string& gamma_source);
  absl::StatusOr<std::vector<uint64_t>> Sizes() const;
  absl::StatusOr<std::vector<analysis::Work>> Works() const;
};

absl::StatusOr<uint64_t> Bytes(const std::string& flag, const std::string& text) {
  const absl::StatusOr<int64_t> bytes = ParseByteSize(text);
  if (!bytes.ok()) return Annotate(bytes.status(), flag);
  if (*bytes <= 0) return InvalidArgument("{} {}: at least 1 is wanted", flag, text);
  return static_cast<uint64_t>(*bytes);
}

absl::StatusOr<std::vector<uint64_t>> PredictRequest::Sizes() const {
  if (!model.empty()) {
    GW_ASSIGN_OR_RETURN(const std::vector<bench::Gradient> gradients,
                        bench::MakeModelGradients(model));
    uint64_t elements = 0;
    for (const bench::Gradient& gradient : gradients) {
      elements += static_cast<uint64_t>(gradient.size());
    }
    return std::vector<uint64_t>{elements * sizeof(float)};
  }
  std::vector<uint64_t> sizes;
  const std::string text = bytes.empty() ? "64K..256M" : bytes;
  if (const size_t dots = text.find(".."); dots != std::string::npos) {
    GW_ASSIGN_OR_RETURN(const uint64_t first, Bytes("--bytes", text.substr(0, dots)));
    GW_ASSIGN_OR_RETURN(const uint64_t last, Bytes("--bytes", text.substr(dots + 2)));
    if (first > last) return InvalidArgument("--bytes {}: the first is the larger one", text);
    for (uint64_t size = first; size < last; size *= 4) sizes.push_back(size);
    sizes.push_back(last);
    return sizes;
  }
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    GW_ASSIGN_OR_RETURN(const uint64_t size, Bytes("--bytes", text.substr(begin, end - begin)));
    sizes.push_back(size);
    begin = end + 1;
  }
  if (sizes.size() > kMostSizes) {
    return InvalidArgument("--bytes: {} sizes, {} are the most", sizes.size(), kMostSizes);
  }
  return sizes;
}

absl::StatusOr<std::vector<analysis::Work>> PredictRequest::Works() const {
  constexpr std::array kEvery = {Algorithm::kRing, Algorithm::kRecursiveDoubling, Algorithm::kTree,
                                 Algorithm::kParameterServer};
  GW_ASSIGN_OR_RETURN(const uint64_t slice, Bytes("--slice-bytes", slice_bytes));
  GW_ASSIGN_OR_RETURN(const uint64_t server_slice, Bytes("--ps-slice-bytes", server_slice_bytes));
  std::vector<analysis::Work> works;
  for (const Algorithm algorithm : kEvery) {
    const bool wanted =
        std::ranges::count(algorithms, "all") + std::ranges::count(algorithms, NameOf(algorithm)) >
        0;
    if (!wanted) continue;
    const bool ps = algorithm == Algorithm::kParameterServer;
    works.push_back({.algorithm = algorithm,
                     .slice_bytes = ps ? server_slice : slice,
                     .window = ps ? server_window : slots,
                     .servers = servers});
  }
  return works;
}

// The costs of a file, where no flag says otherwise.
absl::Status PredictRequest::ReadModel(std::string& gamma_source) {
  std::ifstream file(from);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  if (!file) return absl::NotFoundError(fmt::format("--from {}: cannot read it", from));
  const absl::StatusOr<analysis::Costs> read = analysis::CostsFromJson(text);
  if (!read.ok()) return Annotate(read.status(), "--from " + from);
  if (read->beta_us_per_mb <= 0) {
    return InvalidArgument("--from {}: beta_us_per_mb is 0, so a link would have no end", from);
  }
  if (overhead->count() == 0) network.overhead_us = 0;
  if (latency->count() == 0) {
    network.latency_us = std::max(0.0, read->alpha_us - 2 * network.overhead_us);
  }
  if (link->count() == 0) link_bits = 8e12 / read->beta_us_per_mb;
  if (reduce_rate->count() == 0) {
    network.gamma_us_per_mb = read->gamma_us_per_mb;
    gamma_source = "--from";
  }
  if (!read->overlaps) {
    notes = analysis::Commented(
        "the fitted ranks copied and reduced one after the other, the simulated ones do both at a "
        "time: times are lower bounds");
  }
  return absl::OkStatus();
}

// What has a unit behind it, which is read with the flag.
absl::Status PredictRequest::CheckRates() const {
  for (const auto& [option, value] :
       {std::pair{link, link_bits}, std::pair{node_link, node_link_bits},
        std::pair{reduce_rate, reduce_bytes}}) {
    if (option->count() > 0 && !(value > 0)) {
      return InvalidArgument("{}: {} is not above 0", option->get_name(), value);
    }
  }
  for (const auto& [flag, value] :
       {std::pair{"--latency", network.latency_us}, std::pair{"--overhead", network.overhead_us},
        std::pair{"--hop-latency", network.hop_latency_us}}) {
    if (!(value >= 0)) return InvalidArgument("{}: {} us is below 0", flag, value);
  }
  return absl::OkStatus();
}

absl::Status PredictRequest::Predict(bench::JsonOutput& output) {
  GW_RETURN_IF_ERROR(CheckRates());
  GW_ASSIGN_OR_RETURN(const std::string simulator, analysis::FindSimulator());
  GW_ASSIGN_OR_RETURN(const std::vector<uint64_t> sizes, Sizes());
  GW_ASSIGN_OR_RETURN(const std::vector<analysis::Work> works, Works());
  std::string gamma_source = "--reduce-rate";
  if (!from.empty()) GW_RETURN_IF_ERROR(ReadModel(gamma_source));
  if (reduce_rate->count() > 0) {
    network.gamma_us_per_mb = 1e12 / reduce_bytes;
  } else if (from.empty()) {
    network.gamma_us_per_mb = analysis::MeasureGamma();
    gamma_source = "measured here";
  }
  network.link_bytes_per_s = link_bits / 8;
  network.node_link_bytes_per_s = (node_link_bits > 0 ? node_link_bits : link_bits) / 8;
  network.tcp = transport == "tcp";
  network.topology = topology == "star"    ? analysis::Topology::kStar
                     : topology == "torus" ? analysis::Topology::kTorus
                                           : analysis::Topology::kFatTree;
  options.patience = std::chrono::seconds(patience_s);

  // All of it is sound before the first simulation runs.
  std::vector<std::vector<analysis::Simulation>> questions;
  for (const uint64_t size : sizes) {
    std::vector<analysis::Simulation>& row = questions.emplace_back();
    for (analysis::Work work : works) {
      work.bytes = size;
      row.push_back({network, work});
      GW_RETURN_IF_ERROR(Validate(row.back()));
    }
  }
  Tell(notes + TableHead(network, gamma_source));
  const analysis::Predictor predictor(simulator, options);
  const bool progress = isatty(STDERR_FILENO) != 0;
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  std::map<Algorithm, Prediction> longest;  // that was shortened, by algorithm
  for (const auto& row : questions) {
    std::vector<Prediction> predictions;
    for (const analysis::Simulation& question : row) {
      if (progress) {
        PrintError("\r\033[Ksimulating {} of {}", NameOf(question.work.algorithm),
                   analysis::SizeText(question.work.bytes));
      }
      absl::StatusOr<Prediction> prediction = predictor.Predict(question);
      if (progress) PrintError("\r\033[K");
      if (!prediction.ok()) return prediction.status();
      if (prediction->shortened()) longest.insert_or_assign(question.work.algorithm, *prediction);
      predictions.push_back(*std::move(prediction));
    }
    Tell(TableRows(predictions));
    for (const Prediction& prediction : predictions) {
      rows.push_back(ToJson(prediction, &prediction == analysis::BestOf(predictions)));
    }
  }
  nlohmann::ordered_json shortened = nlohmann::ordered_json::array();
  for (const auto& [algorithm, prediction] : longest) {
    int ranks = 0;
    GW_ASSIGN_OR_RETURN(const double error, predictor.ShorteningError(prediction, &ranks));
    Tell(analysis::Commented(ShorteningNote(prediction, error, ranks)));
    shortened.push_back(
        {{"algorithm", NameOf(algorithm)}, {"error", error}, {"measured_on_ranks", ranks}});
  }
  return output.Write({{"network", analysis::ToJson(network)},
                       {"gamma", gamma_source},
                       {"rows", rows},
                       {"shortened", shortened}});
}

int PredictRequest::Run() {
  absl::StatusOr<bench::JsonOutput> output = OpenJson(json);
  const absl::Status status = output.ok() ? Predict(*output) : output.status();
  return status.ok() ? kDone : ReportError(status);
}

}  // namespace

void AddPredict(CLI::App& root, Action& action) {
  auto request = std::make_shared<PredictRequest>();
  CLI::App* app = root.add_subcommand(
      "predict", "what all-reduces and parameter servers take on another network");
  app->footer(kPredictFooter);
  analysis::Network& network = request->network;
  const CLI::AsNumberWithUnit bits(
      std::map<std::string, double>{{"K", 1e3}, {"M", 1e6}, {"G", 1e9}, {"T", 1e12}});
  const CLI::AsNumberWithUnit microseconds(
      std::map<std::string, double>{{"ns", 1e-3}, {"us", 1}, {"ms", 1e3}, {"s", 1e6}});
  network.ranks = 8;
  network.hop_latency_us = 0.5;

  const std::string of_network = "Network";
  app->add_option("--ranks", network.ranks, "Ranks in all, servers among them; 2..16384 [8]")
      ->check(Between(2, 16384))
      ->type_name("N")
      ->group(of_network);
  app->add_option("--ranks-per-node", network.ranks_per_node, "Ranks that share a node's link [1]")
      ->check(Between(1, 1024))
      ->type_name("N")
      ->group(of_network);
  app->add_option("--topology", request->topology, "star|fat_tree|torus [star]")
      ->check(CLI::IsMember({"star", "fat_tree", "torus"}))
      ->type_name("")
      ->group(of_network);
  request->link = app->add_option("--link", request->link_bits, "Bits/s of a node's link [100G]")
                      ->transform(bits)
                      ->type_name("RATE")
                      ->group(of_network);
  request->node_link = app->add_option("--node-link", request->node_link_bits,
                                       "Bits/s of a rank's link in its node [--link]")
                           ->transform(bits)
                           ->type_name("RATE")
                           ->group(of_network);
  request->latency =
      app->add_option("--latency", network.latency_us, "One way, through one switch [5us]")
          ->transform(microseconds)
          ->type_name("TIME")
          ->group(of_network);
  app->add_option("--hop-latency", network.hop_latency_us,
                  "Of each further link that a message takes [500ns]")
      ->transform(microseconds)
      ->type_name("TIME")
      ->group(of_network);
  app->add_option("--transport", request->transport, "rdma|tcp [rdma], see below")
      ->check(CLI::IsMember({"rdma", "tcp"}))
      ->type_name("")
      ->group(of_network);

  const std::string of_ranks = "Ranks";
  request->overhead = app->add_option("--overhead", network.overhead_us,
                                      "Of a processor per message, at either end [0us]")
                          ->transform(microseconds)
                          ->type_name("TIME")
                          ->group(of_ranks);
  request->reduce_rate = app->add_option("--reduce-rate", request->reduce_bytes,
                                         "Bytes/s that a rank reduces [measured here]")
                             ->transform(bits)
                             ->type_name("RATE")
                             ->group(of_ranks);
  app->add_option("--from", request->from, "A fitted model, for what no flag gives")
      ->type_name("FILE")
      ->group(of_ranks);

  const std::string of_work = "Work";
  CLI::Option* bytes =
      app->add_option("--bytes", request->bytes, "1M,64M or 1M..1G (times 4) [64K..256M]")
          ->type_name("SIZES")
          ->group(of_work);
  const std::vector<std::string> models(bench::ModelNames().begin(), bench::ModelNames().end());
  app->add_option("--model", request->model, "Its gradients, in float32, instead of --bytes")
      ->check(CLI::IsMember(models))
      ->excludes(bytes)
      ->type_name("")
      ->group(of_work);
  app->add_option("--algorithm", request->algorithms,
                  "all|ring|recursive_doubling|tree|\nparameter_server, several by commas [all]")
      ->delimiter(',')
      ->check(CLI::IsMember({"all", "ring", "recursive_doubling", "tree", "parameter_server"}))
      ->type_name("")
      ->group(of_work);
  app->add_option("--servers", request->servers, "Of parameter servers: so many of the ranks [1]")
      ->check(Between(1, 16384))
      ->type_name("N")
      ->group(of_work);
  app->add_option("--slice-bytes", request->slice_bytes, "Of collectives [256K]")
      ->type_name("SIZE")
      ->group(of_work);
  app->add_option("--slots", request->slots, "Writes of a link under way [16]")
      ->check(Between(2, 64))
      ->type_name("N")
      ->group(of_work);
  app->add_option("--ps-slice-bytes", request->server_slice_bytes, "Of parameter servers [64K]")
      ->type_name("SIZE")
      ->group(of_work);
  app->add_option("--ps-window", request->server_window, "Of a worker at a server [8]")
      ->check(Between(2, 64))
      ->type_name("N")
      ->group(of_work);

  app->add_option("--messages", request->options.messages,
                  "Simulate longer schedules in part [100000]")
      ->check(Between(1000, 1'000'000'000))
      ->type_name("N");
  app->add_option("--patience", request->patience_s, "Seconds for one simulation [180]")
      ->check(Between(1, 86400))
      ->type_name("N");
  app->add_option("--json", request->json, "Also write all as JSON to FILE; -: print only that")
      ->type_name("FILE");
  app->callback([request, &action] { action = [request] { return request->Run(); }; });
}

}  // namespace gradwire::cli
