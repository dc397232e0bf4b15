// What loops over numbers share: one binary for every x86-64 machine, and bfloat16.
#pragma once

#include <bit>
#include <cstdint>

// Before a plain function (not a template): it is compiled per instruction set and the loader
// picks. Sanitizers run before the loader's choice can, so they get the portable version.
#if defined(__x86_64__) && defined(__linux__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)
#define GW_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define GW_CLONES
#endif

namespace gradwire {

// bfloat16 is the upper half of a float, so both ways are integer arithmetic that vectorises.
inline float Bfloat16ToFloat(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}
// Rounds to nearest even.
inline uint16_t FloatToBfloat16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = bits + 0x7fff + (bits >> 16 & 1);
  // Rounding must not carry a NaN's mantissa over into infinity.
  const bool nan = (bits & 0x7fffffff) > 0x7f800000;
  return static_cast<uint16_t>((nan ? bits | 0x400000 : rounded) >> 16);
}

}  // namespace gradwire
