// A link over TCP: its lanes, and which write goes over which.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "transport/ordered_link.h"
#include "transport/tcp/lane.h"

namespace gradwire::tcp {

class TcpLink;

// What all links of a transport share.
struct LinkQueues {
  WorkQueue<OrderedLink> due;
  WorkQueue<TcpLink> busy;  // see TcpLink::QueueIfBusy()
};

class TcpLink : public OrderedLink {
 public:
  // `id` is this side's number for it, `who` describes the peer in messages, `slots` is this side's
  // memory for its writes.
  TcpLink(uint64_t id, int peer, std::string who, const LinkOptions& options, int lanes,
          Region slots, TransportCounters& counters, LinkQueues& queues);

  absl::Status Write(const RegionSpan& from, const RemoteSpan& to, uint32_t tag) override;
  absl::Status Settle() override { return absl::OkStatus(); }  // every write is reported
  absl::Status Release(int count) override;

  // --- Setting up ---
  uint64_t id() const { return id_; }
  // Lanes may be added from now on; greetings are signed with `key`.
  void Expect(Role role, std::string key);
  Role role() const { return role_; }
  const std::string& key() const { return key_; }
  bool HasLane(int lane) const { return lanes_[static_cast<size_t>(lane)] != nullptr; }
  // `slots_at_peer` is the same on all lanes of a link, ProtocolError otherwise.
  absl::Status AddLane(int lane, FileDescriptor fd, const MemoryGrant& slots_at_peer);
  bool open() const { return open_lanes_ == static_cast<int>(lanes_.size()); }

  // --- Progress, for the transport ---
  std::vector<std::unique_ptr<Lane>>& lanes() { return lanes_; }
  const std::vector<std::unique_ptr<Lane>>& lanes() const { return lanes_; }
  // Sends what waits on `lane`.
  void Send(Lane& lane);
  // Receives on `lane` until nothing is left, `room` frames came or a large write has arrived. A
  // peer may part when it has all it needs, and we not yet all that it wrote: the link closes when
  // each of its lanes has been read to its end.
  void Receive(Lane& lane, RegionTable& regions, int room);
  // Puts the link into the queue of the busy while epoll alone does not tell what it has to do: to
  // send, to go on with what was read ahead, or to stop asking for room to send.
  void QueueIfBusy();

 private:
  void UpdateWritten();
  // The peer has parted or is beyond reach: nothing is sent any more. The first reason stays.
  void StopSending(absl::Status reason);
  // A lane failed: besides, all lanes end with what has come.
  void Break(absl::Status reason);
  // Nothing more comes on `lane`.
  void End(Lane& lane);

  const uint64_t id_;
  Role role_ = Role::kConnect;
  std::string key_;
  std::vector<std::unique_ptr<Lane>> lanes_;
  int open_lanes_ = 0;
  int ended_lanes_ = 0;
  absl::Status ending_;  // why nothing is sent any more
  WorkQueue<TcpLink>& busy_queue_;
  WorkQueue<TcpLink>::Entry busy_entry_{this};
};

}  // namespace gradwire::tcp
