// Writes every packet sent and received to a pcap file (URXE_PCAP), so that Wireshark and tshark
// show them. The IP and UDP headers, which a UDP socket does not show, are made up with what the
// ICRC says about them.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <ctime>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "transport/urxe/wire/icrc.h"

namespace urxe {

// What the headers before the packet say.
struct CapturedHeaders {
  FlowKey flow;
  uint16_t identification = 0;  // IPv4
  uint8_t traffic_class = 0;
  uint8_t hop_limit = 64;
};

// All functions may be called from any thread.
class PacketCapture {
 public:
  // That of this process; null when none is wanted or its file cannot be made, which a line on
  // stderr then said.
  static PacketCapture* OfProcess();

  // Starts a file. %p in `path` becomes the process id. Null and errno.
  static std::unique_ptr<PacketCapture> Create(std::string path);
  ~PacketCapture();
  PacketCapture(const PacketCapture&) = delete;
  PacketCapture& operator=(const PacketCapture&) = delete;

  // Appends the datagram (BTH to ICRC) that `pieces` hold.
  void Record(const CapturedHeaders& headers, std::span<const iovec> pieces);

  // Writes out what was recorded a while ago. Returns when to be called again, in ns of
  // CLOCK_MONOTONIC; UINT64_MAX: after the next Record.
  uint64_t Run(uint64_t now);
  void Flush();
  // Writes the rest and closes the file; what is recorded later is forgotten.
  void Finish();

 private:
  PacketCapture(int fd, std::string path);
  void Write();  // under lock_

  const std::string path_;
  const pid_t owner_;  // a forked child has a copy of what is not written yet
  std::mutex lock_;
  int fd_;  // -1 once writing failed or the end came
  std::vector<std::byte> pending_;
  uint64_t due_ = UINT64_MAX;
};

}  // namespace urxe
