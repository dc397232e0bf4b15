// Predictions for a reader, within 80 columns, and for programs.
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>

#include "analysis/predict/predictor.h"

namespace gradwire::analysis {

// What the network is like, in lines that start with '#', and the head of the table.
std::string TableHead(const Network& network, const std::string& gamma_source);
// The rows of one size; marks the fastest.
std::string TableRows(std::span<const Prediction> predictions);

// The fastest; null when there are none.
const Prediction* BestOf(std::span<const Prediction> predictions);
// What was not simulated of this prediction, and what difference that makes.
std::string ShorteningNote(const Prediction& prediction, double error, int ranks);
// `text` as lines of at most 80 columns that start with '#'.
std::string Commented(std::string_view text);

nlohmann::ordered_json ToJson(const Prediction& prediction, bool best);

}  // namespace gradwire::analysis
