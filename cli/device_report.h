// What `gradwire devices` shows: RDMA ports as programs see them, and what urxe counted in each
// process.
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "transport/rdma/interface.h"
#include "transport/status.h"
#include "transport/urxe/urxe.h"

namespace gradwire::cli {

// A line per GID of each port, and one of why a port cannot be looked at; within 80 columns.
std::string DeviceTable(std::span<const rdma::Port> ports);
nlohmann::ordered_json DevicesToJson(std::span<const rdma::Port> ports);

// A process with a urxe device open.
struct UrxeProcess {
  int pid = 0;
  std::string program;  // its short name
  urxe_counters counters = {};
};

// One process; NotFound when it has no urxe device open, PermissionDenied when it is another
// user's.
absl::StatusOr<UrxeProcess> ReadUrxeProcess(const std::string& proc, int pid);
// All of this user but this one, by process id.
std::vector<UrxeProcess> ListUrxeProcesses(const std::string& proc);

// The counters that are not zero, each with its meaning; within 80 columns.
std::string CounterTable(const UrxeProcess& process);
// All counters.
nlohmann::ordered_json CountersToJson(std::span<const UrxeProcess> processes);

}  // namespace gradwire::cli
