// Runs and studies for a terminal.
#pragma once

#include <string>

#include "analysis/study.h"

namespace gradwire::analysis {

struct TextOptions {
  int width = 80;        // columns; 60 at least
  bool colored = false;  // ANSI colours; without them letters alone tell classes apart
};

// Where the time went: bars and shares per rank, the critical path, findings with advice, the model
// against what was measured, problems.
std::string FormatRun(const Run& run, const TextOptions& options = {});

// Question, answer, table, notes and the commands that reproduce it; then its runs.
std::string FormatStudy(const Study& study, const TextOptions& options = {});

}  // namespace gradwire::analysis
