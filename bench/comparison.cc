#include "bench/comparison.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

#include "bench/statistics.h"
#include "bench/table.h"

namespace gradwire::bench {
namespace {

// The rounds of one way at one place, by their number.
using Rounds = std::map<int64_t, const SampledRow*>;

Compared Of(const Rounds& rounds, const Rounds* base) {
  std::vector<double> medians, ratios;
  for (const auto& [round, row] : rounds) {
    medians.push_back(row->median_us);
    if (base == nullptr || !base->contains(round)) continue;
    const double theirs = base->at(round)->median_us;
    if (theirs > 0) ratios.push_back(row->median_us / theirs);
  }
  const SampledRow& first = *rounds.begin()->second;
  const Summary time = Summarize(medians);
  const Summary ratio = Summarize(ratios);
  Compared compared{first.peer, first.transport, first.ranks, first.bytes};
  compared.rounds = static_cast<int64_t>(medians.size());
  compared.median_us = time.p50;
  if (time.min > 0) compared.spread = time.max / time.min;
  // A row's bandwidths have one factor between them, whatever the collective.
  if (first.algorithm_bandwidth > 0 && time.p50 > 0) {
    compared.bus_bandwidth = static_cast<double>(first.bytes) / (time.p50 * 1e3) *
                             (first.bus_bandwidth / first.algorithm_bandwidth);
  }
  compared.ratio = ratio.p50;
  compared.ratio_min = ratio.min;
  compared.ratio_max = ratio.max;
  return compared;
}

}  // namespace

std::vector<Compared> Compare(std::span<const SampledRow> rows, const std::string& base) {
  std::vector<std::string> peers = {base};
  std::map<std::tuple<int, int64_t, std::ptrdiff_t>, Rounds> places;
  for (const SampledRow& row : rows) {
    if (row.wrong != 0) continue;
    auto peer = std::find(peers.begin(), peers.end(), row.peer);
    if (peer == peers.end()) peer = peers.insert(peers.end(), row.peer);
    places[{row.ranks, row.bytes, peer - peers.begin()}][row.round] = &row;
  }
  std::vector<Compared> compared;
  for (const auto& [place, rounds] : places) {
    const auto [ranks, bytes, peer] = place;
    const auto found = places.find({ranks, bytes, 0});
    compared.push_back(Of(rounds, found == places.end() ? nullptr : &found->second));
  }
  return compared;
}

int64_t CountWrong(std::span<const SampledRow> rows) {
  int64_t wrong = 0;
  for (const SampledRow& row : rows) wrong += row.wrong;
  return wrong;
}

std::string ComparedHeader(const std::string& base) {
  std::string text = fmt::format(
      "#\n# median: of the rounds' medians; spread: slowest round / fastest; ratio: time\n"
      "# as a multiple of {}'s in the same round, with the least and most\n"
      "# of all rounds: above 1 {} is faster\n#\n",
      base, base);
  text += fmt::format("# {:>8}  {:>5}  {:<14}  {:>8}  {:>6}  {:>6}  {:>5}  {:>5}  {:>5}\n", "size",
                      "ranks", "what", "median", "spread", "busbw", "ratio", "least", "most");
  text += fmt::format("# {:>8}  {:>5}  {:<14}  {:>8}  {:>6}  {:>6}  {:>5}  {:>5}  {:>5}\n", "(B)",
                      "", "", "(us)", "", "(GB/s)", "", "", "");
  return text;
}

std::string ComparedRow(const Compared& row) {
  const auto ratio = [](double value) { return value > 0 ? FormatNumber(value, 5) : "-"; };
  return fmt::format("{:10}  {:5}  {:<14}  {:>8}  {:>6}  {:>6}  {:>5}  {:>5}  {:>5}\n", row.bytes,
                     row.ranks, row.peer, FormatNumber(row.median_us, 8),
                     FormatNumber(row.spread, 6), FormatNumber(row.bus_bandwidth, 6),
                     ratio(row.ratio), ratio(row.ratio_min), ratio(row.ratio_max));
}

std::string ComparedFooter(std::span<const SampledRow> rows) {
  std::string text;
  for (const SampledRow& row : rows) {
    if (row.wrong == 0) continue;
    text += fmt::format("# {}, {} ranks, {} bytes, round {}: {} wrong; not in the table\n",
                        row.peer, row.ranks, row.bytes, row.round, row.wrong);
  }
  const int64_t wrong = CountWrong(rows);
  return text +
         fmt::format("# Out of bounds values : {} {}\n", wrong, wrong == 0 ? "OK" : "FAILED");
}

nlohmann::ordered_json ToJson(const Compared& row) {
  return {{"peer", row.peer},           {"transport", row.transport},  {"ranks", row.ranks},
          {"size", row.bytes},          {"rounds", row.rounds},        {"median_us", row.median_us},
          {"spread", row.spread},       {"bus_bw", row.bus_bandwidth}, {"ratio", row.ratio},
          {"ratio_min", row.ratio_min}, {"ratio_max", row.ratio_max}};
}

nlohmann::ordered_json ToJson(const SampledRow& row) {
  return {{"peer", row.peer},
          {"transport", row.transport},
          {"ranks", row.ranks},
          {"size", row.bytes},
          {"round", row.round},
          {"iterations", row.iterations},
          {"median_us", row.median_us},
          {"min_us", row.min_us},
          {"p99_us", row.p99_us},
          {"median_last_us", row.median_last_us},
          {"alg_bw", row.algorithm_bandwidth},
          {"bus_bw", row.bus_bandwidth},
          {"nwrong", row.wrong}};
}

}  // namespace gradwire::bench
