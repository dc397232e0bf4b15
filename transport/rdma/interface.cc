#include "transport/rdma/interface.h"

#include <arpa/inet.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>

#include "transport/rdma/advice.h"
#include "transport/rdma/roce_port.h"
#include "transport/rdma/verbs.h"
#include "transport/urxe/urxe.h"

namespace gradwire::rdma {
namespace {

constexpr std::array<uint8_t, 12> kIpv4Prefix = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

std::optional<Gid> ParseAddress(std::string_view text) {
  const std::string address(text.substr(0, text.find('%')));  // without a scope
  Gid gid = {};
  if (inet_pton(AF_INET6, address.c_str(), gid.data()) == 1) return gid;
  if (inet_pton(AF_INET, address.c_str(), gid.data() + kIpv4Prefix.size()) != 1) return {};
  std::copy(kIpv4Prefix.begin(), kIpv4Prefix.end(), gid.begin());
  return gid;
}

bool IsLinkLocal(const Gid& gid) { return gid[0] == 0xfe && (gid[1] & 0xc0) == 0x80; }

// Lower is better; RoCE v1 cannot cross routers and many switches drop it.
int Preference(const GidEntry& entry) {
  if (entry.type != GidType::kRoceV2) return 3;
  if (IsIpv4Mapped(entry.gid)) return 0;
  return IsLinkLocal(entry.gid) ? 2 : 1;
}

std::string Name(const Port& port) {
  return port.port == 0 ? port.device : fmt::format("{}:{}", port.device, port.port);
}

std::string DescribeGids(const Port& port) {
  std::string text;
  for (const GidEntry& entry : port.gids) {
    text += fmt::format("{}{} ({}, {})", text.empty() ? "" : ", ", entry.index,
                        FormatGid(entry.gid), GidTypeName(entry.type));
  }
  return text.empty() ? "none" : text;
}

absl::StatusOr<GidEntry> ChooseGid(const Port& port, int wanted, const std::optional<Gid>& local) {
  const int index = wanted < 0 && !port.ethernet ? 0 : wanted;
  if (index >= 0) {
    for (const GidEntry& entry : port.gids) {
      if (entry.index == index) return entry;
    }
    return FailedPrecondition("GID index {} of RDMA port {} is empty; there are: {}", index,
                              Name(port), DescribeGids(port));
  }
  const auto best =
      std::min_element(port.gids.begin(), port.gids.end(), [&](const auto& a, const auto& b) {
        const int order = Preference(a) - Preference(b);
        return order != 0 ? order < 0 : (local && a.gid == *local && b.gid != *local);
      });
  if (best == port.gids.end()) {
    return FailedPrecondition(
        "RDMA port {} has no GID: give its network interface an address (ip addr add)", Name(port));
  }
  return *best;
}

// Why none of `fitting` can be used; one sentence for each.
absl::Status NothingUsable(std::span<const Port* const> fitting, const absl::Status& gid_error) {
  if (!gid_error.ok()) return gid_error;
  std::string reasons;
  for (const Port* port : fitting) {
    const std::string reason =
        port->problem.empty()
            ? fmt::format("{} is {}: bring its network interface up (ip link set ... up)",
                          Name(*port), ibv_port_state_str(port->state))
            : fmt::format("{}: {}", Name(*port), port->problem);
    reasons += (reasons.empty() ? "" : "; ") + reason;
  }
  return FailedPrecondition("no RDMA port can be used: {}", reasons);
}

// Why urxe is taken: what there is of the kernel's devices cannot be used, or was not asked for.
std::string WhyUserSpace(std::span<const Port> ports, const Settings& settings) {
  if (!settings.device.empty()) return fmt::format("as --device {} asks", settings.device);
  for (const Port& port : ports) {
    if (port.user_space) continue;
    return port.problem.empty()
               ? fmt::format("{} cannot be used ({})", Name(port),
                             port.state == IBV_PORT_ACTIVE ? "no fitting GID"
                                                           : ibv_port_state_str(port.state))
               : port.problem;
  }
  return "no kernel device";
}

// Fills in one device's ports, or one entry that says why it has none.
void AddPorts(const ibv_device& which, const char* name, std::vector<Port>& ports) {
  if (which.transport_type == IBV_TRANSPORT_IWARP) {
    ports.push_back({.device = name,
                     .port = 0,
                     .problem = fmt::format("{} speaks iWARP, which has no write with immediate; a "
                                            "RoCE or InfiniBand device is needed",
                                            name)});
    return;
  }
  absl::StatusOr<Device> device = Device::Open(name);
  if (!device.ok()) {
    ports.push_back({.device = name, .port = 0, .problem = Message(device.status())});
    return;
  }
  size_t entries = 0;
  const size_t first = ports.size();
  const bool user_space = urxe_is_urxe(device->get()) != 0;
  for (int number = 1; number <= device->attributes().phys_port_cnt; ++number) {
    Port port{.device = name, .port = number};
    port.user_space = user_space;
    const absl::StatusOr<ibv_port_attr> attributes = device->QueryPort(number);
    if (attributes.ok()) {
      port.state = attributes->state;
      port.ethernet = attributes->link_layer == IBV_LINK_LAYER_ETHERNET;
      // The code counts powers of two from 256.
      port.mtu = 128 << static_cast<int>(attributes->active_mtu);
      port.lid = attributes->lid;
      entries += static_cast<size_t>(std::max(attributes->gid_tbl_len, 0));
    } else {
      port.problem = Message(attributes.status());
    }
    ports.push_back(std::move(port));
  }
  if (entries == 0) return;
  std::vector<ibv_gid_entry> table(entries);
  const ssize_t count = ibv_query_gid_table(device->get(), table.data(), table.size(), 0);
  const auto added = std::span(ports).subspan(first);
  if (count < 0) {
    for (Port& port : added) {
      port.problem = Message(VerbsError(static_cast<int>(-count), Verb::kQuery,
                                        fmt::format("read the GID table of {}", name)));
    }
    return;
  }
  for (const ibv_gid_entry& row : std::span(table).first(static_cast<size_t>(count))) {
    if (row.port_num < 1 || row.port_num > added.size()) continue;
    GidEntry entry{.index = static_cast<int>(row.gid_index)};
    if (row.gid_type == IBV_GID_TYPE_ROCE_V1) entry.type = GidType::kRoceV1;
    if (row.gid_type == IBV_GID_TYPE_ROCE_V2) entry.type = GidType::kRoceV2;
    std::memcpy(entry.gid.data(), row.gid.raw, entry.gid.size());
    Port& port = added[row.port_num - 1];
    port.gids.push_back(entry);
    if (user_space && port.problem.empty()) {
      port.problem = RocePortHolder("/proc", entry.gid, geteuid());
    }
  }
}

}  // namespace

bool IsIpv4Mapped(const Gid& gid) {
  return std::equal(kIpv4Prefix.begin(), kIpv4Prefix.end(), gid.begin());
}

std::string FormatGid(const Gid& gid) {
  char text[INET6_ADDRSTRLEN];
  if (IsIpv4Mapped(gid)) {
    inet_ntop(AF_INET, gid.data() + kIpv4Prefix.size(), text, sizeof(text));
  } else {
    inet_ntop(AF_INET6, gid.data(), text, sizeof(text));
  }
  return text;
}

std::string_view GidTypeName(GidType type) {
  switch (type) {
    case GidType::kRoceV1:
      return "RoCE v1";
    case GidType::kRoceV2:
      return "RoCE v2";
    case GidType::kInfiniBand:
      break;
  }
  return "InfiniBand";
}

std::string PortChoice::Describe() const {
  // In short: there is one port, and one kind of GID.
  if (user_space) {
    return fmt::format("rdma on {} ({}, MTU {}): user-space RoCE v2, {}", device,
                       FormatGid(gid.gid), mtu, reason);
  }
  return fmt::format("rdma on {} port {} (GID {}, {}, {}, MTU {}): {}", device, port, gid.index,
                     FormatGid(gid.gid), GidTypeName(gid.type), mtu, reason);
}

absl::StatusOr<std::vector<Port>> ListPorts() {
  std::vector<Port> ports;
  int count = 0;
  ibv_device** list = ibv_get_device_list(&count);
  if (list == nullptr) {
    if (errno == ENOSYS) return ports;  // the kernel has no RDMA at all
    return VerbsError(errno, Verb::kOpenDevice, "list RDMA devices");
  }
  const std::unique_ptr<ibv_device*, void (*)(ibv_device**)> owner(list, ibv_free_device_list);
  for (ibv_device* device : std::span(list, static_cast<size_t>(count))) {
    AddPorts(*device, ibv_get_device_name(device), ports);
  }
  return ports;
}

absl::StatusOr<bool> MatchesFilter(const Port& port, std::string_view filter) {
  if (filter.empty()) return true;
  const std::string_view whole = filter;
  const bool exclude = filter.starts_with('^');
  if (exclude) filter.remove_prefix(1);
  const bool exact = filter.starts_with('=');
  if (exact) filter.remove_prefix(1);
  bool matched = false;
  bool named = false;
  while (!filter.empty()) {
    const size_t comma = std::min(filter.find(','), filter.size());
    std::string_view name = filter.substr(0, comma);
    filter.remove_prefix(std::min(comma + 1, filter.size()));
    if (name.empty()) continue;
    named = true;
    bool port_fits = true;
    if (const size_t colon = name.find(':'); colon != std::string_view::npos) {
      const absl::StatusOr<int64_t> number = ParseInt(name.substr(colon + 1));
      if (!number.ok() || *number < 1 || *number > 255 || colon == 0) {
        return InvalidArgument("--device '{}': '{}' is no device with a port of 1 to 255", whole,
                               name);
      }
      port_fits = *number == port.port;
      name = name.substr(0, colon);
    }
    matched |= port_fits && (exact ? port.device == name : port.device.starts_with(name));
  }
  if (!named) return InvalidArgument("--device '{}' names no device", whole);
  return matched != exclude;
}

absl::StatusOr<PortChoice> ChoosePort(std::span<const Port> ports, const Settings& settings,
                                      std::string_view local_address) {
  if (ports.empty()) {
    return MakeError(
        absl::StatusCode::kNotFound,
        "this host has no RDMA device: the kernel has none, and urxe lists none (no "
        "interface with an address, or a malformed URXE_* variable); `gradwire doctor` "
        "says more, --transport tcp needs none");
  }
  std::vector<const Port*> fitting;
  std::string seen;
  for (const Port& port : ports) {
    seen += fmt::format(" {}", Name(port));
    GW_ASSIGN_OR_RETURN(const bool fits, MatchesFilter(port, settings.device));
    if (fits) fitting.push_back(&port);
  }
  if (fitting.empty()) {
    return MakeError(absl::StatusCode::kNotFound, "no RDMA port fits --device '{}'; there are:{}",
                     settings.device, seen);
  }

  const std::optional<Gid> local = ParseAddress(local_address);
  const auto is_local = [&](const GidEntry& entry) { return local && entry.gid == *local; };
  std::optional<PortChoice> choice;
  bool holds_local = false;
  int usable = 0;
  absl::Status gid_error;
  // A kernel's device before urxe: an adapter is faster, and rdma_rxe leaves urxe no port.
  std::stable_partition(fitting.begin(), fitting.end(),
                        [](const Port* port) { return !port->user_space; });
  for (const Port* port : fitting) {
    if (choice && !choice->user_space && port->user_space) break;
    if (!port->problem.empty() || port->state != IBV_PORT_ACTIVE) continue;
    const absl::StatusOr<GidEntry> gid = ChooseGid(*port, settings.gid_index, local);
    if (!gid.ok()) {
      if (gid_error.ok()) gid_error = gid.status();
      continue;
    }
    ++usable;
    const bool better = !holds_local && std::any_of(port->gids.begin(), port->gids.end(), is_local);
    if (choice && !better) continue;
    holds_local = better;
    choice = {port->device, port->port, port->ethernet,   port->mtu,
              port->lid,    *gid,       port->user_space, ""};
  }
  if (!choice) return NothingUsable(fitting, gid_error);
  if (choice->user_space) {
    choice->reason = WhyUserSpace(ports, settings);
    return *choice;
  }
  choice->reason = usable == 1   ? "only active port"
                   : holds_local ? "holds this host's address towards the rendezvous"
                                 : fmt::format("first of {} active ports", usable);
  if (!settings.device.empty()) {
    choice->reason += fmt::format(" that fits --device {}", settings.device);
  }
  return *choice;
}

}  // namespace gradwire::rdma
