#include "transport/rdma/roce_port.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <sstream>
#include <vector>

#include "transport/status.h"

namespace gradwire::rdma {
namespace {

// A bound socket as the kernel lists it.
struct Bound {
  Gid address = {};
  int port = 0;
  unsigned int uid = 0;
};

// "0100007F:12B7": each word of the address as the machine that wrote it orders its bytes.
bool ParseLocal(const std::string& text, Bound& bound) {
  const size_t colon = text.find(':');
  if (colon != 8 && colon != 32) return false;
  if (std::sscanf(text.c_str() + colon + 1, "%x", reinterpret_cast<unsigned int*>(&bound.port)) !=
      1) {
    return false;
  }
  if (colon == 8) bound.address[10] = bound.address[11] = 0xff;
  uint8_t* out = bound.address.data() + (colon == 8 ? 12 : 0);
  for (size_t i = 0; i < colon; i += 8, out += 4) {
    unsigned int word = 0;
    if (std::sscanf(text.substr(i, 8).c_str(), "%x", &word) != 1) return false;
    std::memcpy(out, &word, sizeof(word));
  }
  return true;
}

// Rows of one table: sl local remote st queues timer retransmits uid ...
void Append(const std::string& path, std::vector<Bound>& all) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);  // the heading
  while (std::getline(file, line)) {
    std::istringstream words(line);
    std::string slot, local, remote, state, queues, timer, retransmits;
    Bound bound;
    if (words >> slot >> local >> remote >> state >> queues >> timer >> retransmits >> bound.uid &&
        ParseLocal(local, bound)) {
      all.push_back(bound);
    }
  }
}

// 0.0.0.0 or ::.
bool IsWildcard(const Gid& address) {
  const auto begin = address.begin() + (IsIpv4Mapped(address) ? 12 : 0);
  return std::all_of(begin, address.end(), [](uint8_t byte) { return byte == 0; });
}

}  // namespace

std::string RocePortHolder(const std::string& proc, const Gid& address, unsigned int uid) {
  std::vector<Bound> sockets;
  Append(proc + "/net/udp", sockets);
  Append(proc + "/net/udp6", sockets);
  for (const Bound& bound : sockets) {
    if (bound.port != kRoceUdpPort) continue;
    // rdma_rxe binds every address; user-space devices bind one.
    if (IsWildcard(bound.address)) {
      return fmt::format(
          "UDP port {} is taken on every address, as the kernel's rdma_rxe does once it is loaded; "
          "use an rxe device (rdma link add), or `modprobe -r rdma_rxe` as root",
          kRoceUdpPort);
    }
    if (bound.address == address && bound.uid != uid) {
      return fmt::format(
          "UDP port {} of {} belongs to a process of user {}, and only processes of one user share "
          "it; take another interface (URXE_INTERFACES) or wait for that process to end",
          kRoceUdpPort, FormatGid(address), bound.uid);
    }
  }
  return "";
}

}  // namespace gradwire::rdma
