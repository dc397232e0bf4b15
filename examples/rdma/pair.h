// What the RDMA examples share: two ranks, and queue pairs between them. connect_and_write.cc does
// the same steps in the open.
#pragma once

#include <infiniband/verbs.h>

#include <memory>
#include <string>
#include <vector>

#include "transport/bootstrap/world.h"
#include "transport/memory.h"
#include "transport/rdma/connection.h"
#include "transport/rdma/verbs.h"
#include "transport/settings.h"
#include "transport/status.h"

namespace gradwire::examples {

// A job of two ranks, started by `gradwire launch -n 2 -- PROGRAM` or by variables such as RANK.
struct Job {
  Settings settings;
  std::unique_ptr<World> world;

  int rank() const { return world->rank(); }
  int peer() const { return 1 - world->rank(); }
  std::string peer_name() const { return world->peer(peer()).Describe(); }
};

// Joins the job, runs `body` and leaves. Returns the exit code: 0, 1 when it failed, 2 for wrong
// usage; the error is one line on stderr.
int RunJob(int argc, char** argv, absl::Status (*body)(Job&));

struct PairOptions {
  size_t buffer_bytes = 4096;
  int queue_pairs = 1;
  int send_depth = 16;
  int receive_depth = 1;
  int reads = 16;  // READs and atomics on their way at once
  int access = IBV_ACCESS_REMOTE_WRITE;
};

// A buffer at each end, and queue pairs that reach the other's. Each queue pair has a completion
// queue of its own, so that a thread can have both to itself; all else belongs to one thread.
class Pair {
 public:
  static absl::StatusOr<std::unique_ptr<Pair>> Connect(Job& job, const PairOptions& options);

  const rdma::Device& device() const { return *device_; }
  Bytes buffer() { return buffer_; }
  // The same place of our buffer as a work request takes it, and of the peer's.
  ibv_sge Local(size_t offset, size_t length) const;
  uint64_t RemoteAddress(size_t offset) const { return remote_.address + offset; }
  uint32_t remote_key() const { return remote_.key; }

  // Moves [offset, offset + length) of one buffer to the same place of the other, and asks for a
  // completion. `immediate` goes with IBV_WR_RDMA_WRITE_WITH_IMM only.
  absl::Status Post(ibv_wr_opcode opcode, size_t offset, size_t length, uint32_t immediate = 0);
  absl::Status Post(ibv_send_wr& request, size_t queue_pair);
  // Receives without memory: a write with immediate uses one up and needs no more of it.
  absl::Status PostReceives(int count);
  // The next completion, which was a success; polls until settings.op_timeout.
  absl::StatusOr<ibv_wc> Await(size_t queue_pair = 0);
  // Both ranks have come here.
  absl::Status Barrier();

 private:
  struct Lane {
    rdma::CompletionQueue completions;
    rdma::QueuePair queue_pair;  // destroyed before the queue that it uses
  };

  explicit Pair(Job& job) : job_(job) {}

  Job& job_;
  int barriers_ = 0;
  std::vector<std::byte> memory_;
  Bytes buffer_;
  MemoryGrant remote_;
  // Destroyed from the last to the first.
  std::unique_ptr<rdma::Device> device_;
  std::unique_ptr<rdma::ProtectionDomain> domain_;
  std::unique_ptr<rdma::MemoryRegion> region_;
  std::vector<std::unique_ptr<Lane>> lanes_;
};

}  // namespace gradwire::examples
