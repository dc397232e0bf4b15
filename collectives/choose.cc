#include <array>

#include "collectives/algorithms.h"

namespace gradwire {
namespace {

// Measured crossing points in bytes; docs/collectives.md has the figures and the command.
constexpr size_t kPairBytes = 512 << 10;        // two ranks: doubling sends what a ring does
constexpr size_t kDoublingBytes = 32 << 10;     // a core per rank
constexpr size_t kTreeBytesPerRank = 64 << 10;  // ranks share cores: the more, the later

constexpr std::array<std::string_view, 3> kNames = {"ring", "recursive_doubling", "tree"};

}  // namespace

std::string_view NameOf(AllReduceAlgorithm algorithm) {
  return kNames[static_cast<size_t>(algorithm)];
}

AllReduceAlgorithm ChooseAllReduce(const Settings& settings, int world_size, bool oversubscribed,
                                   size_t bytes) {
  for (size_t i = 0; i < kNames.size(); ++i) {
    if (settings.all_reduce == kNames[i]) return static_cast<AllReduceAlgorithm>(i);
  }
  const bool tree = oversubscribed && world_size > 2;
  size_t latency_bytes = static_cast<size_t>(settings.latency_bytes);
  if (settings.latency_bytes < 0) {
    latency_bytes = tree              ? kTreeBytesPerRank * static_cast<size_t>(world_size)
                    : world_size == 2 ? kPairBytes
                                      : kDoublingBytes;
  }
  if (bytes > latency_bytes) return AllReduceAlgorithm::kRing;
  return tree ? AllReduceAlgorithm::kTree : AllReduceAlgorithm::kRecursiveDoubling;
}

}  // namespace gradwire
