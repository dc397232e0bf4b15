// Runs, studies and reports as JSON: for `--json`, and as the data of the HTML page. Keys are
// snake_case and stable, units are in names, "none" is null. What comes in thousands (intervals,
// critical paths, flows) is a table of columns, {"begin_ns": [...], "end_ns": [...], ...}, which
// data frames read as it is.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "analysis/report/tally.h"
#include "analysis/study.h"
#include "transport/status.h"

namespace gradwire::analysis {

using Json = nlohmann::ordered_json;

inline constexpr int kJsonVersion = 1;  // goes up when a key changes its meaning or goes

void to_json(Json& json, const Finding& finding);
void to_json(Json& json, const RunTally& tally);
void to_json(Json& json, const Run& run);
void to_json(Json& json, const Chart& chart);
void to_json(Json& json, const Study& study);
void to_json(Json& json, const Report& report);

// As text on one line; bytes that are no UTF-8 are replaced.
std::string Dump(const Json& json);

}  // namespace gradwire::analysis
