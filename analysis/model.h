// What an all-reduce or a step of parameter servers takes as a sum of three prices: alpha per
// message, beta per byte over a link, gamma per byte reduced.
//
// The prices are Hockney's ("The communication challenge for MPP", Parallel Computing 1994) with
// the reduction beside them, as in Thakur, Rabenseifner and Gropp ("Optimization of collective
// communication operations in MPICH", IJHPCA 2005), from whom the way of counting is. The counts
// are those of our own algorithms: a ring that pipelines slices in groups, pieces that are reduced
// whole, a tree of fan-out kTreeFanOut.
//
// Where a device moves the bytes, a rank reduces one slice while the next one travels, and only the
// longest of link, processor and the way of one slice counts. Where the processor itself copies
// (TCP, or ranks that share cores), everything adds up. Costs::overlaps says which.
//
// MB is 10^6 bytes, times are microseconds.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "analysis/result.h"
#include "collectives/algorithms.h"
#include "transport/status.h"

namespace gradwire::analysis {

struct Case {
  AllReduceAlgorithm algorithm = AllReduceAlgorithm::kRing;
  int ranks = 2;
  uint64_t bytes = 0;
  uint64_t slice_bytes = 256 << 10;  // Settings::slice_bytes
  int window = 16;                   // Settings::slots
};

// A step of bulk-synchronous parameter servers: every worker pushes and pulls the whole tensor.
struct ServerCase {
  int workers = 1;
  int servers = 1;  // of one shard each
  uint64_t bytes = 0;
  uint64_t slice_bytes = 64 << 10;
  int window = 8;
};

struct Costs {
  double alpha_us = 0;
  double beta_us_per_mb = 0;
  double gamma_us_per_mb = 0;
  bool overlaps = true;
  // Processor time per message at each of its ends, contained in alpha.
  double overhead_us = 0;
  // From a message's arrival until its sender knows. Over RDMA a write's source may change only
  // then. A fit leaves it at 0: alpha contains it.
  double acknowledge_us = 0;
};

// How often each price is paid on the critical path.
struct Terms {
  double messages = 0;
  double mb = 0;
  double reduced_mb = 0;
  double overheads = 0;
  double acknowledgements = 0;

  double Microseconds(const Costs& costs) const;
};

// How the ring cuts a tensor; the same arithmetic as in collectives/ring.cc.
struct RingPlan {
  uint64_t segment_bytes = 0;
  uint64_t slice_bytes = 0;
  uint64_t slices = 0;  // per segment
  uint64_t group = 0;   // slices of a group per segment
};
RingPlan PlanRing(const Case& of);

// InvalidArgument names the field: fewer than 2 ranks, no bytes, slices or windows out of range.
absl::Status Validate(const Case& of);
absl::Status Validate(const ServerCase& of);

// The critical path under `costs`, since these decide what hides behind what. For valid cases.
Terms CriticalPath(const Case& of, const Costs& costs);
Terms CriticalPath(const ServerCase& of, const Costs& costs);

struct Sample {
  std::string what;  // for the reader
  Case of;
  double measured_us = 0;
};

struct FitOptions {
  // Taken as it is instead of fitted, for instance the measured rate of the kernel.
  std::optional<double> gamma_us_per_mb;
};

// Non-negative least squares on the relative error; takes the one of Costs::overlaps that fits
// better. What the samples cannot tell is said in Model::notes: a gamma that they do not show is
// contained in beta. InvalidArgument names a sample that makes no sense, FailedPrecondition what
// must be measured besides.
absl::StatusOr<Model> Fit(std::span<const Sample> samples, const FitOptions& options = {});

// The prices of a fitted model.
Costs CostsOf(const Model& model);

}  // namespace gradwire::analysis
