// What a measurement costs the machine, and which machine it is.
#pragma once

#include <cstdint>
#include <string>

namespace gradwire::bench {

// What this process, all threads, has used so far.
struct ResourceUse {
  double cpu_seconds = 0;  // user and system
  int64_t voluntary_switches = 0;
  int64_t involuntary_switches = 0;
};
ResourceUse CurrentUse();
ResourceUse operator-(const ResourceUse& later, const ResourceUse& earlier);

struct Machine {
  std::string cpu_model;  // empty when the system does not tell
  int cores = 0;          // that this process may use
  std::string kernel;     // "Linux 6.1.0"
};
Machine ThisMachine();

}  // namespace gradwire::bench
