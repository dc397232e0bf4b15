// The probes of urxe, the RDMA device in user space.
#include <arpa/inet.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <system_error>

#include "cli/doctor_files.h"
#include "cli/doctor_probes.h"
#include "transport/rdma/roce_port.h"

namespace gradwire::cli {
namespace {

// What kernels allow a socket to buffer unless told otherwise; the default window fits in.
constexpr int64_t kStockReceiveBuffer = 212'992;

std::string InterfaceOf(const rdma::Gid& gid) {
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return "";
  const std::unique_ptr<ifaddrs, decltype(&freeifaddrs)> owner(list, &freeifaddrs);
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr) continue;
    rdma::Gid address = {};
    if (entry->ifa_addr->sa_family == AF_INET) {
      address[10] = address[11] = 0xff;
      std::memcpy(address.data() + 12,
                  &reinterpret_cast<const sockaddr_in*>(entry->ifa_addr)->sin_addr, 4);
    } else if (entry->ifa_addr->sa_family == AF_INET6) {
      std::memcpy(address.data(),
                  &reinterpret_cast<const sockaddr_in6*>(entry->ifa_addr)->sin6_addr, 16);
    } else {
      continue;
    }
    if (address == gid) return entry->ifa_name;
  }
  return "";
}

Finding ProbeDevice(const rdma::Port& port) {
  Finding finding{port.device, Verdict::kOk};
  std::string addresses, interface;
  for (const rdma::GidEntry& gid : port.gids) {
    addresses += fmt::format("{}{}", addresses.empty() ? "" : ", ", rdma::FormatGid(gid.gid));
    if (interface.empty()) interface = InterfaceOf(gid.gid);
  }
  finding.detail =
      fmt::format("RoCE v2 in user space{}{}, {}, MTU {}", interface.empty() ? "" : " on ",
                  interface, addresses.empty() ? "no address" : addresses, port.mtu);
  if (port.gids.empty() || port.state != IBV_PORT_ACTIVE) {
    finding.verdict = Verdict::kNote;
    finding.detail += ", not active";
    finding.remedy = "bring its interface up and give it an address; URXE_INTERFACES names another";
  }
  return finding;
}

Finding ProbeRocePort(const ProbeOptions& options, const rdma::Port& port) {
  Finding finding{fmt::format("{} UDP port {}", port.device, rdma::kRoceUdpPort), Verdict::kOk,
                  "free, or shared with this user's own processes"};
  for (const rdma::GidEntry& gid : port.gids) {
    const std::string holder = rdma::RocePortHolder(options.proc, gid.gid, geteuid());
    if (holder.empty()) continue;
    const size_t end = std::min(holder.find("; "), holder.size());
    finding.verdict = Verdict::kNote;
    finding.detail = holder.substr(0, end);
    finding.remedy = end < holder.size() ? holder.substr(end + 2) : "";
    break;
  }
  return finding;
}

// Why processes of this user may not copy, with the remedy, after a copy failed with `error`.
std::string WhyNoCopy(const ProbeOptions& options, int error) {
  const std::string scope = FirstLine(options.proc + "/sys/kernel/yama/ptrace_scope");
  if (error == ENOSYS || (error == EPERM && (scope.empty() || scope == "0"))) {
    return "a seccomp filter, as containers have, forbids process_vm_writev: allow it, or the "
           "container's SYS_PTRACE";
  }
  if (scope == "1" || scope == "2") {
    return fmt::format(
        "Yama's ptrace_scope is {}: `sysctl -w kernel.yama.ptrace_scope=0` as root, or "
        "CAP_SYS_PTRACE",
        scope);
  }
  if (scope == "3") {
    return "Yama's ptrace_scope is 3, which lasts until the next boot: take it out of the boot "
           "parameters or sysctl.d";
  }
  return "both processes must be of one user, in one process namespace, and dumpable";
}

Finding ProbeSameHostPath(const ProbeOptions& options) {
  const int error = options.try_copy();
  if (error == 0) {
    return {"urxe same-host path", Verdict::kOk,
            "permitted: processes of this user copy into each other's registered memory"};
  }
  return {"urxe same-host path", Verdict::kNote,
          fmt::format("not permitted ({}), so that peers on this host are reached by UDP",
                      std::generic_category().message(error)),
          WhyNoCopy(options, error)};
}

Finding ProbeReceiveBuffer(const ProbeOptions& options) {
  const std::string path = options.proc + "/sys/net/core/rmem_max";
  const std::string text = FirstLine(path);
  const int64_t bytes = std::atoll(text.c_str());
  Finding finding{"urxe receive buffer", Verdict::kOk,
                  text.empty() ? "net.core.rmem_max is not to be seen here"
                               : fmt::format("net.core.rmem_max is {} bytes", bytes)};
  if (!text.empty() && bytes < kStockReceiveBuffer) {
    finding.verdict = Verdict::kNote;
    finding.remedy = fmt::format(
        "too little for the default URXE_WINDOW, packets will be lost: `sysctl -w "
        "net.core.rmem_max={}` as root",
        kStockReceiveBuffer);
  }
  return finding;
}

}  // namespace

int TryCopyBetweenProcesses() {
  // Static, so that it lies at one place in both.
  static volatile char source = 42;
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child < 0) return errno;
  if (child == 0) {
    char copy = 0;
    const iovec local = {&copy, 1};
    const iovec remote = {const_cast<char*>(&source), 1};
    const ssize_t count = process_vm_readv(parent, &local, 1, &remote, 1, 0);
    _exit(count == 1 ? 0 : errno);
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return errno;
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : EINTR;
}

Findings ProbeUrxe(const ProbeOptions& options) {
  if (const char* problem = options.urxe_problem(); problem != nullptr) {
    return {{"urxe settings", Verdict::kProblem, problem, "correct or unset the variable"}};
  }
  const auto ports = options.list_ports();
  if (!ports.ok()) return {{"urxe", Verdict::kNote, Message(ports.status()), ""}};
  Findings findings;
  for (const rdma::Port& port : *ports) {
    if (!port.user_space) continue;
    findings.push_back(ProbeDevice(port));
    findings.push_back(ProbeRocePort(options, port));
  }
  if (findings.empty()) {
    return {{"urxe", Verdict::kNote, "lists no device",
             "give an interface an address and bring it up"}};
  }
  findings.push_back(ProbeSameHostPath(options));
  findings.push_back(ProbeReceiveBuffer(options));
  return findings;
}

}  // namespace gradwire::cli
