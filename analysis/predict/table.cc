#include "analysis/predict/table.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "analysis/units.h"

namespace gradwire::analysis {
namespace {

std::string RateText(double bytes_per_s) {
  return fmt::format("{:.4g} Gbit/s", bytes_per_s * 8 / 1e9);
}

}  // namespace

const Prediction* BestOf(std::span<const Prediction> predictions) {
  const auto best = std::min_element(
      predictions.begin(), predictions.end(),
      [](const Prediction& a, const Prediction& b) { return a.simulated_us < b.simulated_us; });
  return best == predictions.end() ? nullptr : &*best;
}

std::string ShorteningNote(const Prediction& prediction, double error, int ranks) {
  constexpr std::array<const char*, 4> kUnits = {
      "steps of either half of the ring", "pieces of recursive doubling", "pieces of the tree",
      "slices of a parameter server"};
  return fmt::format(
      "{:.0f} of {:.0f} {} ({}) were simulated, the rest goes on at their pace; on {} ranks that "
      "is {} off",
      prediction.simulated_units, std::ceil(prediction.units),
      kUnits[static_cast<size_t>(prediction.of.work.algorithm)], SizeText(prediction.of.work.bytes),
      ranks, error < 0.0005 ? "less than 0.05 %" : fmt::format("{:.2g} %", 100 * error));
}

std::string Commented(std::string_view text) {
  constexpr size_t kWidth = 78;
  std::string lines;
  while (!text.empty()) {
    size_t end = text.size();
    if (end > kWidth) {
      end = text.rfind(' ', kWidth);
      if (end == std::string_view::npos || end == 0) end = std::min(text.find(' '), text.size());
    }
    lines.append("# ").append(text.substr(0, end)).push_back('\n');
    text.remove_prefix(std::min(text.find_first_not_of(' ', end), text.size()));
  }
  return lines;
}

std::string TableHead(const Network& network, const std::string& gamma_source) {
  const int nodes = network.ranks / network.ranks_per_node;
  std::string text = fmt::format(
      "# {} ranks, {} on a node; {} of {} nodes", network.ranks, network.ranks_per_node,
      network.topology == Topology::kFatTree ? "fat tree" : NameOf(network.topology), nodes);
  if (network.topology == Topology::kTorus) {
    const auto [x, y, z] = TorusOf(nodes);
    text += fmt::format(" ({} x {} x {})", x, y, z);
  }
  text += fmt::format("\n# {} per node", RateText(network.link_bytes_per_s));
  if (network.ranks_per_node > 1) {
    text += fmt::format(", {} per rank inside", RateText(network.node_link_bytes_per_s));
  }
  text += fmt::format(", {} latency", TimeText(1e3 * network.latency_us));
  if (network.hop_latency_us > 0) {
    text += fmt::format(" and {} per hop", TimeText(1e3 * network.hop_latency_us));
  }
  text += fmt::format("\n# {} per message at each end, ", TimeText(1e3 * network.overhead_us));
  text += network.gamma_us_per_mb > 0 ? fmt::format("reduces {:.3g} GB/s ({})\n",
                                                    1e3 / network.gamma_us_per_mb, gamma_source)
                                      : fmt::format("reduces in no time ({})\n", gamma_source);
  text += fmt::format("# simulated by SimGrid, {}\n", network.tcp
                                                          ? "flows corrected for TCP (LV08)"
                                                          : "plain latency and bandwidth (CM02)");
  text += fmt::format("#{:>9}  {:<18}{:>10}{:>8}{:>8}{:>11}{:>8}\n", "size", "algorithm", "time",
                      "algbw", "busbw", "model", "differs");
  text += fmt::format("#{:>9}  {:<18}{:>10}{:>8}{:>8}{:>11}{:>8}\n", "", "", "", "GB/s", "GB/s", "",
                      "%");
  return text;
}

std::string TableRows(std::span<const Prediction> predictions) {
  std::string text;
  const Prediction* const best = predictions.size() > 1 ? BestOf(predictions) : nullptr;
  for (const Prediction& row : predictions) {
    const bool servers = row.of.work.algorithm == Algorithm::kParameterServer;
    text += fmt::format(
        "{:>10}  {:<18}{:>10}{:>8.3g}{:>8}{:>11}{:>+8.1f}{}\n", SizeText(row.of.work.bytes),
        NameOf(row.of.work.algorithm), TimeText(1e3 * row.simulated_us), row.algorithm_bandwidth(),
        servers ? "-" : fmt::format("{:.3g}", row.bus_bandwidth()), TimeText(1e3 * row.model_us),
        100 * (row.model_us / row.simulated_us - 1), &row == best ? " best" : "");
  }
  return text;
}

nlohmann::ordered_json ToJson(const Prediction& prediction, bool best) {
  return {{"simulation", ToJson(prediction.of)},
          {"simulated_us", prediction.simulated_us},
          {"model_us", prediction.model_us},
          {"algbw_gbs", prediction.algorithm_bandwidth()},
          {"busbw_gbs", prediction.bus_bandwidth()},
          {"simulated_units", prediction.simulated_units},
          {"units", prediction.units},
          {"best", best}};
}

}  // namespace gradwire::analysis
