#include "transport/tcp/interface.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>

namespace gradwire::tcp {
namespace {

// An address as 16 bytes, IPv4 mapped into IPv6, so that one comparison serves both families.
using AddressBytes = std::array<uint8_t, 16>;

bool ParseAddress(const std::string& text, AddressBytes& bytes, bool& ipv6) {
  in_addr v4;
  if (inet_pton(AF_INET, text.c_str(), &v4) == 1) {
    bytes = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    std::memcpy(bytes.data() + 12, &v4, 4);
    ipv6 = false;
    return true;
  }
  if (inet_pton(AF_INET6, text.c_str(), bytes.data()) == 1) {
    ipv6 = true;
    return true;
  }
  return false;
}

absl::StatusOr<bool> InBlock(const InterfaceAddress& candidate, std::string_view block) {
  const size_t slash = block.find('/');
  AddressBytes network;
  bool ipv6 = false;
  const auto prefix = ParseInt(block.substr(slash + 1));
  if (!ParseAddress(std::string(block.substr(0, slash)), network, ipv6) || !prefix.ok() ||
      *prefix < 0 || *prefix > (ipv6 ? 128 : 32)) {
    return InvalidArgument("--socket-interface: '{}' is no CIDR block such as 10.0.0.0/8", block);
  }
  AddressBytes address;
  bool candidate_ipv6 = false;
  if (!ParseAddress(candidate.address, address, candidate_ipv6) || candidate_ipv6 != ipv6) {
    return false;
  }
  int64_t bits = *prefix + (ipv6 ? 0 : 96);
  for (size_t i = 0; i < network.size() && bits > 0; ++i, bits -= 8) {
    const auto mask = static_cast<uint8_t>(bits >= 8 ? 0xff : 0xff << (8 - bits));
    if ((network[i] & mask) != (address[i] & mask)) return false;
  }
  return true;
}

}  // namespace

absl::StatusOr<std::vector<InterfaceAddress>> ListInterfaceAddresses() {
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return ErrnoError(errno, "getifaddrs");
  const std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> owner(list, freeifaddrs);
  std::vector<InterfaceAddress> result;
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr || (entry->ifa_flags & IFF_UP) == 0) continue;
    const int family = entry->ifa_addr->sa_family;
    char text[INET6_ADDRSTRLEN];
    if (family == AF_INET) {
      const auto* address = reinterpret_cast<const sockaddr_in*>(entry->ifa_addr);
      inet_ntop(AF_INET, &address->sin_addr, text, sizeof(text));
    } else if (family == AF_INET6) {
      const auto* address = reinterpret_cast<const sockaddr_in6*>(entry->ifa_addr);
      if (IN6_IS_ADDR_LINKLOCAL(&address->sin6_addr)) continue;
      inet_ntop(AF_INET6, &address->sin6_addr, text, sizeof(text));
    } else {
      continue;
    }
    result.push_back(
        {entry->ifa_name, text, family == AF_INET6, (entry->ifa_flags & IFF_LOOPBACK) != 0});
  }
  return result;
}

absl::StatusOr<bool> MatchesFilter(const InterfaceAddress& candidate, std::string_view filter) {
  const bool exclude = filter.starts_with('^');
  if (exclude) filter.remove_prefix(1);
  const bool exact = filter.starts_with('=');
  if (exact) filter.remove_prefix(1);
  bool matched = false;
  while (!filter.empty()) {
    const size_t comma = std::min(filter.find(','), filter.size());
    const std::string_view item = filter.substr(0, comma);
    filter.remove_prefix(std::min(comma + 1, filter.size()));
    if (item.empty()) continue;
    if (item.find('/') != std::string_view::npos) {
      GW_ASSIGN_OR_RETURN(const bool inside, InBlock(candidate, item));
      matched |= inside;
    } else {
      matched |= exact ? candidate.interface == item : candidate.interface.starts_with(item);
    }
  }
  return matched != exclude;
}

absl::StatusOr<InterfaceChoice> ChooseAddress(std::span<const InterfaceAddress> candidates,
                                              const Settings& settings,
                                              std::string_view address_to_rendezvous) {
  std::vector<const InterfaceAddress*> fitting;
  std::string seen;
  for (const InterfaceAddress& candidate : candidates) {
    seen += fmt::format(" {}={}", candidate.interface, candidate.address);
    if (settings.socket_family == "ipv4" && candidate.ipv6) continue;
    if (settings.socket_family == "ipv6" && !candidate.ipv6) continue;
    if (!settings.socket_interface.empty()) {
      GW_ASSIGN_OR_RETURN(const bool fits, MatchesFilter(candidate, settings.socket_interface));
      if (!fits) continue;
    }
    fitting.push_back(&candidate);
  }
  if (fitting.empty()) {
    return MakeError(absl::StatusCode::kNotFound,
                     "no address fits --socket-interface '{}' and --socket-family {}; there are:{}",
                     settings.socket_interface, settings.socket_family,
                     seen.empty() ? " none" : seen);
  }
  const std::string filter_reason =
      settings.socket_interface.empty()
          ? std::string()
          : fmt::format("matches --socket-interface {}", settings.socket_interface);
  for (const InterfaceAddress* candidate : fitting) {
    if (candidate->address == address_to_rendezvous) {
      return InterfaceChoice{*candidate,
                             filter_reason.empty() ? "reaches the rendezvous" : filter_reason};
    }
  }
  const auto rank = [](const InterfaceAddress* a) { return 2 * a->loopback + a->ipv6; };
  const auto best =
      *std::min_element(fitting.begin(), fitting.end(),
                        [&](const auto* a, const auto* b) { return rank(a) < rank(b); });
  return InterfaceChoice{*best, filter_reason.empty() ? "first address" : filter_reason};
}

}  // namespace gradwire::tcp
