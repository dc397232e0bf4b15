// What one event of telemetry costs a thread: when nothing records, which every run pays, and when
// a ring does. Times the events of a collective (gradwire analyze counts them) this is its price.
//
//   build/release/bin/telemetry_benchmark --benchmark_repetitions=5
#include <benchmark/benchmark.h>

#include "transport/telemetry/span.h"

namespace gradwire::telemetry {
namespace {

void Spans(benchmark::State& state, Ring* ring) {
  const Attach attach(ring);
  uint64_t value = 0;
  for (auto _ : state) {
    const Span span(Kind::kReduce, 1, ++value, 4096);
    benchmark::ClobberMemory();
  }
}

void Marks(benchmark::State& state, Ring* ring) {
  const Attach attach(ring);
  uint64_t value = 0;
  for (auto _ : state) {
    Mark(Kind::kCompletion, 1, ++value);
    benchmark::ClobberMemory();
  }
}

Ring& Recorded() {
  static Ring ring(1 << 16);
  return ring;
}

void SpanOff(benchmark::State& state) { Spans(state, nullptr); }
void SpanOn(benchmark::State& state) { Spans(state, &Recorded()); }
void MarkOff(benchmark::State& state) { Marks(state, nullptr); }
void MarkOn(benchmark::State& state) { Marks(state, &Recorded()); }
BENCHMARK(SpanOff);
BENCHMARK(SpanOn);
BENCHMARK(MarkOff);
BENCHMARK(MarkOn);

}  // namespace
}  // namespace gradwire::telemetry
