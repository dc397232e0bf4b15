#include "transport/machine.h"

#include <sched.h>
#include <sys/utsname.h>

#include <ctime>
#include <fstream>
#include <thread>

namespace gradwire {
namespace {

// The first "model name" (x86) or "Model" (some others) of /proc/cpuinfo.
std::string CpuModel() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) != 0 && line.rfind("Model", 0) != 0) continue;
    const size_t value = line.find_first_not_of(" \t", line.find(':') + 1);
    return value == std::string::npos ? "" : line.substr(value);
  }
  return "";
}

}  // namespace

Machine ThisMachine() {
  Machine machine;
  machine.cpu = CpuModel();
  machine.cores = static_cast<int>(std::thread::hardware_concurrency());
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0) machine.cores = CPU_COUNT(&allowed);
  utsname system{};
  if (uname(&system) == 0) {
    machine.host = system.nodename;
    machine.kernel = std::string(system.sysname) + " " + system.release;
  }
  std::ifstream("/proc/sys/kernel/random/boot_id") >> machine.boot_id;
  return machine;
}

std::vector<std::string> CommandLine() {
  std::vector<std::string> arguments;
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  for (std::string argument; std::getline(file, argument, '\0');) arguments.push_back(argument);
  return arguments;
}

std::string UtcNow() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[32];
  return std::string(text, std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &utc));
}

}  // namespace gradwire
