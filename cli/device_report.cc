#include "cli/device_report.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <string_view>

#include "cli/doctor_files.h"
#include "cli/report.h"

namespace gradwire::cli {
namespace {

struct CounterInfo {
  const char* name;
  uint64_t urxe_counters::*field;
  const char* meaning;
};
#define GW_COUNTER(name, meaning) CounterInfo{#name, &urxe_counters::name, meaning},
constexpr std::array kCounters = {URXE_COUNTERS(GW_COUNTER)};
#undef GW_COUNTER

const char* KindOf(const rdma::Port& port) { return port.user_space ? "user" : "kernel"; }

// RoCE's version; InfiniBand has none.
const char* VersionOf(rdma::GidType type) {
  switch (type) {
    case rdma::GidType::kRoceV1:
      return "v1";
    case rdma::GidType::kRoceV2:
      return "v2";
    case rdma::GidType::kInfiniBand:
      break;
  }
  return "-";
}

}  // namespace

std::string DeviceTable(std::span<const rdma::Port> ports) {
  constexpr std::string_view kRow = "{:<11} {:<6} {:<6} {:>4} {:>3} {:<4} {}\n";
  std::string table =
      fmt::format(kRow, "#device", "kind", "state", "MTU", "GID", "RoCE", "address");
  for (const rdma::Port& port : ports) {
    const std::string name =
        port.port == 0 ? port.device : fmt::format("{}:{}", port.device, port.port);
    if (port.gids.empty()) {
      table += fmt::format(kRow, name, KindOf(port), ibv_port_state_str(port.state), port.mtu, "-",
                           "-", "none");
    }
    for (const rdma::GidEntry& gid : port.gids) {
      const bool first = &gid == &port.gids.front();
      table += fmt::format(kRow, first ? name : "", first ? KindOf(port) : "",
                           first ? ibv_port_state_str(port.state) : "",
                           first ? fmt::format("{}", port.mtu) : "", gid.index, VersionOf(gid.type),
                           rdma::FormatGid(gid.gid));
    }
    if (!port.problem.empty()) table += Wrapped("cannot be used: " + port.problem, /*indent=*/4);
  }
  return table;
}

nlohmann::ordered_json DevicesToJson(std::span<const rdma::Port> ports) {
  auto list = nlohmann::ordered_json::array();
  for (const rdma::Port& port : ports) {
    auto gids = nlohmann::ordered_json::array();
    for (const rdma::GidEntry& gid : port.gids) {
      gids.push_back({{"index", gid.index},
                      {"address", rdma::FormatGid(gid.gid)},
                      {"type", rdma::GidTypeName(gid.type)}});
    }
    list.push_back({{"device", port.device},
                    {"port", port.port},
                    {"kind", KindOf(port)},
                    {"state", ibv_port_state_str(port.state)},
                    {"mtu", port.mtu},
                    {"gids", gids},
                    {"problem", port.problem}});
  }
  return list;
}

absl::StatusOr<UrxeProcess> ReadUrxeProcess(const std::string& proc, int pid) {
  UrxeProcess process{.pid = pid, .program = FirstLine(fmt::format("{}/{}/comm", proc, pid))};
  const int error = urxe_read_counters_of(pid, &process.counters, sizeof(process.counters));
  if (error == 0) return process;
  if (process.program.empty()) {
    return MakeError(absl::StatusCode::kNotFound, "there is no process {}", pid);
  }
  if (error == ENOENT) {
    return MakeError(absl::StatusCode::kNotFound, "process {} ({}) has no urxe device open", pid,
                     process.program);
  }
  return ErrnoError(error, "the counters of process {} ({}) cannot be read", pid, process.program);
}

std::vector<UrxeProcess> ListUrxeProcesses(const std::string& proc) {
  std::vector<UrxeProcess> processes;
  for (const std::string& entry : Entries(proc)) {
    int pid = 0;
    const char* const end = entry.data() + entry.size();
    if (std::from_chars(entry.data(), end, pid).ptr != end || pid == getpid()) continue;
    auto process = ReadUrxeProcess(proc, pid);
    if (process.ok()) processes.push_back(*std::move(process));
  }
  std::sort(processes.begin(), processes.end(),
            [](const UrxeProcess& a, const UrxeProcess& b) { return a.pid < b.pid; });
  return processes;
}

std::string CounterTable(const UrxeProcess& process) {
  std::string table = fmt::format("process {} ({})\n", process.pid, process.program);
  constexpr size_t kMeaning = 38;  // column at which the meaning begins
  for (const CounterInfo& counter : kCounters) {
    const uint64_t value = process.counters.*counter.field;
    if (value == 0) continue;
    std::string lines = Wrapped(counter.meaning, kMeaning);
    const std::string figure = fmt::format("  {:<19} {:>14}", counter.name, value);
    if (figure.size() < kMeaning) {
      lines.replace(0, figure.size(), figure);
    } else {
      lines = figure + "\n" + lines;
    }
    table += lines;
  }
  return table;
}

nlohmann::ordered_json CountersToJson(std::span<const UrxeProcess> processes) {
  auto list = nlohmann::ordered_json::array();
  for (const UrxeProcess& process : processes) {
    nlohmann::ordered_json counters;
    for (const CounterInfo& counter : kCounters) {
      counters[counter.name] = process.counters.*counter.field;
    }
    list.push_back({{"pid", process.pid}, {"program", process.program}, {"counters", counters}});
  }
  return list;
}

}  // namespace gradwire::cli
