// Sizes and times as a reader takes them in.
#pragma once

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <string>

namespace gradwire::analysis {

// "64 KiB", "1.5 MiB", "512 B".
inline std::string SizeText(uint64_t bytes) {
  constexpr std::array<const char*, 5> kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  auto value = static_cast<double>(bytes);
  for (; value >= 1024 && unit + 1 < kUnits.size(); ++unit) value /= 1024;
  return fmt::format("{:.{}f} {}", value, value == std::floor(value) ? 0 : 1, kUnits[unit]);
}

// "1.83 ms", "23.4 us", "640 us": three digits.
inline std::string TimeText(double ns) {
  const char* unit = "ns";
  if (ns >= 1e9) {
    ns /= 1e9;
    unit = "s";
  } else if (ns >= 1e6) {
    ns /= 1e6;
    unit = "ms";
  } else if (ns >= 1e3) {
    ns /= 1e3;
    unit = "us";
  }
  return fmt::format("{:.{}f} {}", ns, ns >= 100 || unit[0] == 'n' ? 0 : ns >= 10 ? 1 : 2, unit);
}

}  // namespace gradwire::analysis
