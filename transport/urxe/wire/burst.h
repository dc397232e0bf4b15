// Packets on their way out of one UDP socket: headers and ICRCs are made here, and up to
// kMaxSegments packets to one destination leave in one system call by segmentation offload.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "transport/urxe/wire/capture.h"
#include "transport/urxe/wire/destination.h"
#include "transport/urxe/wire/faults.h"
#include "transport/urxe/wire/icrc.h"
#include "transport/urxe/wire/packet.h"

namespace urxe {

// A UDP datagram over IPv4 holds no more; that of IPv6 would hold 20 bytes more.
inline constexpr size_t kMaxDatagramSize = 65507;

class Burst {
 public:
  explicit Burst(int fd);
  Burst(const Burst&) = delete;
  Burst& operator=(const Burst&) = delete;

  // As Endpoint's functions of the same names.
  void Queue(const Destination& destination, Header& header, std::span<const iovec> payload,
             size_t payload_size, bool with_icrc);
  void Flush();
  // Sends packets that faults held back until `now`. When the next one is due; UINT64_MAX: none is.
  uint64_t SendHeld(uint64_t now) { return faults_.Active() ? faults_.Release(now) : UINT64_MAX; }

 private:
  // The pieces of the packets that wait, in order. Headers, ICRCs and small payloads lie in
  // staging_; what adjoins there is one piece.
  static constexpr size_t kMaxPieces = 256;
  static constexpr size_t kStagingSize = 1 << 16;  // even if every payload is copied

  bool Fits(const Destination& destination, const Header& header, size_t size, size_t pieces) const;
  void Append(const void* bytes, size_t size);
  std::byte* Stage(const void* bytes, size_t size);
  void Capture(const Destination& destination, uint16_t identification,
               std::span<const iovec> pieces) const;
  // Hands the packet that waits, copied, to its fate.
  void Suffer();
  void SendOne(const Destination& destination, std::span<const std::byte> datagram);
  // One system call for the burst, or one packet at a time when offload is refused.
  void Send();
  void SendSingly();

  const int fd_;
  PacketCapture* const capture_;
  FaultInjector faults_;
  Fate fate_;                 // of the packet that waits; with a fault it waits alone
  bool segmentation_ = true;  // until the kernel or a device refuses it
  Destination destination_;
  uint32_t slot_ = 0;        // upper byte of the queue pair number that all packets go to
  size_t count_ = 0;         // packets
  size_t segment_size_ = 0;  // bytes of each packet but the last, which may be shorter
  size_t size_ = 0;          // bytes of all
  size_t num_pieces_ = 0;
  size_t staged_ = 0;
  bool closed_ = false;  // the last packet was shorter
  iovec pieces_[kMaxPieces];
  std::unique_ptr<std::byte[]> staging_;
};

}  // namespace urxe
