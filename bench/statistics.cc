#include "bench/statistics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace gradwire::bench {

double Percentile(std::span<const double> sorted, double fraction) {
  if (sorted.empty()) return 0;
  const double count = static_cast<double>(sorted.size());
  // The small constant keeps 0.95 * 20, which is not quite 19 in binary, from becoming rank 20.
  const double rank = std::ceil(std::clamp(fraction, 0.0, 1.0) * count - 1e-9);
  return sorted[static_cast<size_t>(std::max(rank, 1.0)) - 1];
}

Summary Summarize(std::vector<double> samples) {
  if (samples.empty()) return {};
  std::sort(samples.begin(), samples.end());
  const double count = static_cast<double>(samples.size());
  Summary summary;
  summary.min = samples.front();
  summary.max = samples.back();
  summary.avg = std::accumulate(samples.begin(), samples.end(), 0.0) / count;
  summary.p50 = Percentile(samples, 0.50);
  summary.p95 = Percentile(samples, 0.95);
  summary.p99 = Percentile(samples, 0.99);
  double squares = 0;
  for (double sample : samples) squares += (sample - summary.avg) * (sample - summary.avg);
  summary.stdev = std::sqrt(squares / count);
  summary.cv_pct = summary.avg > 0 ? 100 * summary.stdev / summary.avg : 0;
  return summary;
}

}  // namespace gradwire::bench
