#include "cli/doctor_kernel.h"

#include <fmt/format.h>
#include <sys/utsname.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <string_view>
#include <vector>

#include "cli/doctor_files.h"

namespace gradwire::cli {
namespace {

struct Module {
  const char* name;
  const char* option;  // of the kernel's configuration
  const char* purpose;
};
constexpr std::array kModules = {
    Module{"ib_core", "CONFIG_INFINIBAND", "every RDMA device"},
    Module{"ib_uverbs", "CONFIG_INFINIBAND_USER_ACCESS", "programs that use RDMA"},
    Module{"rdma_rxe", "CONFIG_RDMA_RXE", "Soft-RoCE, RDMA over any Ethernet interface"},
    Module{"siw", "CONFIG_RDMA_SIW", "soft-iWARP, where rdma_rxe is not to be had"},
    Module{"rdma_ucm", "CONFIG_INFINIBAND_USER_ACCESS", "programs that connect by rdma_cm"},
};

// "kernel/drivers/infiniband/sw/rxe/rdma_rxe.ko.xz" -> "rdma_rxe"; the kernel takes - for _.
std::string ModuleName(std::string_view path) {
  path.remove_prefix(path.rfind('/') + 1);  // npos + 1 is 0
  std::string name(path.substr(0, path.find(".ko")));
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

// Whether a line of modules.dep or modules.builtin begins with the module's file.
bool Lists(const std::string& path, const std::string& module) {
  const std::vector<std::string> lines = Lines(path);
  return std::any_of(lines.begin(), lines.end(), [&](const std::string& line) {
    return ModuleName(line.substr(0, line.find(':'))) == module;
  });
}

bool HasFile(const std::string& folder, const std::string& module) {
  std::error_code error;
  for (std::filesystem::recursive_directory_iterator it(folder, error), end; !error && it != end;
       it.increment(error)) {
    const std::string file = it->path().filename().string();
    if (file.find(".ko") != std::string::npos && ModuleName(file) == module) return true;
  }
  return false;
}

// The running kernel's configuration; empty when it is not to be seen.
std::map<std::string, std::string> KernelConfiguration(const ProbeOptions& options) {
  auto values = Assignments(options.proc + "/config.gz");
  if (values.empty()) {
    values = Assignments(options.root + "/boot/config-" + KernelRelease(options));
  }
  return values;
}

std::string ModulesFolder(const ProbeOptions& options) {
  return options.root + "/lib/modules/" + KernelRelease(options);
}

// The package of Debian's stock kernel, which has rdma_rxe where the cloud kernel has not.
std::string DebianKernel() {
  utsname name{};
  uname(&name);
  const std::string machine = name.machine;
  return "linux-image-" + (machine == "x86_64"    ? std::string("amd64")
                           : machine == "aarch64" ? std::string("arm64")
                                                  : machine);
}

const char* Describe(ModuleState state) {
  switch (state) {
    case ModuleState::kLoaded:
      return "loaded";
    case ModuleState::kBuiltIn:
      return "built into the kernel";
    case ModuleState::kLoadable:
      return "present, not loaded";
    case ModuleState::kNotIndexed:
      return "present, but not in modules.dep";
    case ModuleState::kNotInstalled:
      return "not installed for this kernel";
    case ModuleState::kLeftOut:
      return "this kernel was built without it";
    case ModuleState::kHostDecides:
      return "not loaded, and nothing here tells whether the kernel can have it";
  }
  return "?";
}

}  // namespace

std::string KernelRelease(const ProbeOptions& options) {
  if (!options.release.empty()) return options.release;
  utsname name{};
  return uname(&name) == 0 ? name.release : "";
}

bool InContainer(const ProbeOptions& options) {
  // Docker, Podman, and what systemd writes for the other managers.
  for (const char* mark : {"/.dockerenv", "/run/.containerenv", "/run/systemd/container"}) {
    if (Exists(options.root + mark)) return true;
  }
  return false;
}

ModuleState FindModule(const ProbeOptions& options, const std::string& name) {
  const std::string loaded = options.sys + "/module/" + name;
  if (Exists(loaded)) {
    // Built-in ones with parameters have a folder too, but were never in a state of loading.
    return Exists(loaded + "/initstate") ? ModuleState::kLoaded : ModuleState::kBuiltIn;
  }
  const std::string folder = ModulesFolder(options);
  if (Lists(folder + "/modules.builtin", name)) return ModuleState::kBuiltIn;
  if (HasFile(folder, name)) {
    return Lists(folder + "/modules.dep", name) ? ModuleState::kLoadable : ModuleState::kNotIndexed;
  }
  const auto configuration = KernelConfiguration(options);
  if (configuration.empty()) {
    return Exists(folder) ? ModuleState::kNotInstalled : ModuleState::kHostDecides;
  }
  const auto* const module = std::find_if(kModules.begin(), kModules.end(),
                                          [&](const Module& entry) { return name == entry.name; });
  const auto value =
      module == kModules.end() ? configuration.end() : configuration.find(module->option);
  if (value == configuration.end()) return ModuleState::kLeftOut;
  return value->second == "y" ? ModuleState::kBuiltIn : ModuleState::kNotInstalled;
}

std::string ModuleRemedy(const ProbeOptions& options, const std::string& name, ModuleState state) {
  const std::string release = KernelRelease(options);
  if (IsReady(state)) return "";
  if (state == ModuleState::kLoadable) return fmt::format("`modprobe {}` as root", name);
  if (state == ModuleState::kNotIndexed) {
    return fmt::format("`depmod {}` as root, then `modprobe {}`", release, name);
  }
  const std::string debian =
      fmt::format("`apt install {}`, and boot that kernel (Debian's cloud kernel leaves it out)",
                  DebianKernel());
  const std::string extra = fmt::format("`apt install linux-modules-extra-{}`", release);
  const std::string generic = "`apt install linux-image-generic`, and boot that kernel";
  const bool left_out = state == ModuleState::kLeftOut;
  if (InContainer(options)) {
    return fmt::format("this is a container, so it takes its host: {}; Ubuntu: {}; Debian: {}",
                       left_out ? "another kernel there"
                                : fmt::format("`modprobe {}` there, or first get it", name),
                       left_out ? generic : extra, debian);
  }
  auto system = Assignments(options.root + "/etc/os-release");
  const std::string family = " " + system["ID"] + " " + system["ID_LIKE"] + " ";
  if (family.find(" ubuntu ") != std::string::npos) {
    return left_out ? generic : extra;
  }
  if (family.find(" debian ") != std::string::npos) return debian;
  const auto* const module = std::find_if(kModules.begin(), kModules.end(),
                                          [&](const Module& entry) { return name == entry.name; });
  return fmt::format("boot a kernel with {}=m",
                     module == kModules.end() ? name : std::string(module->option));
}

Findings ProbeModules(const ProbeOptions& options) {
  const bool has_device = !Entries(options.sys + "/class/infiniband").empty();
  Findings findings;
  std::map<std::string, std::string> told;  // remedy -> subject
  for (const Module& module : kModules) {
    const ModuleState state = FindModule(options, module.name);
    const std::string subject = fmt::format("kernel module {}", module.name);
    Finding finding{subject, Verdict::kOk,
                    fmt::format("{} (for {})", Describe(state), module.purpose)};
    const std::string_view name = module.name;
    // A real device does without rxe; nothing here depends on siw, and Gradwire not on rdma_cm.
    const bool wanted =
        name == "ib_uverbs" || (!has_device && (name == "ib_core" || name == "rdma_rxe"));
    if (wanted && !IsReady(state)) {
      finding.verdict = Verdict::kNote;
      finding.remedy = state == ModuleState::kLoadable ? "`gradwire doctor --fix` as root loads it"
                                                       : ModuleRemedy(options, module.name, state);
      // One cause is explained once.
      const auto [earlier, first] = told.emplace(finding.remedy, module.name);
      if (!first) finding.remedy = fmt::format("as for {}", earlier->second);
    }
    findings.push_back(finding);
  }
  return findings;
}

}  // namespace gradwire::cli
