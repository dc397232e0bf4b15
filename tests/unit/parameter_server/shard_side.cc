#include "tests/unit/parameter_server/shard_side.h"

#include <gtest/gtest.h>

#include <utility>

#include "transport/bootstrap/solo_world.h"

namespace gradwire::ps {

Settings SettingsFor(const std::string& transport) {
  Settings settings;
  settings.transport = transport;
  settings.socket_interface = "lo";
  settings.slots = kWindow;
  settings.slice_bytes = kSliceBytes;
  settings.queue_depth = 16;
  return settings;
}

Side::Side(const Settings& settings) : world(MakeSoloWorld("127.0.0.1")) {
  auto made = CreateTransport(*world, settings, "ps");
  EXPECT_TRUE(made.ok()) << made.status();
  transport = *std::move(made);
}

}  // namespace gradwire::ps
