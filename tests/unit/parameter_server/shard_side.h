// What either side of a shard's links starts from in tests: settings, a transport, deadlines.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "transport/bootstrap/world.h"
#include "transport/settings.h"
#include "transport/transport.h"

namespace gradwire::ps {

constexpr int64_t kElements = 500;  // slices of 256, 64 and 180
constexpr int kWindow = 4;
constexpr int64_t kSliceBytes = 4096;

inline Deadline Soon() { return Clock::now() + std::chrono::seconds(30); }

Settings SettingsFor(const std::string& transport);

// A transport in a world of its own.
struct Side {
  explicit Side(const Settings& settings);
  std::unique_ptr<World> world;
  std::unique_ptr<Transport> transport;
};

}  // namespace gradwire::ps
