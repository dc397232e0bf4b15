// A shard of four slices without a server around it, driven step by step.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "parameter_server/shard.h"

namespace gradwire::ps {

inline constexpr int64_t kElements = 200;  // four slices of 64, 64, 64 and 8

struct Job {
  explicit Job(ShardOptions options, std::string optimizer = "sgd", double rate = 1) {
    options.optimizer.name = std::move(optimizer);
    options.optimizer.learning_rate = rate;
    auto made = Shard::Make(layout, placement, 0, parameters, options);
    EXPECT_TRUE(made.ok()) << made.status();
    shard = *std::move(made);
  }

  void Assign(float value) {
    for (uint32_t i = 0; i < Slices(); ++i) {
      shard->Assign(i, std::vector<float>(shard->values(i).size(), value));
    }
  }
  uint32_t Slices() const { return static_cast<uint32_t>(shard->slices().size()); }
  Request Push(int64_t step, uint8_t flags = Request::kEndOfStep) const {
    return {.op = Op::kPush, .flags = flags, .count = Slices(), .step = step};
  }
  // A whole step, slice by slice; what comes back for the first slice that is not taken, else
  // kTaken.
  Shard::Taken PushAll(int64_t worker, int64_t step, float gradient, uint8_t flags = 0) {
    const Request request = Push(step, flags);
    EXPECT_TRUE(shard->Check(worker, request).ok()) << shard->Check(worker, request);
    for (uint32_t i = 0; i < Slices(); ++i) {
      const Shard::Taken taken = PushSlice(worker, step, i, gradient, flags);
      if (taken != Shard::Taken::kTaken) return taken;
    }
    if ((flags & Request::kHold) == 0) shard->EndStep(worker, step);
    return Shard::Taken::kTaken;
  }
  Shard::Taken PushSlice(int64_t worker, int64_t step, uint32_t slice, float gradient,
                         uint8_t flags = 0) {
    return shard->Take(worker, Push(step, flags), slice,
                       std::vector<float>(shard->values(slice).size(), gradient));
  }
  // What the observer of another job's shard was told.
  void Repeat(const Request& change, std::span<const float> values) {
    EXPECT_TRUE(shard->CheckReplay(change).ok()) << shard->CheckReplay(change);
    if (change.count > 0) shard->Replay(change, change.first, values);
    shard->EndReplay(change);
  }

  Layout layout = *Layout::Make({{.name = "w", .shape = {kElements}}});
  Placement placement = *Placement::Make(layout, 1, 256);
  std::vector<float> parameters = std::vector<float>(kElements);
  std::unique_ptr<Shard> shard;
};

inline ShardOptions Bsp(int workers, OnLoss on_loss = OnLoss::kFail) {
  return {.consistency = Consistency::kBsp, .workers = workers, .on_loss = on_loss};
}
inline ShardOptions Ssp(int64_t staleness) {
  return {.consistency = Consistency::kSsp, .staleness = staleness};
}
inline ShardOptions Asp() { return {.consistency = Consistency::kAsp}; }

}  // namespace gradwire::ps
