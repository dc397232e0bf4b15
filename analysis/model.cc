// Critical paths of our algorithms.
#include "analysis/model.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <initializer_list>

namespace gradwire::analysis {
namespace {

// As in collectives/ring.cc.
constexpr uint64_t kAlignment = 64;
constexpr uint64_t kLeastSlice = 16 << 10;

constexpr int kMaxRanks = 1 << 20;
constexpr uint64_t kMaxBytes = uint64_t{1} << 44;

Terms operator+(const Terms& a, const Terms& b) {
  return {a.messages + b.messages, a.mb + b.mb, a.reduced_mb + b.reduced_mb,
          a.overheads + b.overheads, a.acknowledgements + b.acknowledgements};
}

Terms operator*(double times, const Terms& a) {
  return {times * a.messages, times * a.mb, times * a.reduced_mb, times * a.overheads,
          times * a.acknowledgements};
}

Terms Messages(double count) { return {.messages = count}; }
Terms Link(double bytes) { return {.mb = bytes / 1e6}; }
Terms Reduction(double bytes) { return {.reduced_mb = bytes / 1e6}; }
Terms Overheads(double count) { return {.overheads = count}; }
Terms Acknowledgement() { return {.acknowledgements = 1}; }

Terms Longest(const Costs& costs, std::initializer_list<Terms> of) {
  return *std::max_element(of.begin(), of.end(), [&](const Terms& a, const Terms& b) {
    return a.Microseconds(costs) < b.Microseconds(costs);
  });
}

// A step ends when its slowest resource is through: the link or the processor with all slices of
// the group, or one slice with the way from rank to rank. That is the longest cycle of the events
// "slice i of step t was sent", so the pace at which the ring settles.
Terms Ring(const Case& of, const Costs& costs) {
  const RingPlan plan = PlanRing(of);
  const double steps = of.ranks - 1;  // of either half
  const auto segment = static_cast<double>(plan.segment_bytes);
  if (!costs.overlaps) {
    return Messages(2 * steps * static_cast<double>(plan.slices)) + Link(2 * steps * segment) +
           Reduction(steps * segment);
  }
  const uint64_t groups = (plan.slices + plan.group - 1) / plan.group;
  const auto of_width = [&](uint64_t slices, double bytes, double times, bool last) {
    const auto count = static_cast<double>(slices);
    const double slice = std::min(static_cast<double>(plan.slice_bytes), bytes);
    const Terms way = Messages(1) + Link(slice);
    const Terms reduce = Longest(
        costs, {Link(bytes), Overheads(2 * count) + Reduction(bytes), way + Reduction(slice)});
    const Terms gather = Longest(costs, {Link(bytes), Overheads(2 * count), way});
    Terms sum = times * steps * (reduce + gather);
    // The last step has nothing behind it that it could hide in.
    if (last) sum = sum + (-1) * gather + way + Link(bytes - slice) + Acknowledgement();
    return sum;
  };
  const double full = static_cast<double>(plan.group * plan.slice_bytes);
  const double rest = segment - static_cast<double>(groups - 1) * full;
  Terms sum = of_width(plan.slices - (groups - 1) * plan.group, rest, 1, true);
  if (groups > 1) {
    sum = sum + of_width(plan.group, full, static_cast<double>(groups - 1), false);
  }
  return sum;
}

// One piece by recursive doubling.
Terms DoublingPiece(int ranks, double bytes) {
  const auto power = std::bit_floor(static_cast<unsigned>(ranks));
  const double rounds = std::bit_width(power) - 1;
  const Terms exchange = Messages(1) + Link(bytes) + Acknowledgement() + Reduction(bytes);
  Terms sum = rounds * exchange;
  if (static_cast<int>(power) != ranks) {  // surplus ranks: in before, out after
    sum = sum + 2 * (Messages(1) + Link(bytes)) + Reduction(bytes);
  }
  return sum;
}

// One piece up and down the tree; the first rank of each level has the most children.
Terms TreePiece(int ranks, double bytes, bool first, const Costs& costs) {
  Terms sum;
  for (int64_t parent = 0; parent * kTreeFanOut + 1 < ranks; parent = parent * kTreeFanOut + 1) {
    const double children =
        static_cast<double>(std::min<int64_t>(kTreeFanOut, ranks - 1 - parent * kTreeFanOut));
    if (!costs.overlaps) {
      sum = sum + children * (Messages(2) + Link(2 * bytes) + Reduction(bytes));
      continue;
    }
    sum = sum + Messages(2) + Link(2 * bytes) + Reduction(bytes) +
          (children - 1) * Longest(costs, {Link(bytes), Reduction(bytes)});
    // Later pieces come up while the one before still goes down.
    if (first) sum = sum + Link((children - 1) * bytes);
  }
  return sum;
}

}  // namespace

double Terms::Microseconds(const Costs& costs) const {
  return messages * costs.alpha_us + mb * costs.beta_us_per_mb +
         reduced_mb * costs.gamma_us_per_mb + overheads * costs.overhead_us +
         acknowledgements * costs.acknowledge_us;
}

RingPlan PlanRing(const Case& of) {
  const auto n = static_cast<uint64_t>(of.ranks);
  RingPlan plan;
  const auto aligned = [](uint64_t bytes) {
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
  };
  plan.segment_bytes = aligned((of.bytes + n - 1) / n);
  plan.slice_bytes = std::clamp(aligned(plan.segment_bytes / 4),
                                std::min(kLeastSlice, of.slice_bytes), of.slice_bytes);
  plan.slices = (plan.segment_bytes + plan.slice_bytes - 1) / plan.slice_bytes;
  plan.group = std::min<uint64_t>(static_cast<uint64_t>(std::max(1, of.window / 2)),
                                  std::max<uint64_t>(1, plan.slices));
  return plan;
}

absl::Status Validate(const Case& of) {
  if (of.ranks < 2 || of.ranks > kMaxRanks) {
    return InvalidArgument("{} ranks: 2 to {} are wanted", of.ranks, kMaxRanks);
  }
  if (of.bytes == 0 || of.bytes > kMaxBytes) {
    return InvalidArgument("{} bytes: 1 to {} are wanted", of.bytes, kMaxBytes);
  }
  if (of.slice_bytes < 64 || of.slice_bytes > (1 << 30)) {
    return InvalidArgument("slices of {} bytes: 64 to 2^30 are wanted", of.slice_bytes);
  }
  if (of.window < 2 || of.window > 64) {
    return InvalidArgument("a window of {} slots: 2 to 64 are wanted", of.window);
  }
  return absl::OkStatus();
}

absl::Status Validate(const ServerCase& of) {
  if (of.workers < 1 || of.servers < 1 || of.workers > kMaxRanks || of.servers > kMaxRanks) {
    return InvalidArgument("{} workers and {} servers: at least one of each, at most {}",
                           of.workers, of.servers, kMaxRanks);
  }
  return Validate(Case{.bytes = of.bytes, .slice_bytes = of.slice_bytes, .window = of.window});
}

Terms CriticalPath(const Case& of, const Costs& costs) {
  if (of.algorithm == AllReduceAlgorithm::kRing) return Ring(of, costs);
  const bool tree = of.algorithm == AllReduceAlgorithm::kTree;
  const uint64_t pieces = (of.bytes + of.slice_bytes - 1) / of.slice_bytes;
  const uint64_t rest = of.bytes - (pieces - 1) * of.slice_bytes;
  const auto piece = [&](uint64_t bytes, bool first) {
    return tree ? TreePiece(of.ranks, static_cast<double>(bytes), first, costs)
                : DoublingPiece(of.ranks, static_cast<double>(bytes));
  };
  Terms sum = piece(rest, pieces == 1);
  if (pieces > 1) {
    sum = sum + piece(of.slice_bytes, true) +
          static_cast<double>(pieces - 2) * piece(of.slice_bytes, false);
  }
  // Whoever writes last waits for its acknowledgement: in a doubling without surplus ranks that is
  // part of the last exchange.
  const bool surplus = !std::has_single_bit(static_cast<unsigned>(of.ranks));
  return tree || surplus ? sum + Acknowledgement() : sum;
}

Terms CriticalPath(const ServerCase& of, const Costs& costs) {
  const auto workers = static_cast<double>(of.workers);
  const auto bytes = static_cast<double>(of.bytes);
  const double share = bytes / of.servers;
  const double slice = std::min(static_cast<double>(of.slice_bytes), share);
  const double slices = std::ceil(share / slice);
  // The busiest of: a worker's link, a server's link, a server's processor (a sum per worker and
  // the update), and a worker's window, which turns once in a round trip.
  const Terms reduce = Overheads(2 * workers * slices) + Reduction((workers + 1) * share);
  const Terms turn = Messages(2) + Link(workers * slice) + Reduction((workers + 1) * slice);
  const Terms steady =
      Longest(costs, {Link(bytes), Link(workers * share), reduce, (slices / of.window) * turn});
  // Before: the first slice reaches the server. After: the last one is summed and pulled by all.
  return steady + Messages(2) + Reduction(2 * slice) + Link((workers > 1 ? workers : 1) * slice);
}

Costs CostsOf(const Model& model) {
  return {.alpha_us = model.alpha_us,
          .beta_us_per_mb = model.beta_us_per_mb,
          .gamma_us_per_mb = model.gamma_us_per_mb,
          .overlaps = model.overlaps};
}

}  // namespace gradwire::analysis
