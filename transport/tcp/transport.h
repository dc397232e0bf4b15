// The transport over TCP: one listening socket, links to peers, one epoll for all of them.
#pragma once

#include <array>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "transport/bootstrap/world.h"
#include "transport/tcp/connection.h"
#include "transport/tcp/interface.h"
#include "transport/tcp/link.h"
#include "transport/tcp/region_table.h"
#include "transport/transport.h"

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
  absl::StatusOr<std::unique_ptr<LinkEnd>> PrepareLink(int, std::string,
                                                       const LinkOptions&) override {
    return absl::UnimplementedError("PrepareLink");
  }
  absl::StatusOr<Link*> FinishLink(std::unique_ptr<LinkEnd>, const ConnectionFacts&, Role,
                                   Deadline) override {
    return absl::UnimplementedError("FinishLink");
  }
  void CloseLink(Link*) override {}
  void Wake() override {}
  absl::Status Flush() override;
  absl::StatusOr<int> Poll(std::span<Completion> out) override;
  absl::StatusOr<int> Wait(std::span<Completion> out, Deadline deadline) override;
  TransportCounters counters() const override { return counters_; }

 private:
  struct PendingHandshake;
  // What an epoll event is about.
  struct Source {
    enum class Kind : uint8_t { kListener, kFailure, kHandshake, kLane };
    Kind kind = Kind::kListener;
    TcpLink* link = nullptr;
    int lane = 0;
    PendingHandshake* handshake = nullptr;
  };
  struct PendingHandshake {
    Handshake handshake;
    Source source;
  };

  TcpTransport(World& world, const Settings& settings);
  absl::Status Start(std::string_view name, std::string_view why);

  // --- Setting up (setup.cc) ---
  absl::StatusOr<TcpLink*> MakeLink(int peer);
  absl::Status Connect(int peer, Deadline deadline);
  void AcceptConnections();
  // Moves one handshake on; true when it is over, well or not.
  bool Step(PendingHandshake& pending);
  absl::Status Greet(Handshake& handshake);
  absl::Status Adopt(Handshake& handshake);
  // Handles connections and failure notices that are due. Aborted when the world wants us to stop.
  absl::Status ServiceControl(int timeout_ms);
  std::string LinkKeyFor(int peer) const;
  static absl::Status Watch(const FileDescriptor& epoll, int fd, Source* source);

  // --- Data path (transport.cc) ---
  int Collect(std::span<Completion> out);
  void Progress(TcpLink& link, Lane& lane, int room);
  // Sends what waits and takes what was read ahead.
  void ProgressKnown(int room);
  // Serves the sockets that epoll reports within `timeout_ms`.
  absl::Status ProgressReady(int room, int timeout_ms);
  void ArmForSending();

  World& world_;
  const Settings settings_;
  const std::chrono::microseconds spin_;
  const bool yield_;  // between polls: ranks share cores
  std::string description_;
  RegionTable regions_;
  TransportCounters counters_;
  std::vector<ConnectionFacts> facts_;  // by rank

  // Two epolls, since opening a link must not be woken by data: the control one (listener,
  // handshakes, failure) is itself watched by the data one (lanes).
  FileDescriptor control_epoll_;
  FileDescriptor data_epoll_;
  FileDescriptor listener_;
  Source listener_source_{Source::Kind::kListener};
  Source failure_source_{Source::Kind::kFailure};
  std::list<PendingHandshake> handshakes_;
  absl::Status connect_error_;  // of the link being opened

  std::vector<std::unique_ptr<TcpLink>> links_;  // by rank, null until opened
  std::vector<TcpLink*> open_links_;
  std::vector<std::unique_ptr<Source>> lane_sources_;
  int open_lanes_ = 0;
};

}  // namespace gradwire::tcp
