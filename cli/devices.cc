// gradwire devices: the RDMA devices that programs find here, and what urxe counts.
#include <fmt/core.h>

#include <limits>
#include <vector>

#include "cli/command.h"
#include "cli/device_report.h"
#include "cli/report.h"
#include "cli/standard_output.h"
#include "cli/usage.h"

namespace gradwire::cli {
namespace {

struct DevicesRequest {
  Settings settings;
  std::string json;
  bool counters = false;
  int pid = 0;
};

int Show(const DevicesRequest& request, const std::string& text,
         const nlohmann::ordered_json& json) {
  absl::StatusOr<bench::JsonOutput> output = OpenJson(request.json);
  if (!output.ok()) return ReportError(output.status());
  if (!output->is_standard_output()) PrintNow(text);
  const absl::Status written = output->Write(json);
  return written.ok() ? kDone : ReportError(written);
}

int ShowDevices(const DevicesRequest& request) {
  const auto ports = rdma::ListPorts();
  if (!ports.ok()) return ReportError(ports.status());
  const auto choice = rdma::ChoosePort(*ports, request.settings, /*local_address=*/"");
  if (absl::IsInvalidArgument(choice.status())) return ReportError(choice.status());
  const std::string chosen = choice.ok() ? choice->Describe() : Message(choice.status());
  return Show(request,
              DeviceTable(*ports) + Wrapped((choice.ok() ? "takes " : "takes none: ") + chosen, 2),
              {{"devices", DevicesToJson(*ports)},
               {"chosen", choice.ok() ? choice->device : ""},
               {"reason", choice.ok() ? choice->reason : chosen}});
}

int ShowCounters(const DevicesRequest& request) {
  std::vector<UrxeProcess> processes;
  if (request.pid != 0) {
    auto process = ReadUrxeProcess("/proc", request.pid);
    if (!process.ok()) return ReportError(process.status());
    processes.push_back(*std::move(process));
  } else {
    processes = ListUrxeProcesses("/proc");
  }
  std::string text;
  for (const UrxeProcess& process : processes) text += CounterTable(process);
  if (processes.empty()) text = "no process of this user has a urxe device open\n";
  return Show(request, text, {{"processes", CountersToJson(processes)}});
}

}  // namespace

void AddDevices(CLI::App& root, Action& action) {
  auto request = std::make_shared<DevicesRequest>();
  CLI::App* devices = root.add_subcommand("devices", "list RDMA devices, or what urxe counted");
  CLI::Option* counters = devices->add_flag(
      "--counters", request->counters, "of every process of this user with a urxe device open");
  devices->add_option("--pid", request->pid, "with --counters: of this process alone")
      ->check(Between(1, std::numeric_limits<int>::max()))
      ->needs(counters)
      ->type_name("N");
  devices->add_option("--json", request->json, "write it as JSON to FILE, - for standard output")
      ->type_name("FILE");
  AddSettings(*devices, request->settings);
  devices->footer(
      "kind: kernel, a device of the system; user, urxe, RoCE v2 in user space.\n"
      "Counters that are zero are left out of the table.\n");
  devices->callback([request, &action] {
    action = [request] {
      return request->counters ? ShowCounters(*request) : ShowDevices(*request);
    };
  });
}

}  // namespace gradwire::cli
