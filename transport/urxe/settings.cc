#include "transport/urxe/settings.h"

#include <net/if.h>
#include <unistd.h>

#include <cstdio>
#include <sstream>
#include <string_view>

#include "transport/urxe/wire/faults.h"

namespace urxe {
namespace {

constexpr std::string_view kPrefix = "URXE_";
constexpr uint64_t kMinWindow = 16 << 10;
constexpr uint64_t kMaxWindow = 64 << 20;

// Bytes, with K and M for 2^10 and 2^20.
bool ParseSize(std::string_view text, uint64_t& size) {
  int shift = 0;
  if (!text.empty() && (text.back() == 'K' || text.back() == 'k')) shift = 10;
  if (!text.empty() && (text.back() == 'M' || text.back() == 'm')) shift = 20;
  if (shift != 0) text.remove_suffix(1);
  if (text.empty() || text.size() > 9) return false;
  size = 0;
  for (const char digit : text) {
    if (digit < '0' || digit > '9') return false;
    size = size * 10 + static_cast<uint64_t>(digit - '0');
  }
  size <<= shift;
  return true;
}

// Sets what `name` stands for. Empty, or what would be right.
std::string Set(std::string_view name, std::string_view value, Settings& settings) {
  if (name == "INTERFACES") {
    settings.interfaces = value;
  } else if (name == "PATH") {
    if (value == "auto") {
      settings.path = PathChoice::kAuto;
    } else if (value == "local") {
      settings.path = PathChoice::kLocal;
    } else if (value == "udp") {
      settings.path = PathChoice::kUdp;
    } else {
      return "must be auto, local or udp";
    }
  } else if (name == "ICRC" || name == "SHARE") {
    if (value != "on" && value != "off") return "must be on or off";
    (name == "ICRC" ? settings.icrc : settings.share) = value == "on";
  } else if (name == "WINDOW") {
    uint64_t size = 0;
    if (!ParseSize(value, size) || size < kMinWindow || size > kMaxWindow) {
      return "must be a number of bytes from 16K to 64M";
    }
    settings.window = static_cast<uint32_t>(size);
  } else if (name == "FAULTS") {
    FaultPlan plan;
    if (std::string problem = ParseFaults(value, plan); !problem.empty()) return problem;
    settings.faults = value;
  } else if (name == "PCAP") {
    settings.pcap = value;
  } else if (name == "COUNTERS") {
    settings.counters = value;
  } else {
    return "is no setting; there are URXE_INTERFACES, URXE_PATH, URXE_SHARE, URXE_ICRC, "
           "URXE_WINDOW, URXE_FAULTS, URXE_PCAP and URXE_COUNTERS";
  }
  return "";
}

}  // namespace

std::string ParseSettings(const char* const* environment, Settings& settings) {
  for (; environment != nullptr && *environment != nullptr; ++environment) {
    const std::string_view variable = *environment;
    if (variable.substr(0, kPrefix.size()) != kPrefix) continue;
    const size_t equals = variable.find('=');
    if (equals == std::string_view::npos) continue;
    const std::string_view name = variable.substr(0, equals);
    const std::string_view value = variable.substr(equals + 1);
    const std::string problem = Set(name.substr(kPrefix.size()), value, settings);
    if (!problem.empty()) return std::string(variable) + ": " + problem;
  }
  return "";
}

const LoadedSettings& ProcessSettings() {
  // Never destroyed: the progress thread reads them until the process is gone.
  static const LoadedSettings& loaded = *new LoadedSettings([] {
    LoadedSettings result;
    const std::string problem = ParseSettings(environ, result.settings);
    if (!problem.empty()) {
      std::fprintf(stderr, "urxe: %s; no urxe device is offered\n", problem.c_str());
      result.valid = false;
    }
    return result;
  }());
  return loaded;
}

}  // namespace urxe

extern "C" const char* urxe_settings_problem(void) {
  static std::string& problem = *new std::string;
  urxe::Settings settings;
  problem = urxe::ParseSettings(environ, settings);
  std::istringstream interfaces(settings.interfaces);
  for (std::string name; problem.empty() && std::getline(interfaces, name, ',');) {
    if (if_nametoindex(name.c_str()) != 0) continue;
    problem = "URXE_INTERFACES=" + settings.interfaces + ": '" + name +
              "' is no interface of this network namespace; `ip link` lists them";
  }
  return problem.empty() ? nullptr : problem.c_str();
}
