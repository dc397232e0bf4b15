// Shards at work, over the transport that is the test's parameter.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "parameter_server/layout.h"
#include "parameter_server/shard_thread.h"
#include "tests/unit/parameter_server/shard_side.h"
#include "tests/unit/parameter_server/test_worker.h"

namespace gradwire::ps {

class ShardThreadTest : public testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<ShardThread> Start(ShardOptions options, bool replica = false);
  // Every value and gradient of `worker` becomes `value`; asks for it to be the first value.
  static absl::Status Assign(TestWorker& worker, float value);
  // Until `holds` of the shard's status.
  template <typename Condition>
  static bool Eventually(const ShardThread& shard, Condition holds) {
    for (const Deadline deadline = Soon(); Clock::now() < deadline;) {
      if (holds(shard.Status())) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }

  Layout layout_ = *Layout::Make(
      {{.name = "a", .shape = {256}}, {.name = "b", .shape = {64}}, {.name = "c", .shape = {180}}});
  Placement placement_ = *Placement::Make(layout_, 1, kSliceBytes);
  std::vector<std::unique_ptr<World>> worlds_;
};

}  // namespace gradwire::ps
