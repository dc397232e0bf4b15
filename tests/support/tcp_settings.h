// What a test of ranks in one process runs with.
#pragma once

#include <chrono>

#include "transport/settings.h"

namespace gradwire {

// Over TCP, whatever devices there are; whoever hangs is told of within half a minute.
inline Settings TcpSettings() {
  Settings settings;
  settings.transport = "tcp";
  settings.op_timeout = std::chrono::seconds(30);
  return settings;
}

}  // namespace gradwire
