// The other end of a primary's link to its replica; it answers as a test wants.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "parameter_server/send_pool.h"
#include "parameter_server/shard_thread.h"
#include "tests/unit/parameter_server/shard_side.h"

namespace gradwire::ps {

class FakeReplica {
 public:
  FakeReplica(const std::string& transport, ShardThread& primary);
  ~FakeReplica() { side_.transport->CloseLink(link_); }
  FakeReplica(const FakeReplica&) = delete;
  FakeReplica& operator=(const FakeReplica&) = delete;

  // Takes in what comes within a moment.
  void Take();
  // Says that it has everything up to request `number`.
  void Acknowledge(uint32_t number);

  uint32_t requests = 0;

 private:
  Side side_;
  Link* link_ = nullptr;
  std::optional<SendPool> replies_;
};

}  // namespace gradwire::ps
