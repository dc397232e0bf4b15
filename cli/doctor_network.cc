// The probes that touch the network.
#include <arpa/inet.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <future>
#include <map>
#include <memory>
#include <system_error>
#include <thread>

#include "cli/doctor_files.h"
#include "cli/doctor_probes.h"
#include "cli/rank_process.h"

namespace gradwire::cli {
namespace {

constexpr int kLoopbackMs = 2'000;
constexpr auto kNameWait = std::chrono::seconds(3);

std::string Reason(int error) { return std::generic_category().message(error); }

std::string Numeric(const sockaddr* address) {
  const socklen_t length =
      address->sa_family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
  std::array<char, NI_MAXHOST> text;
  if (getnameinfo(address, length, text.data(), text.size(), nullptr, 0, NI_NUMERICHOST) != 0) {
    return "?";
  }
  return text.data();
}

bool IsLoopback(const sockaddr* address) {
  if (address->sa_family == AF_INET) {
    return (ntohl(reinterpret_cast<const sockaddr_in*>(address)->sin_addr.s_addr) >> 24) == 127;
  }
  return IN6_IS_ADDR_LOOPBACK(&reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr);
}

int MtuOf(const std::string& interface) {
  const Fd probe(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request{};
  std::strncpy(request.ifr_name, interface.c_str(), IFNAMSIZ - 1);
  return ioctl(probe.get(), SIOCGIFMTU, &request) == 0 ? request.ifr_mtu : 0;
}

// Waits until `events` hold on `fd`; false at the deadline.
bool Ready(int fd, short events) {
  pollfd entry{fd, events, 0};
  return poll(&entry, 1, kLoopbackMs) == 1;
}

// Sends a byte round a connection of our own. Returns what went wrong, or nothing.
std::string LoopbackTrouble() {
  const Fd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const Fd client(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  auto* const generic = reinterpret_cast<sockaddr*>(&address);
  if (!listener.open() || !client.open()) return "no socket: " + Reason(errno);
  if (bind(listener.get(), generic, length) != 0 || listen(listener.get(), 1) != 0 ||
      getsockname(listener.get(), generic, &length) != 0) {
    return "cannot listen on 127.0.0.1: " + Reason(errno);
  }
  if (connect(client.get(), generic, length) != 0 && errno != EINPROGRESS) {
    return "cannot connect to 127.0.0.1: " + Reason(errno);
  }
  if (!Ready(listener.get(), POLLIN)) return "a connection to 127.0.0.1 does not arrive";
  const Fd server(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!server.open()) return "cannot accept on 127.0.0.1: " + Reason(errno);

  char sent = 'g', received = 0;
  const auto pass = [&](int from, int to) {
    received = 0;
    return Ready(from, POLLOUT) && send(from, &sent, 1, MSG_NOSIGNAL) == 1 && Ready(to, POLLIN) &&
           recv(to, &received, 1, 0) == 1 && received == sent;
  };
  if (!pass(client.get(), server.get()) || !pass(server.get(), client.get())) {
    return "a byte sent to 127.0.0.1 does not arrive";
  }
  return "";
}

// The addresses of `name`, or how the look-up failed.
struct Resolved {
  int error = 0;
  std::string addresses;
  bool only_loopback = true;
};

Resolved Resolve(const std::string& name) {
  Resolved resolved;
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  resolved.error = getaddrinfo(name.c_str(), nullptr, &hints, &list);
  if (resolved.error != 0) return resolved;
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(list, &freeaddrinfo);
  for (const addrinfo* entry = list; entry != nullptr; entry = entry->ai_next) {
    resolved.addresses +=
        fmt::format("{}{}", resolved.addresses.empty() ? "" : ", ", Numeric(entry->ai_addr));
    resolved.only_loopback = resolved.only_loopback && IsLoopback(entry->ai_addr);
  }
  return resolved;
}

}  // namespace

Findings ProbeInterfaces(const ProbeOptions&) {
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) {
    return {{"interfaces", Verdict::kProblem, "cannot be listed: " + Reason(errno), ""}};
  }
  const std::unique_ptr<ifaddrs, decltype(&freeifaddrs)> owner(list, &freeifaddrs);
  std::map<std::string, std::string> addresses;
  bool reachable = false;
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
    const bool up = (entry->ifa_flags & IFF_UP) != 0 && (entry->ifa_flags & IFF_RUNNING) != 0;
    if (!up || entry->ifa_addr == nullptr ||
        (entry->ifa_addr->sa_family != AF_INET && entry->ifa_addr->sa_family != AF_INET6)) {
      continue;
    }
    std::string& text = addresses[entry->ifa_name];
    text += fmt::format("{}{}", text.empty() ? "" : ", ", Numeric(entry->ifa_addr));
    reachable = reachable || (entry->ifa_flags & IFF_LOOPBACK) == 0;
  }
  Findings findings;
  for (const auto& [name, text] : addresses) {
    findings.push_back(
        {"interface " + name, Verdict::kOk, fmt::format("MTU {}, {}", MtuOf(name), text)});
  }
  if (!reachable) {
    findings.push_back({"interfaces", Verdict::kNote, "no address but loopback",
                        "ranks on other machines cannot reach this one; bring a link up"});
  }
  return findings;
}

Findings ProbeCongestion(const ProbeOptions& options) {
  const std::string folder = options.proc + "/sys/net/ipv4/";
  const std::string current = FirstLine(folder + "tcp_congestion_control");
  if (current.empty()) return {};
  return {{"tcp congestion", Verdict::kOk,
           fmt::format("{} (available: {})", current,
                       FirstLine(folder + "tcp_available_congestion_control"))}};
}

Findings ProbePort(const ProbeOptions& options) {
  const std::string subject = fmt::format("port {}", options.port);
  // Dual-stack where there is IPv6, as the rendezvous listens.
  Fd listener(socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_storage address{};
  socklen_t length = sizeof(sockaddr_in6);
  const int on = 1, off = 0;
  if (listener.open()) {
    auto& ipv6 = reinterpret_cast<sockaddr_in6&>(address);
    ipv6.sin6_family = AF_INET6;
    ipv6.sin6_port = htons(static_cast<uint16_t>(options.port));
    setsockopt(listener.get(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
  } else {
    listener = Fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    auto& ipv4 = reinterpret_cast<sockaddr_in&>(address);
    ipv4.sin_family = AF_INET;
    ipv4.sin_port = htons(static_cast<uint16_t>(options.port));
    length = sizeof(sockaddr_in);
  }
  setsockopt(listener.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), length) == 0 &&
      listen(listener.get(), 1) == 0) {
    return {{subject, Verdict::kOk, "free for a rendezvous"}};
  }
  const int error = errno;
  const char* remedy = error == EADDRINUSE ? "`ss -ltnp` shows who has it; else take another --port"
                       : error == EACCES   ? "ports below 1024 are root's; take a higher --port"
                                           : "take another --port";
  return {{subject, Verdict::kProblem, "cannot be listened on: " + Reason(error), remedy}};
}

Findings ProbeLoopback(const ProbeOptions&) {
  const std::string trouble = LoopbackTrouble();
  if (trouble.empty()) return {{"loopback", Verdict::kOk, "a TCP round trip to 127.0.0.1 works"}};
  return {{"loopback", Verdict::kProblem, trouble, "`ip link set lo up`; look at firewall rules"}};
}

Findings ProbeHostName(const ProbeOptions&) {
  std::array<char, 256> buffer{};
  if (gethostname(buffer.data(), buffer.size() - 1) != 0) return {};
  const std::string name = buffer.data();
  // The resolver has no deadline of its own: a thread that is left behind when it takes too long.
  std::packaged_task<Resolved()> task([name] { return Resolve(name); });
  std::future<Resolved> answer = task.get_future();
  std::thread(std::move(task)).detach();
  constexpr const char* kRemedy = "give other machines an address, or add the name to /etc/hosts";
  if (answer.wait_for(kNameWait) != std::future_status::ready) {
    return {
        {"host name", Verdict::kNote, fmt::format("{} does not resolve in 3 s", name), kRemedy}};
  }
  const Resolved resolved = answer.get();
  if (resolved.error != 0) {
    return {{"host name", Verdict::kNote,
             fmt::format("{} does not resolve: {}", name, gai_strerror(resolved.error)), kRemedy}};
  }
  Finding finding{"host name", Verdict::kOk, fmt::format("{} is {}", name, resolved.addresses)};
  if (resolved.only_loopback) {
    finding.verdict = Verdict::kNote;
    finding.remedy = "only this machine reaches that; give other machines an address";
  }
  return {finding};
}

}  // namespace gradwire::cli
