// A link over TCP: its lanes, and which write goes over which.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "transport/ordered_link.h"
#include "transport/tcp/lane.h"

namespace gradwire::tcp {

class TcpLink : public OrderedLink {
 public:
  // `who` describes the peer in messages; `slots` is this side's memory for its writes.
  TcpLink(int peer, std::string who, int window, int lanes, Region slots,
          TransportCounters& counters);

  absl::Status Write(const RegionSpan& from, const RemoteSpan& to, uint32_t tag) override;
  absl::Status Settle() override { return absl::OkStatus(); }  // every write is reported
  absl::Status Release(int count) override;

  // --- Setting up ---
  bool HasLane(int lane) const { return lanes_[static_cast<size_t>(lane)] != nullptr; }
  // `slots_at_peer` is the same on all lanes of a link; ProtocolError otherwise.
  absl::Status AddLane(int lane, FileDescriptor fd, const MemoryGrant& slots_at_peer);
  bool open() const { return open_lanes_ == static_cast<int>(lanes_.size()); }

  // --- Progress, for the transport ---
  std::vector<std::unique_ptr<Lane>>& lanes() { return lanes_; }
  // Sends what waits on `lane`.
  void Send(Lane& lane);
  // Receives on `lane` until nothing is left, `room` frames came or a large write has arrived.
  void Receive(Lane& lane, RegionTable& regions, int room);

 private:
  void UpdateWritten();

  std::vector<std::unique_ptr<Lane>> lanes_;
  int open_lanes_ = 0;
};

}  // namespace gradwire::tcp
