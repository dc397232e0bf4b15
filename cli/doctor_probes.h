// Looks at this machine for what ranks need. Nothing is changed; every probe is bounded in time.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "cli/doctor_command.h"
#include "transport/rdma/interface.h"
#include "transport/status.h"
#include "transport/urxe/settings.h"

namespace gradwire::cli {

enum class Verdict { kOk, kNote, kProblem };
// "ok", "note" or "problem".
const char* NameOf(Verdict verdict);

struct Finding {
  std::string subject;  // "cpu", "interface eth0"
  Verdict verdict = Verdict::kOk;
  std::string detail;
  std::string remedy;  // what to do about a note or a problem; empty when there is nothing to do
};
using Findings = std::vector<Finding>;

// Lets a child copy from the memory of this process, which is none of its descendants: the kernel
// asks the same of it as of any other process of this user. 0, or the errno of the copy.
int TryCopyBetweenProcesses();

struct ProbeOptions {
  int port = 29500;  // of the rendezvous, to be bound for a moment
  // Where the kernel's file systems are, and what /boot, /dev, /etc, /lib and the folders of
  // programs lie beneath; tests put trees of their own here.
  std::string proc = "/proc";
  std::string sys = "/sys";
  std::string root;
  std::string release;  // of the kernel; empty: as `uname -r` says
  std::vector<std::string> folders = ProgramFolders();
  CommandRunner run = RunCommand;
  // The ports as programs see them, through libibverbs.
  std::function<absl::StatusOr<std::vector<rdma::Port>>()> list_ports = rdma::ListPorts;
  // What is wrong with URXE_* variables, or null.
  std::function<const char*()> urxe_problem = urxe_settings_problem;
  // Whether processes of this user may copy into each other's memory: 0 or errno.
  std::function<int()> try_copy = TryCopyBetweenProcesses;
};

// Processor model, cores and how many of them this process may use, vector instructions.
Findings ProbeCpu(const ProbeOptions& options);
// Kernel release, memory, limits on locked memory and on open files.
Findings ProbeKernel(const ProbeOptions& options);
Findings ProbeMemory(const ProbeOptions& options);
Findings ProbeLimits(const ProbeOptions& options);
// Interfaces that are up: MTU and addresses.
Findings ProbeInterfaces(const ProbeOptions& options);
// Congestion control, the rendezvous port, an exchange over loopback, this host's name.
Findings ProbeCongestion(const ProbeOptions& options);
Findings ProbePort(const ProbeOptions& options);
Findings ProbeLoopback(const ProbeOptions& options);
Findings ProbeHostName(const ProbeOptions& options);
// The kernel modules that RDMA needs, and whether this kernel can have them at all.
Findings ProbeModules(const ProbeOptions& options);
// The packages that RDMA, its tools and `doctor --fix` need.
Findings ProbePackages(const ProbeOptions& options);
// RDMA devices, whether programs may open them, and state, MTU and GIDs of each port.
Findings ProbeRdma(const ProbeOptions& options);
// urxe: its device, UDP port 4791, the same-host path, the receive buffer.
Findings ProbeUrxe(const ProbeOptions& options);
// GRADWIRE_* variables of this process.
Findings ProbeSettings(const ProbeOptions& options);

// All of the above, in that order.
Findings ProbeAll(const ProbeOptions& options);

}  // namespace gradwire::cli
