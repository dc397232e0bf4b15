#include "bench/first_ranks.h"

#include <fmt/format.h>

#include <numeric>
#include <utility>

namespace gradwire::bench {
namespace {

class PartOfWorld final : public World {
 public:
  PartOfWorld(World& whole, int count) : whole_(whole), all_(static_cast<size_t>(count)) {
    std::iota(all_.begin(), all_.end(), 0);
    std::vector<PeerInfo> peers;
    for (const int rank : all_) peers.push_back(whole.peer(rank));
    SetPeers(whole.rank(), std::move(peers));
    SetLocalAddress(whole.local_address());
  }

  absl::StatusOr<std::vector<std::string>> AllGather(std::string_view name, std::string value,
                                                     const std::vector<int>& members,
                                                     std::chrono::milliseconds timeout) override {
    return whole_.AllGather(Own(name), std::move(value), members.empty() ? all_ : members, timeout);
  }
  absl::StatusOr<std::vector<ConnectionFacts>> ExchangeFacts(
      std::string_view name, const ConnectionFacts& facts, const std::vector<int>& members,
      std::chrono::milliseconds timeout) override {
    return whole_.ExchangeFacts(Own(name), facts, members.empty() ? all_ : members, timeout);
  }
  absl::Status Barrier(std::string_view name, std::chrono::milliseconds timeout) override {
    return AllGather(name, "", all_, timeout).status();
  }
  absl::Status failure() const override { return whole_.failure(); }
  int failure_fd() const override { return whole_.failure_fd(); }
  absl::Status ExplainLinkFailure(absl::Status suspicion,
                                  std::chrono::milliseconds grace) override {
    return whole_.ExplainLinkFailure(std::move(suspicion), grace);
  }
  absl::StatusOr<Diagnosis> Diagnose(const OperationReport& mine,
                                     std::string_view reason) override {
    GW_ASSIGN_OR_RETURN(Diagnosis diagnosis, whole_.Diagnose(mine, reason));
    if (diagnosis.rows.size() > all_.size()) diagnosis.rows.resize(all_.size());
    return diagnosis;
  }
  bool diagnosis_wanted() const override { return whole_.diagnosis_wanted(); }
  absl::Status Leave(std::string_view) override { return absl::OkStatus(); }

 private:
  static std::string Own(std::string_view name) { return fmt::format("first ranks/{}", name); }

  World& whole_;
  std::vector<int> all_;
};

}  // namespace

std::unique_ptr<World> FirstRanks(World& world, int count) {
  return std::make_unique<PartOfWorld>(world, count);
}

}  // namespace gradwire::bench
