// The transport over TCP: one listening socket, links to peers, one epoll for all of them.
#pragma once

#include <array>
#include <list>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "transport/bootstrap/world.h"
#include "transport/tcp/connection.h"
#include "transport/tcp/interface.h"
#include "transport/tcp/link.h"
#include "transport/tcp/region_table.h"
#include "transport/transport.h"
#include "transport/waker.h"

namespace gradwire::tcp {

class TcpTransport : public Transport {
 public:
  // Collective over `world`: exchanges addresses and secrets under `name`. `why` ends the
  // description, when something else might have been expected.
  static absl::StatusOr<std::unique_ptr<TcpTransport>> Create(World& world,
                                                              const Settings& settings,
                                                              std::string_view name,
                                                              std::string_view why = "");
  // Lets the kernel deliver what was written (bounded by kPartingGrace), then closes.
  ~TcpTransport() override;

  std::string name() const override { return "tcp"; }
  std::string description() const override { return description_; }
  absl::StatusOr<Region> Register(Bytes bytes, Access access) override;
  absl::StatusOr<Region> Allocate(size_t bytes, Access access) override;
  absl::StatusOr<Link*> OpenLink(int peer, Deadline deadline) override;
  absl::StatusOr<std::unique_ptr<LinkEnd>> PrepareLink(int peer, std::string who,
                                                       const LinkOptions& options) override;
  absl::StatusOr<Link*> FinishLink(std::unique_ptr<LinkEnd> end, const ConnectionFacts& theirs,
                                   Role role, Deadline deadline) override;
  void CloseLink(Link* link) override;
  absl::Status Flush() override;
  absl::StatusOr<int> Poll(std::span<Completion> out) override;
  absl::StatusOr<int> Wait(std::span<Completion> out, Deadline deadline) override;
  void Wake() override { waker_.Wake(); }
  TransportCounters counters() const override { return counters_; }
  DeviceCounters device_counters() const override;

 private:
  class End;

  TcpTransport(World& world, const Settings& settings);
  absl::Status Start(std::string_view name, std::string_view why);

  // --- Setting up (setup.cc) ---
  // What every end of a link of this shape tells, but for secret and number.
  ConnectionFacts Facts(const LinkOptions& options) const;
  absl::StatusOr<std::unique_ptr<TcpLink>> MakeLink(uint64_t id, int peer, std::string who,
                                                    const LinkOptions& options);
  // From here on greetings of the link's lanes are taken.
  TcpLink* Adopt(std::unique_ptr<TcpLink> link, Role role, std::string key);
  // Frees it and its connections.
  void Forget(TcpLink& link);
  absl::StatusOr<TcpLink*> MakeRankLink(int peer);
  uint64_t RankLinkId(int peer) const;
  std::string RankLinkKey(int peer) const;
  // The rank that may connect to us by a link of this number; -1 when there is none.
  int ConnectingRank(uint64_t number) const;

  // --- Connecting (accept.cc) ---
  absl::Status Connect(TcpLink& link, uint64_t number_at_peer, const TcpEndpoint& endpoint,
                       Deadline deadline);
  // Serves the control plane until all lanes of `link` are there.
  absl::Status AwaitLanes(TcpLink& link, Deadline deadline);
  void AcceptConnections();
  void Drop(Handshake& handshake);
  // Once there is room for handshakes again.
  void ResumeListening();
  // Moves one handshake on; true when it is over, well or not.
  bool Step(Handshake& handshake);
  static void Greet(Handshake& handshake, const TcpLink& link, uint64_t number, Role role);
  absl::Status FinishHandshake(Handshake& handshake);
  // The link that a greeting which came in asks for, its proof checked.
  absl::StatusOr<TcpLink*> LinkFor(const Handshake& handshake, const Greeting& greeting);
  absl::Status Open(TcpLink& link);
  // Handles connections and failure notices that are due. Aborted when the world wants us to stop.
  absl::Status ServiceControl(int timeout_ms);
  static absl::Status Watch(const FileDescriptor& epoll, int fd, void* source);

  // --- Data path (transport.cc) ---
  int Collect(std::span<Completion> out);
  void Progress(Lane& lane, int room);
  // Sends what waits and takes what was read ahead.
  void ProgressKnown(int room);
  // Serves the sockets that epoll reports within `timeout_ms`.
  absl::Status ProgressReady(int room, int timeout_ms);
  // Has epoll report room for sending on lanes that wait for it, and on no others.
  void ArmForSending();
  void Arm(Lane& lane);

  World& world_;
  const Settings settings_;
  const std::chrono::microseconds spin_;
  const bool yield_;  // between polls: ranks share cores
  std::string description_;
  RegionTable regions_;
  TransportCounters counters_;
  mutable DeviceCounters kernel_;       // of the connections there are
  mutable Deadline kernel_read_;        // when that was asked for
  ConnectionFacts mine_;                // what all our facts have in common
  std::vector<ConnectionFacts> facts_;  // by rank

  // Two epolls, since opening a link must not be woken by data: the control one (listener,
  // handshakes, failure) is itself watched by the data one (lanes, waker).
  FileDescriptor control_epoll_;
  FileDescriptor data_epoll_;
  Waker waker_;
  FileDescriptor listener_;
  bool listening_ = true;  // not while as many strangers as we allow are being greeted
  FileDescriptor spare_;   // given up for a moment to turn a connection away when there is no other
  std::list<Handshake> handshakes_;
  Deadline next_sweep_;         // of handshakes whose deadline has passed
  absl::Status connect_error_;  // of the link being connected

  LinkQueues queues_;
  uint64_t next_id_ = 1;
  std::unordered_map<uint64_t, std::unique_ptr<TcpLink>> links_;  // by TcpLink::id()
  std::vector<TcpLink*> open_links_;                              // those with all their lanes
  int open_lanes_ = 0;
  unsigned direct_polls_ = 0;  // since the start
};

}  // namespace gradwire::tcp
