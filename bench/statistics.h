// Order statistics of measured times.
#pragma once

#include <span>
#include <vector>

namespace gradwire::bench {

// What the samples of one case come to; the unit is that of the samples.
struct Summary {
  double min = 0;
  double max = 0;
  double avg = 0;
  double p50 = 0;
  double p95 = 0;
  double p99 = 0;
  double stdev = 0;   // of the population
  double cv_pct = 0;  // stdev in percent of avg
};

// The smallest sample with at least `fraction` (0..1) of all samples at or below it (the nearest
// rank). `sorted` ascends; 0 when it is empty. With fewer than 100 samples, 0.99 is the maximum.
double Percentile(std::span<const double> sorted, double fraction);

// All zero for no samples.
Summary Summarize(std::vector<double> samples);

}  // namespace gradwire::bench
