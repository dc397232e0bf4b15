// The kernel's modules, as far as they can be told without loading one.
#pragma once

#include <map>
#include <string>

#include "cli/doctor_probes.h"

namespace gradwire::cli {

enum class ModuleState {
  kLoaded,
  kBuiltIn,
  kLoadable,      // a file that modprobe will find
  kNotIndexed,    // a file that modules.dep does not list
  kNotInstalled,  // the kernel may have it, but there is no file
  kLeftOut,       // the kernel was configured without it
  kHostDecides,   // neither modules nor a configuration to be seen: the kernel is not ours
};

// Whether the module is part of the running kernel now.
inline bool IsReady(ModuleState state) {
  return state == ModuleState::kLoaded || state == ModuleState::kBuiltIn;
}

ModuleState FindModule(const ProbeOptions& options, const std::string& name);

// How this Debian, Ubuntu or other system gets the module; empty when it has it.
std::string ModuleRemedy(const ProbeOptions& options, const std::string& name, ModuleState state);

// options.release, or what uname says.
std::string KernelRelease(const ProbeOptions& options);

// True when this process runs in a container, whose kernel and modules are its host's.
bool InContainer(const ProbeOptions& options);

}  // namespace gradwire::cli
