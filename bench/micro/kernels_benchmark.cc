// Bandwidth of the reduction kernels, out[i] = out[i] op b[i], by type, operation and bytes per
// operand: in the first-level cache, in the second, and in memory. Bytes per second count each of
// the two reads and the write.
//
//   build/release/bin/kernels_benchmark --benchmark_repetitions=5
#include <benchmark/benchmark.h>

#include <cstring>
#include <vector>

#include "collectives/kernels.h"

namespace gradwire {
namespace {

void Reduce(benchmark::State& state, DataType type, ReduceOp op) {
  const auto bytes = static_cast<size_t>(state.range(0));
  const size_t count = bytes / SizeOf(type);
  // All-zero bytes are zero in every type; the kernels' time does not depend on values.
  std::vector<std::byte> a(bytes), b(bytes);
  const ReduceKernel kernel = KernelFor(type, op);
  for (auto _ : state) {
    kernel(a.data(), a.data(), b.data(), count);
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * 3 * bytes));
}

const bool registered = [] {
  for (int type = 0; type < kDataTypeCount; ++type) {
    for (const ReduceOp op : {ReduceOp::kSum, ReduceOp::kMax}) {
      const auto data_type = static_cast<DataType>(type);
      const std::string name = fmt::format("{}/{}", NameOf(data_type), NameOf(op));
      benchmark::RegisterBenchmark(
          name.c_str(), [data_type, op](benchmark::State& state) { Reduce(state, data_type, op); })
          ->Arg(8 << 10)
          ->Arg(128 << 10)
          ->Arg(64 << 20);
    }
  }
  return true;
}();

}  // namespace
}  // namespace gradwire
