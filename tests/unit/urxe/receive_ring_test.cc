#include "transport/urxe/engine/receive_ring.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>

namespace urxe {
namespace {

struct Free {
  void operator()(void* memory) const { free(memory); }
};

struct Ring {
  Ring(uint32_t max_wr, uint32_t max_sge)
      : bytes((ReceiveRing::SizeFor(max_wr, max_sge) + 63) / 64 * 64),
        memory(aligned_alloc(64, bytes)),
        ring(ReceiveRing::Make(memory.get(), max_wr, max_sge)) {}
  size_t bytes;
  std::unique_ptr<void, Free> memory;
  ReceiveRing* ring;
};

int Post(ReceiveRing& ring, uint64_t wr_id, int num_sge) {
  std::vector<ibv_sge> elements;
  for (int i = 0; i < num_sge; ++i) {
    elements.push_back({wr_id * 100 + i, static_cast<uint32_t>(wr_id), static_cast<uint32_t>(i)});
  }
  ibv_recv_wr request = {};
  request.wr_id = wr_id;
  request.num_sge = num_sge;
  request.sg_list = elements.data();
  return ring.Post(request);
}

// Whether a receive holds what Post gave it.
bool Whole(const Receive& receive) {
  for (uint32_t i = 0; i < receive.num_sge; ++i) {
    if (receive.sge[i].addr != receive.wr_id * 100 + i ||
        receive.sge[i].length != static_cast<uint32_t>(receive.wr_id) || receive.sge[i].lkey != i) {
      return false;
    }
  }
  return true;
}

TEST(ReceiveRingTest, TakesInOrderRoundAndRound) {
  Ring fixture(3, 2);
  ReceiveRing& ring = *fixture.ring;
  Receive receive;
  EXPECT_FALSE(ring.Take(receive));
  for (uint64_t round = 0; round < 1000; ++round) {
    for (uint64_t i = 0; i < 3; ++i) {
      ASSERT_EQ(Post(ring, round * 3 + i, static_cast<int>(i)), 0);
    }
    EXPECT_EQ(ring.posted(), 3u);
    EXPECT_EQ(Post(ring, 0, 1), ENOMEM) << "as many as asked for, not as the ring could hold";
    for (uint64_t i = 0; i < 3; ++i) {
      ASSERT_TRUE(ring.Take(receive));
      EXPECT_EQ(receive.wr_id, round * 3 + i);
      EXPECT_EQ(receive.num_sge, i);
      EXPECT_TRUE(Whole(receive));
    }
    EXPECT_FALSE(ring.Take(receive));
  }
}

TEST(ReceiveRingTest, RefusesMoreElementsThanItHolds) {
  Ring fixture(4, 2);
  EXPECT_EQ(Post(*fixture.ring, 1, 3), EINVAL);
  ibv_recv_wr request = {};
  request.num_sge = -1;
  EXPECT_EQ(fixture.ring->Post(request), EINVAL);
  EXPECT_EQ(fixture.ring->posted(), 0u);
}

TEST(ReceiveRingTest, APeersRingMustFitWhereItSaysItLies) {
  Ring fixture(8, 4);
  const size_t size = ReceiveRing::SizeFor(8, 4);
  EXPECT_TRUE(fixture.ring->FitsIn(size));
  EXPECT_FALSE(fixture.ring->FitsIn(size - 1));
  EXPECT_FALSE(fixture.ring->FitsIn(0));
  Ring wide(8, kMaxReceiveSge + 1);
  EXPECT_FALSE(wide.ring->FitsIn(wide.bytes)) << "more elements than a Receive holds";
}

TEST(ReceiveRingTest, ConsumersTakeEachReceiveOnce) {
  constexpr uint64_t kCount = 20000;
  Ring fixture(16, 4);
  ReceiveRing& ring = *fixture.ring;
  std::vector<std::atomic<int>> taken(kCount);
  std::atomic<uint64_t> total{0};
  std::atomic<int> torn{0};
  std::vector<std::thread> consumers;
  for (int i = 0; i < 3; ++i) {
    consumers.emplace_back([&] {
      Receive receive;
      while (total.load() < kCount) {
        if (!ring.Take(receive)) {
          std::this_thread::yield();
          continue;
        }
        if (!Whole(receive) || receive.wr_id >= kCount) {
          ++torn;
        } else {
          ++taken[receive.wr_id];
        }
        ++total;
      }
    });
  }
  for (uint64_t id = 0; id < kCount;) {
    if (Post(ring, id, static_cast<int>(id % 5)) == 0) {
      ++id;
    } else {
      std::this_thread::yield();
    }
  }
  for (std::thread& consumer : consumers) consumer.join();
  EXPECT_EQ(torn, 0);
  for (uint64_t id = 0; id < kCount; ++id) ASSERT_EQ(taken[id], 1) << id;
}

}  // namespace
}  // namespace urxe
