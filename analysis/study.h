// The answer to one question that was measured: what `gradwire study` prints and puts into a
// report.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "analysis/result.h"

namespace gradwire::analysis {

struct Table {
  std::vector<std::string> columns;            // with units: "time (us)"
  std::vector<std::vector<std::string>> rows;  // each as long as columns; fits 80 columns of text
};

struct Series {
  std::string name;
  std::vector<std::optional<double>> y;    // one per x; none: not measured
  std::vector<std::optional<double>> low;  // spread, or empty
  std::vector<std::optional<double>> high;
};

struct Chart {
  enum class Kind { kLine, kPoint, kBar, kStackedBar };  // kPoint: a line between them says nothing
  Kind kind = Kind::kLine;
  std::string title;
  std::string x_label;
  std::string y_label;
  bool log_y = false;
  std::vector<std::string> x;  // categories, in order
  std::vector<Series> series;
};

struct Study {
  std::string name;      // "signal_interval"
  std::string question;  // one sentence
  std::string answer;    // one or two sentences with numbers
  Table table;
  std::vector<Chart> charts;
  std::vector<std::string> notes;     // what was refused, skipped or doubtful
  std::vector<std::string> commands;  // that reproduce it
  std::vector<std::string> devices;   // what moved the bytes, as transports say it
  std::vector<Run> runs;              // analysed recordings worth a timeline; usually none or one
};

// All that one HTML file shows.
struct Report {
  std::string title;
  std::string summary;  // plain sentences
  std::string machine;  // what the studies ran on, one line; empty: see the runs
  std::vector<Study> studies;
  std::vector<Run> runs;
};

}  // namespace gradwire::analysis
