// Several ways to do the same, measured by turns in rounds: medians, how far rounds lie apart, and
// the time of each as a multiple of one of them. The one way in which such runs are summarized.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "bench/sampling.h"

namespace gradwire::bench {

// One way at one size and number of ranks.
struct Compared {
  std::string peer;
  std::string transport;
  int ranks = 0;
  int64_t bytes = 0;
  int64_t rounds = 0;
  double median_us = 0;      // of the rounds' medians
  double spread = 0;         // slowest round's median / fastest round's
  double bus_bandwidth = 0;  // GB/s at the median
  // Its median / the base's, round by round: median, least and most. All 0 without a common round.
  double ratio = 0;
  double ratio_min = 0;
  double ratio_max = 0;
};

// By ranks and sizes, ascending; within them `base` first, then in the order of `rows`. Rows with
// wrong elements say nothing about time and are left out.
std::vector<Compared> Compare(std::span<const SampledRow> rows, const std::string& base);

// The sum of all wrong elements.
int64_t CountWrong(std::span<const SampledRow> rows);

// The column names as comments, one row, and the verdict, within 80 columns.
std::string ComparedHeader(const std::string& base);
std::string ComparedRow(const Compared& row);
std::string ComparedFooter(std::span<const SampledRow> rows);

// What the table shows, and every round that it was made from.
nlohmann::ordered_json ToJson(const Compared& row);
nlohmann::ordered_json ToJson(const SampledRow& row);

}  // namespace gradwire::bench
