// `doctor --fix`: gives this machine an RDMA device in software, Soft-RoCE or else soft-iWARP.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "cli/doctor_command.h"
#include "cli/doctor_probes.h"
#include "transport/status.h"

namespace gradwire::cli {

struct FixOptions {
  ProbeOptions probe;
  std::string interface;  // to make the device on; empty: the one that carries the default route
  bool root = false;      // whether we may change anything
  // Each line for the user, as it happens.
  std::function<void(const std::string& line)> say;
  std::chrono::milliseconds ready_limit{5'000};  // for the new device to come up
};

struct FixStep {
  std::vector<std::string> argv;  // the program's name first: {"modprobe", "rdma_rxe"}
  bool done = false;
  CommandResult result;  // valid when done

  std::string Text() const;  // as a user would type it
};

// What there is to do; nothing when a usable device exists.
struct FixPlan {
  std::string device;     // that will be usable, "rxe0"
  std::string interface;  // that carries it; may be empty for an existing device
  std::vector<FixStep> steps;
};

// Looks, and changes nothing. NotFound when there is no such interface; FailedPrecondition says
// what keeps this machine from having a device: the kernel, an interface that is down, a package.
absl::StatusOr<FixPlan> PlanFix(const FixOptions& options);

struct FixReport {
  absl::Status status;  // OK when a device is usable now
  FixPlan plan;
};
// Plans, runs each step after saying it, and looks whether the device came up. Without root it says
// the commands, changes nothing, and fails when there are any.
FixReport Fix(const FixOptions& options);

// The interface of the default route, IPv4 before IPv6, then the lowest metric; empty when none.
std::string DefaultRouteInterface(const std::string& proc);

}  // namespace gradwire::cli
