// What a person sees of a run: one line that redraws itself on a terminal, plain lines elsewhere;
// and a curve at its end.
#pragma once

#include <cstdint>
#include <cstdio>
#include <span>
#include <string>
#include <string_view>

#include "transport/transport.h"

namespace gradwire::training {

class Progress {
 public:
  // Draws on `stream` (not owned); the bar only when it is a terminal.
  explicit Progress(std::FILE* stream);
  ~Progress() { Clear(); }

  // Shows `done` (0..1) as a bar between `label` and `detail`, at most ten times a second.
  void Update(std::string_view label, double done, std::string_view detail);
  // Prints a line that stays.
  void Line(std::string_view text);

 private:
  void Clear();
  // Does not throw; the program looks at its end whether all was written.
  void Write(const std::string& text);

  std::FILE* stream_;
  int columns_ = 0;  // of the terminal, at most 80; 0: none
  bool drawn_ = false;
  Deadline next_draw_;
};

// "1 epoch", "2 epochs".
std::string Count(int64_t count, std::string_view what);

// "label [#####.....]  50% detail" of exactly `columns`, the detail cut when it does not fit.
std::string DrawBar(std::string_view label, double done, std::string_view detail, int columns);

// Plots `values` from left to right, lines of at most `columns` characters with `rows` of them for
// the curve. The y axis is logarithmic when all are positive and they span a decade. Each column is
// the mean of its values when there are more values than columns.
std::string DrawCurve(std::string_view title, std::span<const double> values, int columns,
                      int rows);

}  // namespace gradwire::training
