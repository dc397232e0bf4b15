#include "cli/doctor_fix.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <limits>
#include <sstream>
#include <thread>

#include "cli/doctor_files.h"
#include "cli/doctor_kernel.h"
#include "cli/doctor_rdma.h"

namespace gradwire::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kCommandLimit = std::chrono::seconds(30);
constexpr auto kDeviceInterval = std::chrono::milliseconds(50);

// Flags of a route, from <linux/route.h>.
constexpr unsigned long kRouteUp = 0x1;
constexpr unsigned long kRouteReject = 0x200;

std::vector<std::string> Words(const std::string& line) {
  std::istringstream stream(line);
  return {std::istream_iterator<std::string>(stream), std::istream_iterator<std::string>()};
}

unsigned long Number(const std::string& text, int base) {
  return std::strtoul(text.c_str(), nullptr, base);
}

bool CarriesTraffic(unsigned long flags) {
  return (flags & kRouteUp) != 0 && (flags & kRouteReject) == 0;
}

absl::Status AsError(const Finding& finding) {
  return FailedPrecondition("{}: {}; {}", finding.subject, finding.detail, finding.remedy);
}

absl::Status Inactive(const ProbeOptions& options, const RdmaPort& port) {
  return FailedPrecondition("{} is there already, but its port {} is in state {}: {}", port.device,
                            port.number, port.state, InactiveRemedy(options, port));
}

absl::StatusOr<std::string> ChooseInterface(const FixOptions& options,
                                            const std::vector<RdmaPort>& ports) {
  const ProbeOptions& probe = options.probe;
  std::vector<std::string> names = Entries(probe.sys + "/class/net");
  names.erase(std::remove(names.begin(), names.end(), "lo"), names.end());
  const std::string listed = names.empty() ? "none" : fmt::format("{}", fmt::join(names, ", "));
  std::string chosen = options.interface;
  if (chosen.empty()) {
    chosen = DefaultRouteInterface(probe.proc);
    if (chosen.empty() && !ports.empty()) return Inactive(probe, ports.front());
    if (chosen.empty()) {
      return FailedPrecondition(
          "no default route shows which interface to use; name one with --interface: {}", listed);
    }
  }
  // Compared with the list, and never used as a path before: the name came from outside.
  if (chosen != "lo" && std::find(names.begin(), names.end(), chosen) == names.end()) {
    return MakeError(absl::StatusCode::kNotFound, "there is no interface {}; there are: {}", chosen,
                     listed);
  }
  if (!InterfaceIsUp(probe, chosen)) {
    return FailedPrecondition("interface {0} is down; `ip link set {0} up` as root", chosen);
  }
  return chosen;
}

bool AtHand(ModuleState state) { return IsReady(state) || state == ModuleState::kLoadable; }

// Adds the step that loads a module, when it needs one. The kernel of a container's host loads on
// its own what `rdma link add` asks for, if it has it.
absl::Status LoadModule(const ProbeOptions& options, const std::string& name, FixPlan& plan) {
  const ModuleState state = FindModule(options, name);
  if (IsReady(state) || state == ModuleState::kHostDecides) return absl::OkStatus();
  if (state != ModuleState::kLoadable) {
    return FailedPrecondition("kernel {} cannot load {}: {}", KernelRelease(options), name,
                              ModuleRemedy(options, name, state));
  }
  plan.steps.push_back({{"modprobe", name}});
  return absl::OkStatus();
}

// "rxe" or "siw": the driver, which the device is named after.
absl::StatusOr<std::string> ChooseDriver(const ProbeOptions& options) {
  const ModuleState rxe = FindModule(options, "rdma_rxe");
  if (AtHand(rxe)) return "rxe";
  if (AtHand(FindModule(options, "siw"))) return "siw";
  if (rxe == ModuleState::kHostDecides) return "rxe";
  return FailedPrecondition("kernel {} has neither rdma_rxe nor siw: {}", KernelRelease(options),
                            ModuleRemedy(options, "rdma_rxe", rxe));
}

std::string FreeName(const ProbeOptions& options, const std::string& driver) {
  const std::vector<std::string> taken = Entries(options.sys + "/class/infiniband");
  for (int index = 0;; ++index) {
    const std::string name = fmt::format("{}{}", driver, index);
    if (std::find(taken.begin(), taken.end(), name) == taken.end()) return name;
  }
}

absl::Status CheckPrograms(const ProbeOptions& options, const FixPlan& plan) {
  for (const FixStep& step : plan.steps) {
    if (FindProgram(options.folders, options.root, step.argv[0]).empty()) {
      return FailedPrecondition("there is no program {}; `apt install {}` as root", step.argv[0],
                                step.argv[0] == "rdma" ? "iproute2" : "kmod");
    }
  }
  return absl::OkStatus();
}

// Says the step, runs it, says what came of it.
absl::Status Run(const FixOptions& options, FixStep& step) {
  std::vector<std::string> argv = step.argv;
  argv[0] = FindProgram(options.probe.folders, options.probe.root, argv[0]);
  options.say("+ " + step.Text());
  auto result = options.probe.run(argv, kCommandLimit);
  if (!result.ok()) return result.status();
  step.done = true;
  step.result = *std::move(result);
  if (step.result.exit_code != 0) {
    return FailedPrecondition("`{}` failed with code {}: {}; the end of `dmesg` may say why",
                              step.Text(), step.result.exit_code,
                              step.result.output.empty() ? "no message" : step.result.output);
  }
  options.say(step.result.output.empty() ? "  done" : "  " + step.result.output);
  return absl::OkStatus();
}

// The active port of `device`, or what still keeps it from being used.
absl::StatusOr<RdmaPort> FindUsable(const ProbeOptions& options, const std::string& device) {
  const std::vector<RdmaPort> ports = ListRdmaPorts(options);
  const auto active = std::find_if(ports.begin(), ports.end(), [&](const RdmaPort& port) {
    return port.device == device && port.active();
  });
  if (active == ports.end()) {
    return FailedPrecondition("{} has no active port; `gradwire doctor` says more", device);
  }
  const Finding access = ProbeAccess(options, device);
  if (access.verdict != Verdict::kOk) return AsError(access);
  return *active;
}

// Waits for the device to come up, and says what it is good for.
absl::Status AwaitUsable(const FixOptions& options, const FixPlan& plan) {
  const auto deadline = Clock::now() + options.ready_limit;
  absl::StatusOr<RdmaPort> port = FindUsable(options.probe, plan.device);
  while (!port.ok() && !plan.steps.empty() && Clock::now() < deadline) {
    std::this_thread::sleep_for(kDeviceInterval);
    port = FindUsable(options.probe, plan.device);
  }
  if (!port.ok()) return port.status();
  options.say(fmt::format("{}{} is usable{}", plan.steps.empty() ? "nothing to do: " : "",
                          plan.device, port->interface.empty() ? "" : " on " + port->interface));
  if (port->iwarp) {
    options.say(
        "it is iWARP, for programs that connect by rdma_cm; Gradwire needs RoCE or InfiniBand");
  }
  return absl::OkStatus();
}

}  // namespace

std::string FixStep::Text() const { return fmt::format("{}", fmt::join(argv, " ")); }

std::string DefaultRouteInterface(const std::string& proc) {
  std::string chosen;
  unsigned long lowest = std::numeric_limits<unsigned long>::max();
  const auto offer = [&](const std::string& interface, unsigned long metric) {
    if (chosen.empty() || metric < lowest) {
      chosen = interface;
      lowest = metric;
    }
  };
  // Iface Destination Gateway Flags RefCnt Use Metric Mask ...
  for (const std::string& line : Lines(proc + "/net/route")) {
    const std::vector<std::string> words = Words(line);
    if (words.size() >= 8 && words[1] == "00000000" && words[7] == "00000000" &&
        CarriesTraffic(Number(words[3], 16))) {
      offer(words[0], Number(words[6], 10));
    }
  }
  if (!chosen.empty()) return chosen;
  // Destination length source length next-hop metric references uses flags interface
  for (const std::string& line : Lines(proc + "/net/ipv6_route")) {
    const std::vector<std::string> words = Words(line);
    if (words.size() >= 10 && words[0].find_first_not_of('0') == std::string::npos &&
        words[1] == "00" && CarriesTraffic(Number(words[8], 16)) && words[9] != "lo") {
      offer(words[9], Number(words[5], 16));
    }
  }
  return chosen;
}

absl::StatusOr<FixPlan> PlanFix(const FixOptions& options) {
  const ProbeOptions& probe = options.probe;
  FixPlan plan;
  std::vector<RdmaPort> ports = ListRdmaPorts(probe);
  // An iWARP device is second best: it counts only where no better one can be made.
  if (AtHand(FindModule(probe, "rdma_rxe"))) {
    ports.erase(
        std::remove_if(ports.begin(), ports.end(), [](const RdmaPort& port) { return port.iwarp; }),
        ports.end());
  }
  for (const RdmaPort& port : ports) {
    if (!port.active() || (!options.interface.empty() && port.interface != options.interface)) {
      continue;
    }
    plan.device = port.device;
    plan.interface = port.interface;
    GW_RETURN_IF_ERROR(LoadModule(probe, "ib_uverbs", plan));
    GW_RETURN_IF_ERROR(CheckPrograms(probe, plan));
    return plan;
  }

  GW_ASSIGN_OR_RETURN(plan.interface, ChooseInterface(options, ports));
  for (const RdmaPort& port : ports) {
    // The kernel has room for one on an interface, and another would be down as well.
    if (port.interface == plan.interface) return Inactive(probe, port);
  }
  GW_ASSIGN_OR_RETURN(const std::string driver, ChooseDriver(probe));
  GW_RETURN_IF_ERROR(LoadModule(probe, "ib_uverbs", plan));
  GW_RETURN_IF_ERROR(LoadModule(probe, driver == "rxe" ? "rdma_rxe" : "siw", plan));
  plan.device = FreeName(probe, driver);
  plan.steps.push_back(
      {{"rdma", "link", "add", plan.device, "type", driver, "netdev", plan.interface}});
  GW_RETURN_IF_ERROR(CheckPrograms(probe, plan));
  return plan;
}

FixReport Fix(const FixOptions& options) {
  FixReport report;
  auto plan = PlanFix(options);
  if (!plan.ok()) {
    report.status = plan.status();
    return report;
  }
  report.plan = *std::move(plan);
  const std::string& device = report.plan.device;
  if (!options.root && !report.plan.steps.empty()) {
    for (const FixStep& step : report.plan.steps) options.say("sudo " + step.Text());
    report.status = FailedPrecondition(
        "nothing was changed: making {} usable needs root; run the commands above, or "
        "`sudo gradwire doctor --fix`",
        device);
    return report;
  }
  for (FixStep& step : report.plan.steps) {
    report.status = Run(options, step);
    if (!report.status.ok()) return report;
  }
  report.status = AwaitUsable(options, report.plan);
  return report;
}

}  // namespace gradwire::cli
