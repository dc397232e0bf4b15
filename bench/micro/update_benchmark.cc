// Bandwidth of what a server does with a gradient: numbers of half width unpacked and added up, the
// norm, the update. Bytes per second count every array that is read or written, once each; the
// argument is the bytes of the parameters as float32: in the second-level cache and in memory.
//
//   build/release/bin/update_benchmark --benchmark_repetitions=5
#include <benchmark/benchmark.h>

#include <vector>

#include "parameter_server/clip.h"
#include "parameter_server/convert.h"
#include "parameter_server/optimizer.h"

namespace gradwire::ps {
namespace {

// Small, so that no value overflows however often it is added.
std::vector<float> Values(size_t count) {
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = 1e-6f * static_cast<float>(i % 1000);
  return values;
}

enum class Conversion { kPack, kUnpack, kAccumulate };

void Convert(benchmark::State& state, Conversion conversion, DataType type) {
  const size_t count = static_cast<size_t>(state.range(0)) / sizeof(float);
  std::vector<float> values = Values(count);
  std::vector<std::byte> bytes(count * SizeOf(type));
  absl::Status status = Pack(values, type, bytes);
  for (auto _ : state) {
    switch (conversion) {
      case Conversion::kPack:
        status.Update(Pack(values, type, bytes));
        break;
      case Conversion::kUnpack:
        status.Update(Unpack(bytes, type, values));
        break;
      case Conversion::kAccumulate:
        status.Update(Accumulate(bytes, type, values));
        break;
    }
    benchmark::ClobberMemory();
  }
  if (!status.ok()) state.SkipWithError(Message(status).c_str());
  const size_t floats = conversion == Conversion::kAccumulate ? 2 : 1;  // read and written
  state.SetBytesProcessed(
      static_cast<int64_t>(state.iterations() * (bytes.size() + floats * count * sizeof(float))));
}

void Update(benchmark::State& state, const char* name) {
  const size_t count = static_cast<size_t>(state.range(0)) / sizeof(float);
  auto optimizer = Optimizer::Make({.name = name}, static_cast<int64_t>(count));
  if (!optimizer.ok()) return state.SkipWithError(Message(optimizer.status()).c_str());
  std::vector<float> parameters = Values(count);
  const std::vector<float> gradients = Values(count);
  int64_t step = 1;
  (*optimizer)->Update(step, 1e-3, 0, parameters, gradients);  // the states get their pages
  for (auto _ : state) {
    (*optimizer)->Update(++step, 1e-3, 0, parameters, gradients);
    benchmark::ClobberMemory();
  }
  // Gradients are read; parameters and states read and written.
  const size_t arrays = 1 + 2 * (1 + (*optimizer)->states().size());
  state.SetBytesProcessed(
      static_cast<int64_t>(state.iterations() * arrays * count * sizeof(float)));
}

void Norm(benchmark::State& state) {
  const std::vector<float> values = Values(static_cast<size_t>(state.range(0)) / sizeof(float));
  for (auto _ : state) benchmark::DoNotOptimize(SquaredNorm(values));
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations()) * state.range(0));
}

template <typename F>
void Register(const std::string& name, F function) {
  benchmark::RegisterBenchmark(name.c_str(), function)->Arg(256 << 10)->Arg(64 << 20);
}

const bool registered = [] {
  for (const DataType type : {DataType::kFloat16, DataType::kBfloat16}) {
    for (const auto& [name, conversion] : {std::pair{"pack", Conversion::kPack},
                                           {"unpack", Conversion::kUnpack},
                                           {"accumulate", Conversion::kAccumulate}}) {
      Register(fmt::format("{}/{}", name, NameOf(type)),
               [conversion = conversion, type](benchmark::State& state) {
                 Convert(state, conversion, type);
               });
    }
  }
  for (const char* name : {"sgd", "momentum", "nesterov", "adam", "adamw", "lamb"}) {
    Register(fmt::format("update/{}", name),
             [name](benchmark::State& state) { Update(state, name); });
  }
  Register("norm", Norm);
  return true;
}();

}  // namespace
}  // namespace gradwire::ps
