// A worker of one shard whose control plane is the test: it says when to ask, and what is sent.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "parameter_server/protocol.h"
#include "parameter_server/send_pool.h"
#include "parameter_server/shard_link.h"
#include "parameter_server/shard_thread.h"
#include "tests/unit/parameter_server/shard_side.h"

namespace gradwire::ps {

class TestWorker {
 public:
  TestWorker(const std::string& transport, int64_t number, const Placement& placement,
             DataType wire = DataType::kFloat32);
  ~TestWorker() { Disconnect(); }
  TestWorker(const TestWorker&) = delete;
  TestWorker& operator=(const TestWorker&) = delete;

  // The step that counts as pushed by it. `in_place`: the shard may read gradients where they lie.
  absl::StatusOr<int64_t> Connect(ShardThread& shard, bool in_place = false);
  void Disconnect();

  // Asks, without waiting.
  void Ask(Op op, int64_t step, uint8_t flags = Request::kEndOfStep, float scale = 1);
  void Pump();
  // Until `count` replies are there in all, or the link ends.
  bool Wait(size_t count, Deadline deadline = Soon());
  absl::Status Do(Op op, int64_t step, uint8_t flags = Request::kEndOfStep, float scale = 1);
  // Writes raw bytes as the link's next write.
  absl::Status Raw(ConstBytes bytes, uint32_t tag);

  std::span<float> gradients() {
    return {reinterpret_cast<float*>(gradients_.bytes().data()), kElements};
  }
  std::span<float> parameters() {
    return {reinterpret_cast<float*>(parameters_.bytes().data()), kElements};
  }
  Bytes raw_gradients() { return gradients_.bytes(); }
  Bytes raw_parameters() { return parameters_.bytes(); }

  std::vector<Reply> replies;
  absl::Status failure;
  bool maps = false;

 private:
  Side side_;
  const int64_t number_;
  const Placement& placement_;
  const DataType wire_;
  Region parameters_, gradients_;
  std::optional<SendPool> messages_;
  Link* raw_ = nullptr;
  std::unique_ptr<ShardLink> link_;
};

}  // namespace gradwire::ps
