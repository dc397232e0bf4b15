// Two connected ends of one fabric, for tests.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <utility>
#include <vector>

#include "transport/rdma/connection.h"
#include "transport/rdma/interface.h"
#include "transport/rdma/verbs.h"

namespace gradwire::rdma {

// The port of test::FakeDevice{}.
inline PortChoice FakePortChoice() {
  PortChoice port;
  port.device = "fake0";
  port.port = 1;
  port.ethernet = true;
  port.mtu = 4096;
  port.gid.index = 1;
  port.gid.type = GidType::kRoceV2;
  port.gid.gid = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1};
  return port;
}

struct EndOptions {
  int entries = 64;
  int send_depth = 4;
  int receive_depth = 4;
  bool shared = false;
  bool with_channel = false;
  size_t bytes = 64;
  int access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ |
               IBV_ACCESS_REMOTE_ATOMIC;
};

template <typename T>
T Must(absl::StatusOr<T> result) {
  EXPECT_TRUE(result.ok()) << result.status();
  return *std::move(result);
}

struct End {
  explicit End(const EndOptions& options)
      : device(Must(Device::Open("fake0"))),
        domain(Must(device.AllocateProtectionDomain())),
        queue(Must(device.CreateCompletionQueue(options.entries, options.with_channel))),
        shared(Must(domain.CreateSharedReceiveQueue(options.receive_depth))),
        memory(options.bytes),
        region(Must(domain.Register(memory, options.access))),
        queue_pair(
            Must(domain.CreateQueuePair({.completion_queue = &queue,
                                         .shared_receive_queue = options.shared ? &shared : nullptr,
                                         .send_depth = options.send_depth,
                                         .receive_depth = options.receive_depth,
                                         .inline_bytes = 32}))) {}

  int PostReceive(uint64_t id) {
    ibv_sge piece{reinterpret_cast<uint64_t>(memory.data()), static_cast<uint32_t>(memory.size()),
                  region.local_key()};
    ibv_recv_wr receive{id, nullptr, &piece, 1};
    ibv_recv_wr* bad = nullptr;
    return queue_pair.get()->srq != nullptr ? shared.PostReceives(&receive, &bad)
                                            : queue_pair.PostReceives(&receive, &bad);
  }

  // One request of the first `length` bytes to the same place at `to`.
  int Post(const End& to, ibv_wr_opcode opcode, uint64_t id, size_t length = 8,
           unsigned int flags = IBV_SEND_SIGNALED) {
    ibv_sge piece{reinterpret_cast<uint64_t>(memory.data()), static_cast<uint32_t>(length),
                  region.local_key()};
    ibv_send_wr work = {};
    work.wr_id = id;
    work.sg_list = &piece;
    work.num_sge = 1;
    work.opcode = opcode;
    work.send_flags = flags;
    work.imm_data = 0x01020304;
    if (opcode == IBV_WR_ATOMIC_FETCH_AND_ADD) {
      work.wr.atomic.remote_addr = reinterpret_cast<uint64_t>(to.memory.data());
      work.wr.atomic.rkey = to.region.remote_key();
      work.wr.atomic.compare_add = 5;
    } else {
      work.wr.rdma.remote_addr = reinterpret_cast<uint64_t>(to.memory.data());
      work.wr.rdma.rkey = to.region.remote_key();
    }
    ibv_send_wr* bad = nullptr;
    return queue_pair.PostSend(&work, &bad);
  }

  std::vector<ibv_wc> Poll() {
    std::array<ibv_wc, 64> completions;
    const int count = queue.Poll(completions).value_or(-1);
    EXPECT_GE(count, 0);
    return {completions.begin(), completions.begin() + std::max(count, 0)};
  }

  Device device;
  ProtectionDomain domain;
  CompletionQueue queue;
  SharedReceiveQueue shared;
  std::vector<std::byte> memory;
  MemoryRegion region;
  QueuePair queue_pair;
};

struct Pair {
  explicit Pair(const EndOptions& options = {}) : a(options), b(options) {}

  void Connect(ConnectionOptions options = {}) {
    options.access |= IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC;
    const PortChoice port = FakePortChoice();
    ASSERT_TRUE(Initialize(a.queue_pair, port, options).ok());
    ASSERT_TRUE(Initialize(b.queue_pair, port, options).ok());
    const QueuePairEndpoint from_a = Must(LocalEndpoint(a.queue_pair, port, options));
    const QueuePairEndpoint from_b = Must(LocalEndpoint(b.queue_pair, port, options));
    absl::Status status = rdma::Connect(a.queue_pair, port, from_a, from_b, options, "rank 1");
    ASSERT_TRUE(status.ok()) << status;
    status = rdma::Connect(b.queue_pair, port, from_b, from_a, options, "rank 0");
    ASSERT_TRUE(status.ok()) << status;
  }

  End a;
  End b;
};

}  // namespace gradwire::rdma
