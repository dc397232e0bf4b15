// A run as CSV (RFC 4180), for spreadsheets and data frames.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "analysis/result.h"
#include "transport/status.h"

namespace gradwire::analysis {

// Writes into `folder`, which is made when it is missing:
//   classes.csv        a row per operation and rank: its begin, its end, ns in each class
//   intervals.csv      a row per interval of an operation on a rank
//   critical_path.csv  a row per step
//   findings.csv
// A rank or peer that is none is an empty cell.
absl::Status WriteCsv(const Run& run, const std::filesystem::path& folder);

// A cell, quoted when it must be.
std::string CsvCell(std::string_view text);

}  // namespace gradwire::analysis
