// Reports made up for tests of the outputs: shaped as an analysis of a ring would be, the same on
// every machine.
#pragma once

#include "analysis/study.h"

namespace gradwire::analysis {

struct SyntheticOptions {
  std::string name = "rdma";
  int ranks = 4;
  int operations = 12;
  int steps = 24;  // of an operation on a rank; each has some six intervals
  bool is_tcp = false;
};

// Intervals without gaps, sums, critical paths, writes, findings and a model that fit each other.
Run SyntheticRun(const SyntheticOptions& options);

// Two studies and two runs. With `hostile`, every text that a peer or a file could choose tries to
// become markup, script or terminal control.
Report SyntheticReport(bool hostile);

// What hostile texts contain; a page in which it runs sets window.injected.
extern const char kHostileText[];

}  // namespace gradwire::analysis
