// The transport over RDMA: one device, links to peers, one completion queue for all of them.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "transport/bootstrap/world.h"
#include "transport/rdma/connection.h"
#include "transport/rdma/hw_counters.h"
#include "transport/rdma/interface.h"
#include "transport/rdma/link.h"
#include "transport/rdma/region_cache.h"
#include "transport/rdma/shared_receives.h"
#include "transport/rdma/verbs.h"
#include "transport/transport.h"
#include "transport/waker.h"

namespace gradwire::rdma {

class RdmaTransport : public Transport {
 public:
  // The port that Create would use; an error says what is missing.
  static absl::StatusOr<PortChoice> FindPort(const World& world, const Settings& settings);

  // Opens the port's device. Peers are asked for nothing before OpenLink.
  static absl::StatusOr<std::unique_ptr<RdmaTransport>> Create(World& world,
                                                               const Settings& settings,
                                                               std::string_view name);
  // Waits until the peers have what was written and have been told that nothing follows (bounded by
  // kPartingGrace), then destroys the queue pairs.
  ~RdmaTransport() override;

  std::string name() const override { return "rdma"; }
  std::string description() const override { return port_.Describe(); }
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
  enum class Mode : uint8_t { kAdaptive, kPolling, kChannel };
  struct Place {
    RdmaLink* link;
    Lane* lane;
  };

  RdmaTransport(World& world, const Settings& settings, PortChoice port, std::string_view name);
  absl::Status Start();

  // --- Setting up (setup.cc) ---
  absl::StatusOr<std::unique_ptr<End>> Prepare(int peer, std::string who,
                                               const LinkOptions& options);
  // Makes the queue pairs of `link` in INIT, with receives posted; fills in what the peer must
  // know.
  absl::Status AddLanes(RdmaLink& link, ConnectionFacts& mine);
  // Brings the queue pairs of `end` to RTS.
  absl::Status Finish(End& end, const ConnectionFacts& theirs);
  // From here on its completions are looked at.
  RdmaLink* Keep(End& end);
  // Frees what a link shares with others, and the link.
  void Discard(std::unique_ptr<RdmaLink> link);
  absl::StatusOr<RdmaLink*> Connect(int peer, Deadline deadline);
  // Room for so many more completions.
  absl::Status Reserve(int completions);
  // Completions that a link of this window can have waiting.
  int CompletionsOf(int window) const;
  // Receives per lane: see the comment at the definition.
  int ReceiveDepth(int window) const;
  // Until every link is drained, the job has failed, or `deadline`.
  void Drain(Deadline deadline);

  // --- Data path (transport.cc) ---
  int Collect(std::span<Completion> out);
  // Takes completions off the queue and hands them to their links; returns how many.
  absl::StatusOr<int> TakeCompletions();
  // What happened beside the data: a failed world, a wanted diagnosis, an event of the device.
  absl::Status CheckEvents();
  // Sleeps until a completion or one of those, at most until `deadline`.
  absl::Status Block(Deadline deadline);
  // The device or the port is gone: ends every link.
  void Fail(absl::Status reason);

  World& world_;
  const Settings settings_;
  const Mode mode_;
  const std::chrono::microseconds spin_;
  const bool yield_;  // between polls: ranks share cores
  const PortChoice port_;
  const ConnectionOptions connection_;
  const std::string name_;
  TransportCounters counters_;
  absl::Status error_;  // first failure of the device; OK while it works

  // In this order, so that children go before their parents.
  std::optional<Device> device_;
  mutable std::optional<HwCounters> hw_counters_;  // none: the device is urxe's
  std::optional<ProtectionDomain> domain_;
  std::optional<RegionCache> regions_;
  std::optional<CompletionQueue> completions_;
  std::optional<SharedReceives> shared_receives_;  // none when every queue pair has its own
  Waker waker_;

  LinkQueues queues_;
  int reserved_ = 0;  // completions that the links there are can have waiting
  std::unordered_map<const Link*, std::unique_ptr<RdmaLink>> links_;
  std::vector<RdmaLink*> by_rank_;              // null until opened
  std::unordered_map<uint32_t, Place> places_;  // by queue pair number
  std::array<ibv_wc, 32> batch_;
  bool armed_ = false;  // the channel has been asked for an event that was not taken yet
};

}  // namespace gradwire::rdma
