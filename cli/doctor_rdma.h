// RDMA ports as the kernel shows them.
#pragma once

#include <string>
#include <vector>

#include "cli/doctor_probes.h"

namespace gradwire::cli {

struct RdmaPort {
  std::string device;      // "rxe0"
  int number = 1;          // from 1
  std::string state;       // "4: ACTIVE"
  std::string link_layer;  // "Ethernet", "InfiniBand"
  std::string rate;        // "2.5 Gb/sec (1X SDR)"
  std::string interface;   // that carries it; empty when unknown, as with InfiniBand
  // iWARP cannot notify the receiver of a write, as Gradwire needs, and connects by rdma_cm only.
  bool iwarp = false;

  bool active() const { return state.find("ACTIVE") != std::string::npos; }
};
std::vector<RdmaPort> ListRdmaPorts(const ProbeOptions& options);

// How a port that is not active comes up.
std::string InactiveRemedy(const ProbeOptions& options, const RdmaPort& port);

// What keeps programs from opening the device, with what to do about it as remedy; verdict kOk when
// nothing does.
Finding ProbeAccess(const ProbeOptions& options, const std::string& device);

// Whether the interface is administratively up with a carrier.
bool InterfaceIsUp(const ProbeOptions& options, const std::string& interface);

}  // namespace gradwire::cli
