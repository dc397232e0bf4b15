// A shard at work, over TCP and over urxe, with workers whose control plane is this test.
#include "parameter_server/shard_thread.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <thread>

#include "parameter_server/protocol.h"
#include "parameter_server/send_pool.h"
#include "parameter_server/shard_link.h"
#include "transport/bootstrap/solo_world.h"

namespace gradwire::ps {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr int64_t kElements = 500;  // slices of 256, 64 and 180
constexpr int kWindow = 4;
constexpr int64_t kSliceBytes = 4096;

Deadline Soon() { return Clock::now() + seconds(30); }

Settings SettingsFor(const std::string& transport) {
  Settings settings;
  settings.transport = transport;
  settings.socket_interface = "lo";
  settings.slots = kWindow;
  settings.slice_bytes = kSliceBytes;
  settings.queue_depth = 16;
  return settings;
}

struct Side {
  explicit Side(const Settings& settings) : world(MakeSoloWorld("127.0.0.1")) {
    auto made = CreateTransport(*world, settings, "ps");
    EXPECT_TRUE(made.ok()) << made.status();
    transport = *std::move(made);
  }
  std::unique_ptr<World> world;
  std::unique_ptr<Transport> transport;
};

// A worker of one shard.
class TestWorker {
 public:
  TestWorker(const std::string& transport, int64_t number, const Placement& placement,
             DataType wire = DataType::kFloat32)
      : side_(SettingsFor(transport)), number_(number), placement_(placement), wire_(wire) {
    const size_t bytes = kElements * SizeOf(wire);
    parameters_ = *side_.transport->Allocate(bytes, Access::kRemoteWrite);
    gradients_ = *side_.transport->Allocate(bytes, Access::kLocal);
    messages_.emplace(*SendPool::Make(*side_.transport, kSliceBytes, 16));
  }
  ~TestWorker() { Disconnect(); }

  absl::StatusOr<int64_t> Connect(ShardThread& shard, bool in_place = false) {
    auto end = side_.transport->PrepareLink(0, "the shard",
                                            {.window = kWindow, .slot_bytes = kSliceBytes});
    if (!end.ok()) return end.status();
    ConnectRequest request = {.worker = number_,
                              .facts = (*end)->facts(),
                              .parameters = parameters_.grant(),
                              .wire = wire_};
    request.parameters.length = kElements * SizeOf(wire_);
    if (in_place) {
      request.gradients = gradients_.grant();
      request.gradients.length = kElements * sizeof(float);
    }
    auto reply = shard.Connect(request, "worker " + std::to_string(number_), Soon());
    if (!reply.ok()) return reply.status();
    maps = reply->maps;
    auto link = side_.transport->FinishLink(*std::move(end), reply->facts, Role::kConnect, Soon());
    if (!link.ok()) return link.status();
    raw_ = *link;
    link_ = std::make_unique<ShardLink>(
        raw_, placement_.slices(0),
        ShardLink::Memory{.gradients = &gradients_, .wire = wire_, .in_place = reply->maps},
        *messages_);
    return reply->clock;
  }
  void Disconnect() {
    link_.reset();
    if (raw_ != nullptr) side_.transport->CloseLink(std::exchange(raw_, nullptr));
  }

  // Asks, without waiting.
  void Ask(Op op, int64_t step, uint8_t flags = Request::kEndOfStep, float scale = 1) {
    link_->Ask({.op = op,
                .flags = op == Op::kPull && flags == Request::kEndOfStep ? uint8_t{0} : flags,
                .count = static_cast<uint32_t>(placement_.slices(0).size()),
                .scale = scale,
                .step = step},
               [this](const Reply& reply) { replies.push_back(reply); });
    Pump();
  }
  void Pump() {
    if (const absl::Status sent = link_->Pump(); !sent.ok()) failure.Update(sent);
    side_.transport->Flush().IgnoreError();
  }
  // Until `count` replies are there in all, or the link ends.
  bool Wait(size_t count, Deadline deadline = Soon()) {
    std::array<Completion, 16> batch;
    while (replies.size() < count && failure.ok()) {
      Pump();
      const auto some = side_.transport->Wait(batch, std::min(deadline, Clock::now() + seconds(1)));
      if (!some.ok() && !absl::IsDeadlineExceeded(some.status())) failure = some.status();
      for (int i = 0; some.ok() && i < *some; ++i) {
        failure.Update(link_->Handle(batch[static_cast<size_t>(i)]));
      }
      if (Clock::now() >= deadline) break;
    }
    return replies.size() >= count;
  }
  absl::Status Do(Op op, int64_t step, uint8_t flags = Request::kEndOfStep, float scale = 1) {
    const size_t before = replies.size();
    Ask(op, step, flags, scale);
    if (!Wait(before + 1)) return failure.ok() ? DeadlineExceeded("no reply") : failure;
    return replies.back().status();
  }
  // Writes raw bytes as the link's next write.
  absl::Status Raw(ConstBytes bytes, uint32_t tag) {
    const int buffer = messages_->Take();
    std::ranges::copy(bytes, messages_->bytes(buffer).begin());
    GW_RETURN_IF_ERROR(
        raw_->Write(messages_->Span(buffer, bytes.size()), raw_->NextSlot(bytes.size()), tag));
    return side_.transport->Flush();
  }

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

// The other end of a primary's link to its replica; it answers as a test wants.
class FakeReplica {
 public:
  FakeReplica(const std::string& transport, ShardThread& primary) : side_(SettingsFor(transport)) {
    const auto request = primary.PrepareReplica("the replica", Soon());
    EXPECT_TRUE(request.ok()) << request.status();
    auto end = side_.transport->PrepareLink(0, "the primary",
                                            {.window = kWindow, .slot_bytes = kSliceBytes});
    EXPECT_TRUE(end.ok()) << end.status();
    const ConnectReply reply = {.facts = (*end)->facts()};
    auto link = side_.transport->FinishLink(*std::move(end), request->facts, Role::kAccept, Soon());
    EXPECT_TRUE(link.ok()) << link.status();
    link_ = *link;
    // Over TCP both ends have a part in connecting.
    std::atomic<bool> attached = false;
    std::thread attaching([&] {
      EXPECT_TRUE(primary.AttachReplica(reply, Soon()).ok());
      attached = true;
    });
    while (!attached) Take();
    attaching.join();
    replies_.emplace(*SendPool::Make(*side_.transport, sizeof(Reply), 4));
  }
  ~FakeReplica() { side_.transport->CloseLink(link_); }

  // Takes in what comes within a moment.
  void Take() {
    std::array<Completion, 16> batch;
    const auto some = side_.transport->Wait(batch, Clock::now() + milliseconds(5));
    for (int i = 0; some.ok() && i < *some; ++i) {
      const Completion& completion = batch[static_cast<size_t>(i)];
      if (completion.kind != Completion::Kind::kArrived) continue;
      if (completion.tag == kRequestTag) ++requests;
      EXPECT_TRUE(link_->Release(1).ok());
    }
    side_.transport->Flush().IgnoreError();
  }
  // Says that it has everything up to request `number`.
  void Acknowledge(uint32_t number) {
    const int buffer = replies_->Take();
    Reply& reply = *new (replies_->bytes(buffer).data()) Reply;
    reply.number = number;
    const size_t length = offsetof(Reply, text);
    EXPECT_TRUE(
        link_->Write(replies_->Span(buffer, length), link_->NextSlot(length), kReplyTag).ok());
    EXPECT_TRUE(side_.transport->Flush().ok());
  }

  uint32_t requests = 0;

 private:
  Side side_;
  Link* link_ = nullptr;
  std::optional<SendPool> replies_;
};

class ShardThreadTest : public testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<ShardThread> Start(ShardOptions options, bool replica = false) {
    options.optimizer = {.name = "sgd", .learning_rate = 1};
    ShardThread::Options thread = {.layout = layout_,
                                   .placement = placement_,
                                   .shard_options = options,
                                   .window = kWindow,
                                   .slice_bytes = kSliceBytes,
                                   .replica = replica};
    Settings settings = SettingsFor(GetParam());
    settings.receive_queue = "shared";
    worlds_.push_back(MakeSoloWorld("127.0.0.1"));
    auto transport = CreateTransport(*worlds_.back(), settings, "shard");
    EXPECT_TRUE(transport.ok()) << transport.status();
    auto made = ShardThread::Start(std::move(thread), *std::move(transport), nullptr);
    EXPECT_TRUE(made.ok()) << made.status();
    return *std::move(made);
  }
  // Every value and gradient of `worker` becomes `value`; asks for it to be the first value.
  static absl::Status Assign(TestWorker& worker, float value) {
    std::ranges::fill(worker.gradients(), value);
    return worker.Do(Op::kAssign, 0, 0);
  }
  // Until `holds` of the shard's status.
  template <typename Condition>
  static bool Eventually(const ShardThread& shard, Condition holds) {
    for (const Deadline deadline = Soon(); Clock::now() < deadline;) {
      if (holds(shard.Status())) return true;
      std::this_thread::sleep_for(milliseconds(10));
    }
    return false;
  }

  Layout layout_ = *Layout::Make(
      {{.name = "a", .shape = {256}}, {.name = "b", .shape = {64}}, {.name = "c", .shape = {180}}});
  Placement placement_ = *Placement::Make(layout_, 1, kSliceBytes);
  std::vector<std::unique_ptr<World>> worlds_;
};

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

TEST_P(ShardThreadTest, TheReplicaHasWhatWasAcknowledged) {
  for (const ShardOptions& options :
       {ShardOptions{.consistency = Consistency::kAsp},
        ShardOptions{.consistency = Consistency::kBsp, .workers = 1}}) {
    auto primary = Start(options);
    const auto replica = Start(options, /*replica=*/true);
    const auto request = primary->PrepareReplica("the replica", Soon());
    ASSERT_TRUE(request.ok()) << request.status();
    const auto reply = replica->Connect(*request, "the primary", Soon());
    ASSERT_TRUE(reply.ok()) << reply.status();
    ASSERT_TRUE(primary->AttachReplica(*reply, Soon()).ok());

    TestWorker worker(GetParam(), 0, placement_);
    ASSERT_TRUE(worker.Connect(*primary).ok());
    {
      TestWorker early(GetParam(), 1, placement_);
      EXPECT_TRUE(absl::IsUnavailable(early.Connect(*replica).status()));
    }
    ASSERT_TRUE(Assign(worker, 5).ok());
    std::ranges::fill(worker.gradients(), 1.0f);
    int64_t step = 0;
    for (; step < 20; ++step) {
      ASSERT_TRUE(worker.Do(step % 2 == 0 ? Op::kPush : Op::kPushPull, step + 1).ok());
    }
    // What was acknowledged is at the replica when the primary dies.
    primary.reset();
    worker.Disconnect();
    worker.failure = absl::OkStatus();
    ASSERT_TRUE(replica->Promote().ok());
    const auto clock = worker.Connect(*replica);
    ASSERT_TRUE(clock.ok()) << clock.status();
    EXPECT_EQ(*clock, step);
    ASSERT_TRUE(worker.Do(Op::kPull, step).ok());
    EXPECT_TRUE(std::ranges::all_of(worker.parameters(), [](float v) { return v == -15; }));
    ASSERT_TRUE(worker.Do(Op::kPushPull, step + 1).ok());
    EXPECT_EQ(worker.parameters()[499], -16);
    // It is nobody's replica any more.
    auto late = Start(options);
    const auto again = late->PrepareReplica("the replica", Soon());
    ASSERT_TRUE(again.ok());
    EXPECT_TRUE(
        absl::IsFailedPrecondition(replica->Connect(*again, "the old primary", Soon()).status()));
  }
}

TEST_P(ShardThreadTest, ALostReplicaHoldsNobodyUp) {
  auto primary = Start({.consistency = Consistency::kAsp});
  auto replica = Start({.consistency = Consistency::kAsp}, /*replica=*/true);
  const auto request = primary->PrepareReplica("the replica", Soon());
  ASSERT_TRUE(request.ok());
  const auto reply = replica->Connect(*request, "the primary", Soon());
  ASSERT_TRUE(reply.ok());
  ASSERT_TRUE(primary->AttachReplica(*reply, Soon()).ok());
  TestWorker worker(GetParam(), 0, placement_);
  ASSERT_TRUE(worker.Connect(*primary).ok());
  ASSERT_TRUE(Assign(worker, 0).ok());
  replica.reset();
  worker.Ask(Op::kPush, 1);
  primary->DetachReplica("its server was lost");
  ASSERT_TRUE(worker.Wait(2));
  EXPECT_TRUE(worker.replies.back().status().ok());
  EXPECT_TRUE(Eventually(*primary,
                         [](const ShardStatus& s) { return s.role == "primary, not replicated"; }));
}

TEST_P(ShardThreadTest, OneAnswerOfAReplicaStandsForAllBefore) {
  auto primary = Start({.consistency = Consistency::kAsp});
  FakeReplica replica(GetParam(), *primary);
  TestWorker worker(GetParam(), 0, placement_);
  ASSERT_TRUE(worker.Connect(*primary).ok());
  const auto slices = static_cast<uint32_t>(placement_.slices(0).size());
  ASSERT_GT(slices, 1u);
  worker.Ask(Op::kAssign, 0, 0);
  const Deadline deadline = Soon();
  while (replica.requests < slices && Clock::now() < deadline) {
    replica.Take();
    EXPECT_FALSE(worker.Wait(1, Clock::now() + milliseconds(5)));
  }
  ASSERT_EQ(replica.requests, slices);
  EXPECT_FALSE(worker.Wait(1, Clock::now() + milliseconds(50)));
  replica.Acknowledge(slices);
  EXPECT_TRUE(worker.Wait(1));
  // It was not given up: a push waits for it again.
  worker.Ask(Op::kPush, 1);
  EXPECT_FALSE(worker.Wait(2, Clock::now() + milliseconds(200)));
}

TEST_P(ShardThreadTest, AReplicaThatAcknowledgesWhatItWasNotSentIsGivenUp) {
  auto primary = Start({.consistency = Consistency::kAsp});
  FakeReplica replica(GetParam(), *primary);
  TestWorker worker(GetParam(), 0, placement_);
  ASSERT_TRUE(worker.Connect(*primary).ok());
  worker.Ask(Op::kAssign, 0, 0);
  replica.Acknowledge(1000);
  EXPECT_TRUE(worker.Wait(1));
  EXPECT_TRUE(Eventually(*primary,
                         [](const ShardStatus& s) { return s.role == "primary, not replicated"; }));
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
