#include "transport/urxe/verbs/interfaces.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netpacket/packet.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <sstream>

namespace urxe {
namespace {

Gid MappedGid(const in_addr& address) {
  Gid gid = {};
  gid[10] = gid[11] = 0xFF;
  memcpy(&gid[12], &address, 4);
  return gid;
}

bool IsMapped(const Gid& gid) {
  static constexpr uint8_t kPrefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF};
  return memcmp(gid.data(), kPrefix, sizeof(kPrefix)) == 0;
}

// 0: IPv4, 1: global IPv6, 2: link-local.
int RankOf(const Gid& gid) {
  if (IsMapped(gid)) return 0;
  return gid[0] == 0xFE && (gid[1] & 0xC0) == 0x80 ? 2 : 1;
}

void AddAddress(Interface& interface, const sockaddr& address) {
  if (address.sa_family == AF_INET) {
    interface.addresses.push_back(
        MappedGid(reinterpret_cast<const sockaddr_in&>(address).sin_addr));
  } else if (address.sa_family == AF_INET6) {
    Gid gid = {};
    memcpy(gid.data(), &reinterpret_cast<const sockaddr_in6&>(address).sin6_addr, gid.size());
    interface.addresses.push_back(gid);
  } else if (address.sa_family == AF_PACKET) {
    const auto& link = reinterpret_cast<const sockaddr_ll&>(address);
    if (link.sll_halen == interface.mac.size()) memcpy(interface.mac.data(), link.sll_addr, 6);
  }
}

// The interface of the IPv4 default route with the lowest metric, else of IPv6's; empty if none.
std::string DefaultRoute() {
  std::string best;
  unsigned long best_metric = ~0ul;
  std::string line;
  std::ifstream routes("/proc/net/route");
  std::getline(routes, line);  // headings
  while (std::getline(routes, line)) {
    std::istringstream fields(line);
    std::string name, destination, gateway, flags, references, uses, metric, mask;
    fields >> name >> destination >> gateway >> flags >> references >> uses >> metric >> mask;
    if (!fields || destination != "00000000" || mask != "00000000") continue;
    const unsigned long value = strtoul(metric.c_str(), nullptr, 10);
    if (value < best_metric) best = name, best_metric = value;
  }
  if (!best.empty()) return best;
  std::ifstream routes6("/proc/net/ipv6_route");
  while (std::getline(routes6, line)) {
    std::istringstream fields(line);
    std::string destination, prefix, source, source_prefix, gateway, metric, references, uses,
        flags, name;
    fields >> destination >> prefix >> source >> source_prefix >> gateway >> metric >> references >>
        uses >> flags >> name;
    if (!fields || prefix != "00" || name == "lo") continue;
    const unsigned long value = strtoul(metric.c_str(), nullptr, 16);
    if (value < best_metric) best = name, best_metric = value;
  }
  return best;
}

}  // namespace

unsigned MtuOf(const std::string& interface) {
  const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return 0;
  ifreq request = {};
  interface.copy(request.ifr_name, IFNAMSIZ - 1);
  const bool known = ioctl(fd, SIOCGIFMTU, &request) == 0;
  close(fd);
  return known ? static_cast<unsigned>(request.ifr_mtu) : 0;
}

std::vector<Interface> AllInterfaces() {
  std::vector<Interface> interfaces;
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return interfaces;
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
    auto interface = std::find_if(interfaces.begin(), interfaces.end(),
                                  [&](const Interface& i) { return i.name == entry->ifa_name; });
    if (interface == interfaces.end()) {
      interface = interfaces.insert(interfaces.end(), Interface());
      interface->name = entry->ifa_name;
      interface->index = if_nametoindex(entry->ifa_name);
      interface->up = (entry->ifa_flags & IFF_UP) != 0 && (entry->ifa_flags & IFF_RUNNING) != 0;
    }
    if (entry->ifa_addr != nullptr) AddAddress(*interface, *entry->ifa_addr);
  }
  freeifaddrs(list);
  for (Interface& interface : interfaces) {
    std::stable_sort(interface.addresses.begin(), interface.addresses.end(),
                     [](const Gid& a, const Gid& b) { return RankOf(a) < RankOf(b); });
  }
  return interfaces;
}

std::vector<std::string> ChooseInterfaces(const std::string& names) {
  const std::vector<Interface> all = AllInterfaces();
  const auto find = [&](const std::string& name) {
    return std::find_if(all.begin(), all.end(),
                        [&](const Interface& interface) { return interface.name == name; });
  };
  if (!names.empty()) {
    std::vector<std::string> chosen;
    std::istringstream list(names);
    std::string name;
    while (std::getline(list, name, ',')) {
      if (find(name) == all.end()) {
        fprintf(stderr,
                "urxe: URXE_INTERFACES names \"%s\", which is no interface of this network "
                "namespace; `ip link` lists them\n",
                name.c_str());
        return {};
      }
      if (std::find(chosen.begin(), chosen.end(), name) == chosen.end()) chosen.push_back(name);
    }
    return chosen;
  }
  const auto usable = [](const Interface& interface) {
    return interface.up && !interface.addresses.empty();
  };
  const auto routed = find(DefaultRoute());
  if (routed != all.end() && usable(*routed)) return {routed->name};
  for (const Interface& interface : all) {
    if (interface.name != "lo" && usable(interface)) return {interface.name};
  }
  if (find("lo") != all.end()) return {"lo"};
  return {};
}

}  // namespace urxe
