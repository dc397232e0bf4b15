// Every setting of urxe, read once from URXE_* variables at the first verbs call of a process.
#pragma once

#include <cstdint>
#include <string>

namespace urxe {

enum class PathChoice : uint8_t {
  kAuto,   // the same-host path where both ends permit it, else UDP
  kLocal,  // the same-host path or nothing: connecting to another host fails
  kUdp,    // always packets
};

struct Settings {
  // URXE_INTERFACES: comma list of interface names; each gives one device, urxe0, urxe1, ... Empty:
  // the interface of the default route, else the first that is up with an address, else lo.
  std::string interfaces;
  // URXE_PATH: auto, local or udp.
  PathChoice path = PathChoice::kAuto;
  // URXE_SHARE: on or off. On moves memory that is registered for remote access into files that
  // same-host peers map, so that they store into it without a system call. It must not be written
  // while it is registered, and after a fork parent and child share it.
  bool share = false;
  // URXE_ICRC: on or off. Off leaves the ICRC out towards peers that are urxe and have it off too.
  bool icrc = true;
  // URXE_WINDOW: bytes in flight to one peer process, 16 KiB to 64 MiB (suffixes K and M).
  uint32_t window = 384 << 10;
  // URXE_FAULTS: see urxe_set_faults.
  std::string faults;
  // URXE_PCAP: a file every sent and received packet is written to, in pcap form; %p is the process
  // id. Packets of the same-host path are not packets and do not appear.
  std::string pcap;
  // URXE_COUNTERS: stderr, or a file (%p as above), that counters are written to at exit.
  std::string counters;
};

// The settings of this process. Malformed variables are named on stderr once; `valid` is false then
// and no urxe device is listed, so that a typing mistake never turns into another configuration.
struct LoadedSettings {
  Settings settings;
  bool valid = true;
};
const LoadedSettings& ProcessSettings();

// Parses the variables of `environment` (a null-terminated list as in environ). The error is one
// line that names the variable, its value and what would be right; empty when all is well.
std::string ParseSettings(const char* const* environment, Settings& settings);

}  // namespace urxe

// For programs: what is wrong with the URXE_* variables of this process, interfaces that are not
// there included, in such a line; NULL when all is well. Says nothing on stderr. One thread at a
// time; the text lasts until the next call.
extern "C" const char* urxe_settings_problem(void);
