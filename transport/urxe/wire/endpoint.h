// One address of this process on UDP port 4791: sends bursts of packets with segmentation offload
// (UDP_SEGMENT), receives them joined (UDP_GRO), makes and checks ICRCs. All processes of a user on
// an address share the port (SO_REUSEPORT); steering.h says how a packet finds its process.
//
// The engine polls fd() for each endpoint and the process slot's two descriptors, and calls
// Receive, TakeMail (mailroom.h) and AnswerCallers when they are readable, and RunTimers when it
// says so.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "transport/urxe/wire/burst.h"
#include "transport/urxe/wire/icrc.h"
#include "transport/urxe/wire/packet.h"
#include "transport/urxe/wire/steering.h"

namespace urxe {

// A packet that arrived with a good ICRC (or rightfully without). Valid until the next Receive or
// TakeRelayed.
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
  // namespace, or another user has the port). `slot` must outlive it.
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
  // padding and ICRC are added (header.pad and kHintNoIcrc are set here). The pieces' memory must
  // stay as it is until Flush. A burst goes to one process: another destination, a packet larger
  // than the first or a full burst flushes by itself.
  void Queue(const Destination& destination, Header& header, std::span<const iovec> payload,
             size_t payload_size, bool with_icrc) {
    burst_.Queue(destination, header, payload, payload_size, with_icrc);
  }
  // Sends what is queued. A full socket buffer or a lost route loses packets, as a wire would.
  void Flush() { burst_.Flush(); }

  // Receives one datagram of joined packets, if any waits. Returns the number of packets taken (bad
  // ones included), 0 when nothing waits. Arrivals() are the good ones, in order. Never blocks.
  int Receive();
  std::span<const Arrival> Arrivals() const { return arrivals_; }
  // Takes a datagram that another process received and relayed (TakeMail calls it); fills
  // Arrivals() likewise. `flow` and the bytes come from a process of this user.
  void TakeRelayed(const FlowKey& flow, uint8_t traffic_class, size_t segment_size,
                   std::span<const std::byte> datagram);
  // Takes an answer to a probe of steering (TakeMail calls it).
  void TakeAnswer(std::span<const std::byte> answer);

  // What is due at `now`: packets held back by faults are sent, steering goes on. Returns when to
  // call again, in ns of CLOCK_MONOTONIC; UINT64_MAX: not before something arrives.
  uint64_t RunTimers(uint64_t now);

 private:
  // A datagram of joined packets, each of `segment_size` bytes but the last.
  struct Datagram {
    FlowKey flow;
    uint8_t traffic_class = 0;
    size_t segment_size = 0;
    std::span<const std::byte> bytes;
  };

  Endpoint(int fd, const sockaddr_storage& local, socklen_t local_length, const Gid& address,
           unsigned interface_index, ProcessSlot& slot);
  void Take(const Datagram& datagram, bool relayed);
  void TakePacket(const Datagram& datagram, std::span<const std::byte> packet, const Header& header,
                  std::span<const std::byte> payload, uint16_t& identification);
  void Capture(const Datagram& datagram, std::span<const std::byte> packet,
               uint16_t identification) const;
  // Whether the other process took them.
  bool Relay(const Datagram& datagram, int slot, std::span<const std::byte> bytes);

  const int fd_;
  const Gid address_;
  const unsigned interface_index_;
  ProcessSlot& slot_;
  const bool icrc_required_;
  PacketCapture* const capture_;
  Burst burst_;
  Steering steering_;
  std::vector<Arrival> arrivals_;
  std::unique_ptr<std::byte[]> buffer_;  // what arrivals_ point into
};

}  // namespace urxe
