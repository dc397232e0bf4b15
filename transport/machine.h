// Which machine a figure was measured on.
#pragma once

#include <string>
#include <vector>

namespace gradwire {

struct Machine {
  std::string host;    // its name
  std::string cpu;     // model; empty when the system does not tell
  int cores = 0;       // that this process may use
  std::string kernel;  // "Linux 6.1.0"
  // Equal for processes that share one kernel, and with it the monotonic clock; empty when unknown.
  std::string boot_id;
};
Machine ThisMachine();

// This process's command line.
std::vector<std::string> CommandLine();
// The present time as ISO 8601 in UTC: "2026-01-31T12:00:00Z".
std::string UtcNow();

}  // namespace gradwire
