// One socket of a link: a queue of frames to send and the state of the frame being received. All
// methods belong to the transport's data-path thread.
#pragma once

#include <sys/socket.h>

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "transport/tcp/frame.h"
#include "transport/tcp/region_table.h"
#include "transport/tcp/socket.h"
#include "transport/transport.h"

namespace gradwire::tcp {

class TcpLink;

class Lane {
 public:
  // `most_payload`: bytes of a slice; `queue`: the most frames that can ever wait to be sent.
  Lane(FileDescriptor fd, size_t most_payload, int queue);

  int fd() const { return fd_.get(); }

  // --- Sending ---
  // Appends a frame; the payload stays the caller's until the frame is sent.
  void Enqueue(const FrameHeader& header, const std::byte* payload, uint64_t sequence);
  bool sending() const { return count_ > 0; }
  // Hands the kernel as much as it takes. `counters` learn of calls and bytes copied.
  absl::Status Send(TransportCounters& counters);
  // Forgets what the kernel did not take.
  void DropUnsent() { count_ = 0; }
  // What has come can still be received, and then the end.
  void ShutDown() { shutdown(fd_.get(), SHUT_RDWR); }
  // Number of the oldest data frame that is not handed over yet; none when all are.
  std::optional<uint64_t> oldest_unsent() const;

  // --- Receiving ---
  enum class Received { kFrame, kNothing, kEnd };
  // Reads until one frame is complete (then `header` describes it and its payload is in place), the
  // socket is empty or the peer has closed between two frames. ProtocolError for a frame that was
  // not granted, Unavailable when the connection breaks.
  absl::StatusOr<Received> Receive(RegionTable& regions, FrameHeader& header,
                                   TransportCounters& counters);

  // A frame may be complete although the socket is empty.
  bool staged() const { return stage_end_ - stage_begin_ >= FrameHeader::kBytes; }

  // The link it belongs to; epoll reports lanes.
  TcpLink* link = nullptr;
  // Whether epoll is to report room for sending; kept here to save calls that change nothing.
  bool armed_for_sending = false;
  // Nothing more can be received.
  bool ended = false;

 private:
  struct Outgoing {
    FrameHeader::Wire header;
    const std::byte* payload = nullptr;
    uint32_t length = 0;
    bool data = false;      // false: credits alone
    uint64_t sequence = 0;  // of a data frame
  };
  // Small frames are read whole through this buffer, several per call; of a large one only the
  // header passes through it.
  static constexpr size_t kStage = 8192;

  // The socket took no more; noted once until it does.
  absl::Status Blocked();
  Outgoing& at(int index) { return queue_[static_cast<size_t>((head_ + index) % capacity_)]; }
  const Outgoing& at(int index) const {
    return queue_[static_cast<size_t>((head_ + index) % capacity_)];
  }

  FileDescriptor fd_;
  const size_t most_payload_;

  // Ring of frames to send: count_ from head_; sent_ bytes of the first are gone.
  const int capacity_;
  std::vector<Outgoing> queue_;
  int head_ = 0;
  int count_ = 0;
  size_t sent_ = 0;
  bool blocked_ = false;

  // Bytes [stage_begin_, stage_end_) are read but not consumed.
  std::array<std::byte, kStage> stage_;
  size_t stage_begin_ = 0;
  size_t stage_end_ = 0;
  size_t stage_want_ = kStage;          // bytes to read ahead: fewer behind a large frame
  bool drained_ = false;                // the last read got less than it asked for
  std::optional<FrameHeader> current_;  // header is known, payload is under way
  size_t placed_ = 0;                   // bytes of its payload in place
};

}  // namespace gradwire::tcp
