// A link over TCP: lanes, credits and the order of arrivals.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "transport/tcp/lane.h"
#include "transport/transport.h"

namespace gradwire::tcp {

class TcpLink : public Link {
 public:
  // `who` describes the peer in messages; `slots` is this side's memory for its writes.
  TcpLink(int peer, std::string who, int window, int lanes, Region slots,
          TransportCounters& counters);

  absl::Status Write(const RegionSpan& from, const RemoteSpan& to, uint32_t tag) override;
  absl::Status Release(int count) override;

  // --- Setting up ---
  const MemoryGrant& slot_grant() const { return slot_region_.grant(); }
  bool HasLane(int lane) const { return lanes_[static_cast<size_t>(lane)] != nullptr; }
  // `slots_at_peer` is the same on all lanes of a link; ProtocolError otherwise.
  absl::Status AddLane(int lane, FileDescriptor fd, const MemoryGrant& slots_at_peer);
  bool open() const { return open_lanes_ == static_cast<int>(lanes_.size()); }

  // --- Progress, for the transport ---
  std::vector<std::unique_ptr<Lane>>& lanes() { return lanes_; }
  // Sends what waits on `lane`.
  void Send(Lane& lane);
  // Receives on `lane` until nothing is left, `out` could be filled or a large write has arrived.
  void Receive(Lane& lane, RegionTable& regions, int room);
  // Moves what is due to `out`; returns how many.
  int Deliver(std::span<Completion> out);
  // Whether Deliver would have something.
  bool due() const { return due_; }
  // Ends the link; the first reason stays.
  void Close(absl::Status reason);
  bool closed() const { return !status_.ok(); }

 private:
  struct Arrival {
    bool present = false;
    uint32_t tag = 0;
    uint32_t length = 0;
  };

  absl::Status Accept(const FrameHeader& header);
  void UpdateWritten();
  Arrival& arrival(uint64_t sequence) {
    return arrivals_[static_cast<size_t>(sequence % static_cast<uint64_t>(window_))];
  }

  const std::string who_;
  Region slot_region_;
  TransportCounters& counters_;
  std::vector<std::unique_ptr<Lane>> lanes_;
  int open_lanes_ = 0;

  // Arrivals: released_ <= delivered_ <= number of the next expected. A peer's write must have a
  // number below released_ + window_: that is what its credits stand for.
  std::vector<Arrival> arrivals_;  // by sequence modulo window_
  uint64_t delivered_ = 0;
  uint64_t released_ = 0;
  int owed_ = 0;  // released, but the peer has not been told: += in Release, -> 0 when sent

  uint64_t written_told_ = 0;  // last written_ that a completion reported
  bool credits_grew_ = false;
  bool closed_told_ = false;
  bool due_ = false;
};

}  // namespace gradwire::tcp
