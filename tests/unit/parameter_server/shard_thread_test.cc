// A shard at work, over TCP and over urxe, with workers whose control plane is this test.
#include "parameter_server/shard_thread.h"

#include <gtest/gtest.h>

#include <Eigen/Core>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "parameter_server/protocol.h"
#include "tests/unit/parameter_server/shard_thread_fixture.h"
#include "tests/unit/parameter_server/test_worker.h"

namespace gradwire::ps {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST_P(ShardThreadTest, PushesAndPulls) {
  const auto shard = Start({.consistency = Consistency::kAsp});
  for (const bool in_place : {false, true}) {
    TestWorker worker(GetParam(), in_place ? 2 : 1, placement_);
    ASSERT_TRUE(worker.Connect(*shard, in_place).ok());
    ASSERT_TRUE(Assign(worker, 1).ok());
    std::ranges::fill(worker.gradients(), 0.25f);
    worker.gradients()[499] = -1;
    ASSERT_TRUE(worker.Do(Op::kPushPull, worker.replies.back().min_clock + 1).ok());
    EXPECT_EQ(worker.parameters()[0], in_place ? 0.5f : 0.75f);
    EXPECT_EQ(worker.parameters()[499], in_place ? 3 : 2);
    EXPECT_EQ(worker.replies.back().members, in_place ? 2 : 1);
  }
}

TEST_P(ShardThreadTest, TellsTheLastStepOfAWorkerThatHasLeft) {
  for (const ShardOptions& options :
       {ShardOptions{.consistency = Consistency::kAsp},
        ShardOptions{.consistency = Consistency::kBsp, .workers = 1}}) {
    const auto shard = Start(options);
    TestWorker worker(GetParam(), 0, placement_);
    ASSERT_TRUE(worker.Connect(*shard).ok());
    ASSERT_TRUE(Assign(worker, 1).ok());
    for (int64_t step = 1; step <= 3; ++step) ASSERT_TRUE(worker.Do(Op::kPush, step).ok());
    shard->Drop(0, "");
    // The shard's thread carries the second of these out after it has told what the first saw.
    for (int i = 0; i < 2; ++i) EXPECT_FALSE(shard->AttachReplica({}, Soon()).ok());
    EXPECT_EQ(shard->Status().min_clock, 3);
    EXPECT_EQ(shard->Status().links, 0);
  }
}

TEST_P(ShardThreadTest, BspWaitsForEveryWorkerAndSaysForWhom) {
  const auto shard = Start({.consistency = Consistency::kBsp, .workers = 2});
  TestWorker first(GetParam(), 0, placement_), second(GetParam(), 1, placement_);
  ASSERT_TRUE(first.Connect(*shard).ok());
  ASSERT_TRUE(second.Connect(*shard).ok());
  ASSERT_TRUE(Assign(first, 0).ok());
  for (int64_t step = 1; step <= 3; ++step) {
    std::ranges::fill(first.gradients(), -1.0f);
    std::ranges::fill(second.gradients(), -2.0f);
    const size_t before = first.replies.size();
    first.Ask(Op::kPushPull, step);
    EXPECT_FALSE(first.Wait(before + 1, Clock::now() + milliseconds(50)));
    EXPECT_TRUE(Eventually(*shard, [](const ShardStatus& status) {
      return status.waits == std::vector<std::pair<int64_t, int64_t>>{{0, 1}};
    }));
    ASSERT_TRUE(second.Do(Op::kPushPull, step).ok());
    ASSERT_TRUE(first.Wait(before + 1));
    for (TestWorker* worker : {&first, &second}) {
      EXPECT_TRUE(std::ranges::all_of(worker->parameters(),
                                      [&](float v) { return v == 3 * static_cast<float>(step); }));
      EXPECT_EQ(worker->replies.back().min_clock, step);
    }
    EXPECT_EQ(first.replies.back().waited_for, 1);
    EXPECT_GE(first.replies.back().waited_us, 40'000u);
  }
}

TEST_P(ShardThreadTest, SspLetsNobodyReadWhatIsTooOld) {
  const auto shard = Start({.consistency = Consistency::kSsp, .staleness = 1});
  TestWorker fast(GetParam(), 0, placement_), slow(GetParam(), 1, placement_);
  ASSERT_TRUE(fast.Connect(*shard).ok());
  ASSERT_TRUE(slow.Connect(*shard).ok());
  ASSERT_TRUE(Assign(fast, 0).ok());
  ASSERT_TRUE(fast.Do(Op::kPushPull, 1).ok());
  fast.Ask(Op::kPushPull, 2);
  EXPECT_FALSE(fast.Wait(3, Clock::now() + milliseconds(50)));
  ASSERT_TRUE(slow.Do(Op::kPushPull, 1).ok());
  ASSERT_TRUE(fast.Wait(3));
  EXPECT_EQ(fast.replies.back().min_clock, 1);
  EXPECT_EQ(fast.replies.back().waited_for, 1);
}

TEST_P(ShardThreadTest, HalfNumbersOnTheWire) {
  for (const DataType wire : {DataType::kFloat16, DataType::kBfloat16}) {
    const auto shard = Start({.consistency = Consistency::kAsp});
    TestWorker worker(GetParam(), 0, placement_, wire);
    ASSERT_TRUE(worker.Connect(*shard).ok());
    const auto fill = [&](float value) {
      for (int64_t i = 0; i < kElements; ++i) {
        if (wire == DataType::kFloat16) {
          reinterpret_cast<Eigen::half*>(worker.raw_gradients().data())[i] = Eigen::half(value);
        } else {
          reinterpret_cast<Eigen::bfloat16*>(worker.raw_gradients().data())[i] =
              Eigen::bfloat16(value);
        }
      }
    };
    fill(2);
    ASSERT_TRUE(worker.Do(Op::kAssign, 0, 0).ok());
    fill(0.5f);
    ASSERT_TRUE(worker.Do(Op::kPushPull, 1).ok());
    const std::byte* const last = worker.raw_parameters().data() + 2 * (kElements - 1);
    EXPECT_EQ(wire == DataType::kFloat16
                  ? static_cast<float>(*reinterpret_cast<const Eigen::half*>(last))
                  : static_cast<float>(*reinterpret_cast<const Eigen::bfloat16*>(last)),
              1.5f);
  }
}

TEST_P(ShardThreadTest, RefusesAndGoesOn) {
  const auto shard = Start({.consistency = Consistency::kAsp});
  TestWorker worker(GetParam(), 0, placement_);
  ASSERT_TRUE(worker.Connect(*shard).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(worker.Do(Op::kPush, 1)));  // no values yet
  ASSERT_TRUE(Assign(worker, 0).ok());
  std::ranges::fill(worker.gradients(), 1.0f);
  ASSERT_TRUE(worker.Do(Op::kPush, 1).ok());
  EXPECT_TRUE(absl::IsAlreadyExists(worker.Do(Op::kPush, 1)));
  EXPECT_TRUE(absl::IsFailedPrecondition(worker.Do(Op::kPushPull, 5)));
  ASSERT_TRUE(worker.Do(Op::kPushPull, 2).ok());
  EXPECT_EQ(worker.parameters()[7], -2);
  EXPECT_TRUE(Eventually(*shard, [](const ShardStatus& status) { return status.refused == 3; }));
}

TEST_P(ShardThreadTest, ABrokenProtocolEndsOneLinkAlone) {
  const auto shard = Start({.consistency = Consistency::kAsp});
  TestWorker good(GetParam(), 0, placement_);
  ASSERT_TRUE(good.Connect(*shard).ok());
  ASSERT_TRUE(Assign(good, 0).ok());
  Request valid{.op = Op::kPush, .number = 1, .count = 3, .step = 1};
  const auto with = [&](auto change) {
    Request request = valid;
    change(request);
    return request;
  };
  const std::vector<Request> bad = {
      with([](Request& r) { r.byte_order = 0x01005747; }),
      with([](Request& r) { r.op = static_cast<Op>(77); }),
      with([](Request& r) { r.op = Op::kReplicate; }),
      with([](Request& r) { r.number = 2; }),
      with([](Request& r) { r.count = 4; }),
      with([](Request& r) { r.first = UINT32_MAX; }),
      with([](Request& r) { r.first = 3, r.count = UINT32_MAX; }),
  };
  const auto ends = [&](TestWorker& worker) {
    worker.Wait(SIZE_MAX, Clock::now() + seconds(10));
    return !worker.failure.ok();
  };
  for (size_t i = 0; i < bad.size(); ++i) {
    TestWorker worker(GetParam(), 1, placement_);
    ASSERT_TRUE(worker.Connect(*shard).ok());
    ASSERT_TRUE(worker.Raw(std::as_bytes(std::span(&bad[i], 1)), kRequestTag).ok());
    EXPECT_TRUE(Eventually(*shard, [](const ShardStatus& s) { return s.links == 1; })) << i;
    if (GetParam() == "tcp") {
      EXPECT_TRUE(ends(worker)) << i;
    }
  }
  {
    // Slices that nobody announced, or of the wrong number or size.
    for (const auto& [tag, bytes] : std::vector<std::pair<uint32_t, size_t>>{
             {0, 1024}, {kReplyTag, 40}, {kRequestTag, 39}, {kRequestTag, 0}}) {
      TestWorker worker(GetParam(), 1, placement_);
      ASSERT_TRUE(worker.Connect(*shard).ok());
      const std::vector<std::byte> junk(bytes);
      ASSERT_TRUE(worker.Raw(junk, tag).ok());
      EXPECT_TRUE(Eventually(*shard, [](const ShardStatus& s) { return s.links == 1; })) << tag;
    }
    for (const auto& [tag, bytes] :
         std::vector<std::pair<uint32_t, size_t>>{{1, 256}, {0, 1020}, {2, 720}}) {
      TestWorker worker(GetParam(), 1, placement_);
      ASSERT_TRUE(worker.Connect(*shard).ok());
      ASSERT_TRUE(worker.Raw(std::as_bytes(std::span(&valid, 1)), kRequestTag).ok());
      const std::vector<std::byte> junk(bytes);
      ASSERT_TRUE(worker.Raw(junk, tag).ok());
      EXPECT_TRUE(Eventually(*shard, [](const ShardStatus& s) { return s.links == 1; })) << tag;
    }
  }
  std::ranges::fill(good.gradients(), 1.0f);
  ASSERT_TRUE(good.Do(Op::kPushPull, 1).ok());
  EXPECT_EQ(good.parameters()[3], -1);
}

TEST_P(ShardThreadTest, AWorkerThatComesBackGoesOnWhereItWas) {
  const auto shard = Start({.consistency = Consistency::kAsp});
  TestWorker worker(GetParam(), 4, placement_);
  ASSERT_TRUE(worker.Connect(*shard).ok());
  ASSERT_TRUE(Assign(worker, 0).ok());
  std::ranges::fill(worker.gradients(), 1.0f);
  ASSERT_TRUE(worker.Do(Op::kPush, 1).ok());
  // The request and one slice of three; then the link is gone.
  const Request request{
      .op = Op::kPush, .flags = Request::kEndOfStep, .number = 3, .count = 3, .step = 2};
  ASSERT_TRUE(worker.Raw(std::as_bytes(std::span(&request, 1)), kRequestTag).ok());
  const std::vector<float> slice(256, 1.0f);
  ASSERT_TRUE(worker.Raw(std::as_bytes(std::span(slice)), 0).ok());
  ASSERT_TRUE(Eventually(*shard, [](const ShardStatus& s) { return s.updates == 4; }));
  worker.Disconnect();
  const auto clock = worker.Connect(*shard);
  ASSERT_TRUE(clock.ok()) << clock.status();
  EXPECT_EQ(*clock, 1);
  ASSERT_TRUE(worker.Do(Op::kPushPull, 2).ok());
  EXPECT_TRUE(std::ranges::all_of(worker.parameters(), [](float v) { return v == -2; }));
  EXPECT_TRUE(Eventually(*shard, [](const ShardStatus& s) { return s.duplicates == 1; }));
}

TEST_P(ShardThreadTest, WhoWaitsForALostWorkerIsTold) {
  const auto shard = Start({.consistency = Consistency::kBsp, .workers = 2});
  TestWorker first(GetParam(), 0, placement_), second(GetParam(), 1, placement_);
  ASSERT_TRUE(first.Connect(*shard).ok());
  ASSERT_TRUE(second.Connect(*shard).ok());
  ASSERT_TRUE(Assign(first, 0).ok());
  const size_t before = first.replies.size();
  first.Ask(Op::kPushPull, 1);
  EXPECT_FALSE(first.Wait(before + 1, Clock::now() + milliseconds(50)));
  shard->Drop(1, "worker 1 (node7, pid 12) was lost: killed");
  ASSERT_TRUE(first.Wait(before + 1));
  EXPECT_TRUE(absl::IsUnavailable(first.replies.back().status()));
  EXPECT_NE(first.replies.back().status().message().find("worker 1 (node7, pid 12)"),
            std::string::npos);
}

TEST_P(ShardThreadTest, ManyWorkersAtOnce) {
  constexpr int kWorkers = 8, kSteps = 20;
  const auto shard = Start({.consistency = Consistency::kAsp});
  std::vector<std::thread> threads;
  std::atomic<int> good{0};
  {
    TestWorker first(GetParam(), 100, placement_);
    ASSERT_TRUE(first.Connect(*shard).ok());
    ASSERT_TRUE(Assign(first, 0).ok());
    shard->Drop(100, "");
  }
  for (int w = 0; w < kWorkers; ++w) {
    threads.emplace_back([&, w] {
      TestWorker worker(GetParam(), w, placement_);
      const auto clock = worker.Connect(*shard, w % 2 == 0);
      if (!clock.ok()) return;
      std::ranges::fill(worker.gradients(), -1.0f);
      for (int64_t step = 1; step <= kSteps; ++step) {
        if (!worker.Do(Op::kPushPull, *clock + step).ok()) return;
      }
      ++good;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good, kWorkers);
  TestWorker reader(GetParam(), 200, placement_);
  ASSERT_TRUE(reader.Connect(*shard).ok());
  ASSERT_TRUE(reader.Do(Op::kPull, 0, 0).ok());
  EXPECT_TRUE(
      std::ranges::all_of(reader.parameters(), [](float v) { return v == kWorkers * kSteps; }));
}

INSTANTIATE_TEST_SUITE_P(Transports, ShardThreadTest, testing::Values("tcp", "rdma"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace gradwire::ps
