#include "cli/doctor_rdma.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <iterator>
#include <sstream>
#include <system_error>

#include "cli/doctor_files.h"
#include "cli/doctor_kernel.h"
#include "transport/settings.h"

namespace gradwire::cli {
namespace {

constexpr size_t kMostGids = 16;  // shown of a port; adapters with many VLANs have hundreds

std::string DeviceFolder(const ProbeOptions& options, const std::string& device) {
  return options.sys + "/class/infiniband/" + device;
}

std::string PortFolder(const ProbeOptions& options, const RdmaPort& port) {
  return fmt::format("{}/ports/{}", DeviceFolder(options, port.device), port.number);
}

std::string InterfaceFolder(const ProbeOptions& options, const std::string& interface) {
  return options.sys + "/class/net/" + interface;
}

// "0000:0000:0000:0000:0000:ffff:0a00:0001" -> "::ffff:10.0.0.1"; empty for an unused entry.
std::string ShortGid(const std::string& text) {
  in6_addr address{};
  std::array<char, INET6_ADDRSTRLEN> shown;
  if (inet_pton(AF_INET6, text.c_str(), &address) != 1 || IN6_IS_ADDR_UNSPECIFIED(&address) ||
      inet_ntop(AF_INET6, &address, shown.data(), shown.size()) == nullptr) {
    return "";
  }
  return shown.data();
}

std::vector<int> Numbers(const std::string& folder) {
  std::vector<int> numbers;
  for (const std::string& name : Entries(folder)) numbers.push_back(std::atoi(name.c_str()));
  std::sort(numbers.begin(), numbers.end());
  return numbers;
}

// The device file of a device: "uverbs0", empty while ib_uverbs is not loaded.
std::string VerbsFile(const ProbeOptions& options, const std::string& device) {
  const std::string folder = options.sys + "/class/infiniband_verbs";
  for (const std::string& name : Entries(folder)) {
    if (FirstLine(folder + "/" + name + "/ibdev") == device) return name;
  }
  return "";
}

Finding ProbePortState(const ProbeOptions& options, const RdmaPort& port,
                       const std::vector<rdma::Port>& seen) {
  Finding finding{
      fmt::format("rdma {} port {}", port.device, port.number), Verdict::kOk,
      fmt::format("state {}, link layer {}, rate {}", port.state.empty() ? "unknown" : port.state,
                  port.link_layer, port.rate)};
  for (const rdma::Port& entry : seen) {
    if (entry.device == port.device && entry.port == port.number && entry.problem.empty()) {
      finding.detail += fmt::format(", active MTU {}", entry.mtu);
    }
  }
  if (!port.interface.empty()) {
    finding.detail += fmt::format(", on {} with MTU {}", port.interface,
                                  FirstLine(InterfaceFolder(options, port.interface) + "/mtu"));
  }
  if (!port.active()) {
    finding.verdict = Verdict::kNote;
    finding.remedy = InactiveRemedy(options, port);
  } else if (port.iwarp) {
    finding.verdict = Verdict::kNote;
    finding.detail += "; iWARP, which has no write with immediate";
    finding.remedy =
        "Gradwire needs RoCE or InfiniBand; this serves programs that connect by rdma_cm";
  }
  return finding;
}

Finding ProbeGids(const ProbeOptions& options, const RdmaPort& port) {
  const std::string folder = PortFolder(options, port);
  std::vector<std::string> gids;
  for (const int index : Numbers(folder + "/gids")) {
    const std::string gid = ShortGid(FirstLine(fmt::format("{}/gids/{}", folder, index)));
    if (gid.empty()) continue;
    // Both files answer EINVAL for an entry that another network namespace owns.
    const std::string type = FirstLine(fmt::format("{}/gid_attrs/types/{}", folder, index));
    const std::string interface = FirstLine(fmt::format("{}/gid_attrs/ndevs/{}", folder, index));
    gids.push_back(fmt::format("{}: {}{}{}{}{}", index, gid, type.empty() ? "" : " ", type,
                               interface.empty() ? "" : " ", interface));
  }
  Finding finding{fmt::format("rdma {} port {} gids", port.device, port.number), Verdict::kOk, ""};
  if (gids.empty()) {
    finding.verdict = Verdict::kNote;
    finding.detail = "none, so no peer can reach it";
    finding.remedy = port.interface.empty() ? "give its interface an address and bring it up"
                                            : fmt::format(
                                                  "`ip address add ADDRESS/PREFIX dev {0}` and "
                                                  "`ip link set {0} up` as root",
                                                  port.interface);
    return finding;
  }
  const size_t shown = std::min(gids.size(), kMostGids);
  finding.detail = fmt::format("{}", fmt::join(gids.begin(), gids.begin() + shown, ", "));
  if (shown < gids.size()) finding.detail += fmt::format(" and {} more", gids.size() - shown);
  return finding;
}

// What the rdma tool says. Only asked where a device is: the question alone makes the kernel load
// ib_core.
Finding ProbeRdmaLink(const ProbeOptions& options, const std::string& tool) {
  const auto result = options.run({tool, "link", "show"}, std::chrono::seconds(5));
  if (!result.ok() || result->exit_code != 0) {
    const std::string reason = result.ok() ? result->output : Message(result.status());
    return {"rdma link", Verdict::kNote, "`rdma link show` failed: " + reason,
            "`apt install iproute2`, in the version of this system's kernel"};
  }
  std::istringstream stream(result->output);
  std::string links;
  for (std::string line; std::getline(stream, line);) {
    line.erase(line.find_last_not_of(' ') + 1);  // the tool ends lines with a blank
    links += (links.empty() ? "" : "; ") + line;
  }
  return {"rdma link", Verdict::kOk, links};
}

// What a rank would use here, by the same rules.
Finding ProbeChoice(const std::vector<rdma::Port>& seen) {
  const auto settings = SettingsFromEnvironment();
  // Bad settings have a finding of their own.
  const auto choice =
      rdma::ChoosePort(seen, settings.ok() ? *settings : Settings(), /*local_address=*/"");
  if (choice.ok()) return {"rdma choice", Verdict::kOk, choice->Describe()};
  return {"rdma choice", Verdict::kNote, Message(choice.status()), "until then data move over TCP"};
}

// The kernel has no device: what ranks use instead, and how it would get one.
Finding NoDevice(const ProbeOptions& options, const std::vector<rdma::Port>& seen) {
  Finding finding{"rdma", Verdict::kNote, "the kernel has no RDMA device"};
  const auto urxe = std::find_if(seen.begin(), seen.end(), [](const rdma::Port& port) {
    return port.user_space && port.problem.empty() && port.state == IBV_PORT_ACTIVE;
  });
  finding.detail += urxe == seen.end()
                        ? "; data move over TCP"
                        : fmt::format("; data move over {}, in user space", urxe->device);
  const ModuleState rxe = FindModule(options, "rdma_rxe");
  const ModuleState siw = FindModule(options, "siw");
  const auto at_hand = [](ModuleState state) {
    return IsReady(state) || state == ModuleState::kLoadable;
  };
  finding.remedy = at_hand(rxe) || at_hand(siw)
                       ? "`gradwire doctor --fix` as root makes one on an Ethernet interface"
                       : "an adapter, or a kernel with rdma_rxe: see the modules above";
  return finding;
}

}  // namespace

bool InterfaceIsUp(const ProbeOptions& options, const std::string& interface) {
  const std::string folder = InterfaceFolder(options, interface);
  const long flags = std::strtol(FirstLine(folder + "/flags").c_str(), nullptr, 16);
  constexpr long kUp = 0x1;  // IFF_UP
  // operstate is "unknown" for interfaces that cannot tell, such as lo and many virtual ones.
  const std::string state = FirstLine(folder + "/operstate");
  return (flags & kUp) != 0 && state != "down" && state != "lowerlayerdown";
}

std::string InactiveRemedy(const ProbeOptions& options, const RdmaPort& port) {
  if (!port.interface.empty() && !InterfaceIsUp(options, port.interface)) {
    return fmt::format("interface {0} is down: `ip link set {0} up` as root", port.interface);
  }
  if (port.link_layer == "InfiniBand" && port.state.find("INIT") != std::string::npos) {
    return "it waits for a subnet manager: `apt install opensm` on one host of the fabric";
  }
  return "look at the cable and the interface; `rdma link show` has the state";
}

std::vector<RdmaPort> ListRdmaPorts(const ProbeOptions& options) {
  std::vector<RdmaPort> ports;
  for (const std::string& device : Entries(options.sys + "/class/infiniband")) {
    // "1: CA" for InfiniBand and RoCE, "4: RNIC" for iWARP.
    const std::string type = FirstLine(DeviceFolder(options, device) + "/node_type");
    for (const int number : Numbers(DeviceFolder(options, device) + "/ports")) {
      RdmaPort port{.device = device, .number = number};
      const std::string folder = PortFolder(options, port);
      port.state = FirstLine(folder + "/state");
      port.link_layer = FirstLine(folder + "/link_layer");
      port.rate = FirstLine(folder + "/rate");
      port.interface = FirstLine(folder + "/gid_attrs/ndevs/0");
      port.iwarp = type.find("RNIC") != std::string::npos;
      ports.push_back(std::move(port));
    }
  }
  return ports;
}

Finding ProbeAccess(const ProbeOptions& options, const std::string& device) {
  Finding finding{"rdma " + device, Verdict::kNote};
  const std::string file = VerbsFile(options, device);
  if (file.empty()) {
    finding.detail = "programs cannot open it: ib_uverbs is not loaded";
    finding.remedy = "`modprobe ib_uverbs` as root, or `gradwire doctor --fix`";
    return finding;
  }
  const std::string path = "/dev/infiniband/" + file;
  if (!Exists(options.root + path)) {
    finding.detail = fmt::format("programs cannot open it: there is no {}", path);
    finding.remedy = InContainer(options)
                         ? "start the container with `--device /dev/infiniband`"
                         : "`apt install rdma-core`, whose rules make udev create it";
    return finding;
  }
  if (access((options.root + path).c_str(), R_OK | W_OK) != 0) {
    finding.detail =
        fmt::format("no right to open {}: {}", path, std::generic_category().message(errno));
    finding.remedy = fmt::format(
        "`apt install rdma-core`, whose rules give it to everyone, or `chmod 0666 {}` as root",
        path);
    return finding;
  }
  finding.verdict = Verdict::kOk;
  finding.detail = fmt::format("programs open it as {}", path);
  return finding;
}

Findings ProbePackages(const ProbeOptions& options) {
  struct Package {
    const char* name;
    const char* mark;  // a program, or a path when it starts with a slash
    const char* purpose;
  };
  constexpr std::array kPackages = {
      Package{"rdma-core", "/usr/sbin/rdma-ndd", "names devices and loads their modules"},
      Package{"ibverbs-providers", "/etc/libibverbs.d",
              "has the drivers of libibverbs, which sees no device without"},
      Package{"ibverbs-utils", "ibv_devinfo", "shows devices as programs see them"},
      Package{"perftest", "ib_write_bw", "measures RDMA without Gradwire, to compare with"},
      Package{"iproute2", "rdma", "makes and shows Soft-RoCE devices"},
      Package{"kmod", "modprobe", "loads kernel modules"},
  };
  std::string installed;
  Findings findings;
  for (const Package& package : kPackages) {
    const std::string mark = package.mark;
    const bool found = mark[0] == '/' ? Exists(options.root + mark)
                                      : !FindProgram(options.folders, options.root, mark).empty();
    if (found) {
      installed += fmt::format("{}{}", installed.empty() ? "" : ", ", package.name);
    } else {
      findings.push_back({fmt::format("package {}", package.name), Verdict::kNote,
                          fmt::format("no {}; it {}", mark, package.purpose),
                          fmt::format("`apt install {}`", package.name)});
    }
  }
  if (!installed.empty()) {
    findings.insert(findings.begin(), {"rdma packages", Verdict::kOk, "installed: " + installed});
  }
  return findings;
}

Findings ProbeRdma(const ProbeOptions& options) {
  const std::vector<RdmaPort> ports = ListRdmaPorts(options);
  const auto listed = options.list_ports();
  const std::vector<rdma::Port> seen = listed.ok() ? *listed : std::vector<rdma::Port>();
  Findings findings;
  if (ports.empty()) {
    findings.push_back(NoDevice(options, seen));
    if (!seen.empty()) findings.push_back(ProbeChoice(seen));
    return findings;
  }

  std::string device;
  for (const RdmaPort& port : ports) {
    if (port.device != device) {
      device = port.device;
      Finding access = ProbeAccess(options, device);
      const auto entry = std::find_if(seen.begin(), seen.end(), [&](const rdma::Port& candidate) {
        return candidate.device == device;
      });
      if (access.verdict == Verdict::kOk && entry == seen.end()) {
        access = {access.subject, Verdict::kNote,
                  listed.ok() ? "libibverbs does not list it" : Message(listed.status()),
                  "`apt install ibverbs-providers`, which has its driver"};
      } else if (access.verdict == Verdict::kOk && !entry->problem.empty()) {
        access = {access.subject, Verdict::kNote, entry->problem,
                  "`ibv_devinfo -v` shows what programs get"};
      }
      findings.push_back(access);
    }
    findings.push_back(ProbePortState(options, port, seen));
    findings.push_back(ProbeGids(options, port));
  }
  if (!seen.empty()) findings.push_back(ProbeChoice(seen));
  const std::string tool = FindProgram(options.folders, options.root, "rdma");
  if (!tool.empty()) findings.push_back(ProbeRdmaLink(options, tool));
  return findings;
}

}  // namespace gradwire::cli
