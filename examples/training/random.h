// Random numbers that come out the same with every standard library: std::mt19937_64 is fixed by
// the C++ standard, the distributions of <random> are not, so the mappings are ours.
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>
#include <random>
#include <span>
#include <utility>

namespace gradwire::training {

class Random {
 public:
  // Streams of one seed are independent of each other.
  explicit Random(uint64_t seed, uint64_t stream = 0) : engine_(Mix(seed ^ Mix(stream))) {}

  // [0, 1), 53 bits.
  double Uniform() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }

  // Mean 0, variance 1: Box and Muller's transform (1958), one of its two values.
  double Normal() {
    const double radius = std::sqrt(-2.0 * std::log1p(-Uniform()));
    return radius * std::cos(2.0 * std::numbers::pi * Uniform());
  }

  // [0, bound); the bias of the modulus is below bound / 2^64.
  uint64_t Below(uint64_t bound) { return engine_() % bound; }

 private:
  // The finalizer of SplitMix64 (Steele, Lea and Flood, 2014): spreads close seeds apart.
  static uint64_t Mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
  }

  std::mt19937_64 engine_;
};

// Puts `items` into random order (Fisher and Yates).
template <typename T>
void Shuffle(std::span<T> items, Random& random) {
  for (size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[random.Below(i)]);
}

}  // namespace gradwire::training
