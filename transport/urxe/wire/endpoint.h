// One address of this process on UDP port 4791: sends bursts of packets with segmentation offload
// (UDP_SEGMENT), receives them joined (UDP_GRO), makes and checks ICRCs. All processes of a user on
// an address share the port (SO_REUSEPORT); steering.h says how a packet finds its process.
#pragma once

#include <netinet/in.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "transport/urxe/wire/icrc.h"
#include "transport/urxe/wire/packet.h"

namespace urxe {

class FaultInjector;
class PacketCapture;
class ProcessSlot;
class Steering;

// Where a queue pair's packets go.
struct Destination {
  sockaddr_storage address = {};
  socklen_t address_length = 0;
  FlowKey flow;
  uint8_t traffic_class = 0;  // TOS of IPv4, traffic class of IPv6
  uint8_t hop_limit = 64;
};

// A packet that arrived with a good ICRC (or rightfully without). Valid until the next Receive.
struct Arrival {
  Header header;
  std::span<const std::byte> payload;
  Gid source = {};
  uint8_t traffic_class = 0;
};

class Endpoint {
 public:
  // Binds port 4791 of `address` and steers packets for `slot`'s queue pairs here. On failure null
  // and errno; `problem` is a line for people (EADDRINUSE: rdma_rxe is loaded in this network
  // namespace, or another user has the port).
  static std::unique_ptr<Endpoint> Open(const Gid& address, unsigned interface_index,
                                        ProcessSlot& slot, std::string& problem);
  ~Endpoint();
  Endpoint(const Endpoint&) = delete;
  Endpoint& operator=(const Endpoint&) = delete;

  int fd() const { return fd_; }
  const Gid& address() const { return address_; }

  // Fills what Queue needs to reach `gid`. 0, or EINVAL when the families differ.
  int Resolve(const Gid& gid, Destination& destination) const;

  // Adds one packet to the burst: headers, then `payload` pieces of `payload_size` bytes in all;
  // padding and ICRC are added (header.pad is set here). The pieces' memory must stay as it is
  // until Flush. A burst goes to one destination: another destination, a packet larger than the
  // first or a full burst flushes by itself.
  void Queue(const Destination& destination, Header& header, std::span<const iovec> payload,
             size_t payload_size, bool with_icrc);
  // Sends what is queued. A full socket buffer or a lost route loses packets, as a wire would.
  void Flush();

  // Receives one datagram of joined packets, if any waits. Returns the number of packets taken (bad
  // ones included), 0 when nothing waits. Arrivals() are the good ones, in order. Never blocks.
  int Receive();
  std::span<const Arrival> Arrivals() const { return arrivals_; }
  // Takes one datagram that another process received and relayed; fills Arrivals() likewise.
  void TakeRelayed(std::span<const std::byte> relayed);

  // Packets held back by delay or reorder faults whose time has come are sent. Returns when the
  // next one is due, in ns of CLOCK_MONOTONIC; UINT64_MAX when none waits.
  uint64_t SendDelayed(uint64_t now);

 private:
  Endpoint() = default;

  int fd_ = -1;
  Gid address_ = {};
  unsigned interface_index_ = 0;
  std::vector<Arrival> arrivals_;
  // The burst being queued, receive buffer, faults, capture, steering: see endpoint.cc.
  struct Burst;
  std::unique_ptr<Burst> burst_;
};

}  // namespace urxe
