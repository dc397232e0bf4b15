// What the control plane of the parameter server carries, over real connections, with a handler
// that says what the test wants.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "tests/unit/parameter_server/control_served.h"

namespace gradwire::ps {
namespace {

using std::chrono::seconds;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::Ignore;
using testing::Open;
using testing::Served;
using testing::SmallLayout;
using testing::Within;

TEST(Control, CarriesAJoinAndItsReply) {
  Served served;
  served.handler.join_reply = {.worker = 17,
                               .server = 1,
                               .servers = 3,
                               .shards_per_server = 4,
                               .replicas = true,
                               .slice_bytes = 64 << 10,
                               .window = 16,
                               .transport = "rdma",
                               .device = "urxe0, user space",
                               .consistency = Consistency::kSsp,
                               .staleness = 3,
                               .workers = 9,
                               .initialized = true,
                               .restored_step = 120,
                               .run = "4711"};
  const auto client = Open(served.address());
  const Layout layout = SmallLayout();
  const auto reply = client->Join({.layout = layout,
                                   .transport = "auto",
                                   .worker = 17,
                                   .count = 100,
                                   .host = "rank 2 (node7, pid 4711)",
                                   .pid = 4711,
                                   .server = 2,
                                   .run = "4711"},
                                  Ignore, Within(seconds(5)));
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->session, 1);
  EXPECT_EQ(reply->worker, 17);
  EXPECT_EQ(reply->server, 1);
  EXPECT_EQ(reply->servers, 3);
  EXPECT_EQ(reply->shards_per_server, 4);
  EXPECT_TRUE(reply->replicas);
  EXPECT_EQ(reply->slice_bytes, 64 << 10);
  EXPECT_EQ(reply->window, 16);
  EXPECT_EQ(reply->transport, "rdma");
  EXPECT_EQ(reply->device, "urxe0, user space");
  EXPECT_EQ(reply->consistency, Consistency::kSsp);
  EXPECT_EQ(reply->staleness, 3);
  EXPECT_EQ(reply->workers, 9);
  EXPECT_TRUE(reply->initialized);
  EXPECT_EQ(reply->restored_step, 120);
  EXPECT_EQ(reply->run, "4711");
  EXPECT_TRUE(reply->layout.Matches(layout).ok());

  const auto joins = served.handler.joins();
  ASSERT_EQ(joins.size(), 1u);
  EXPECT_TRUE(joins[0].layout.Matches(layout).ok());
  EXPECT_EQ(joins[0].transport, "auto");
  EXPECT_EQ(joins[0].worker, 17);
  EXPECT_EQ(joins[0].count, 100);
  EXPECT_EQ(joins[0].host, "rank 2 (node7, pid 4711)");
  EXPECT_EQ(joins[0].pid, 4711);
  EXPECT_EQ(joins[0].server, 2);
  EXPECT_EQ(joins[0].run, "4711");
}

TEST(Control, TellsTheLayoutToWhoHasNone) {
  Served served;
  served.handler.join_reply.layout = SmallLayout();
  const auto client = Open(served.address());
  const auto reply = client->Join({}, Ignore, Within(seconds(5)));
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_TRUE(reply->layout.Matches(SmallLayout()).ok());
}

TEST(Control, CarriesTheLargestLayout) {
  Served served;
  std::vector<TensorSpec> tensors(Layout::kMaxTensors);
  for (size_t i = 0; i < tensors.size(); ++i) {
    tensors[i].name = std::to_string(i) + std::string(240, 'n');
    tensors[i].shape = {1000, 4};
  }
  const auto layout = Layout::Make(std::move(tensors));
  ASSERT_TRUE(layout.ok()) << layout.status();
  served.handler.join_reply.layout = *layout;
  const auto client = Open(served.address());
  const auto reply = client->Join({.layout = *layout}, Ignore, Within(seconds(10)));
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_TRUE(served.handler.joins()[0].layout.Matches(*layout).ok());
  // And back.
  const auto monitor = Open(served.address());
  const auto told = monitor->Join({}, Ignore, Within(seconds(10)));
  ASSERT_TRUE(told.ok()) << told.status();
  EXPECT_TRUE(told->layout.Matches(*layout).ok());
}

TEST(Control, CarriesAConnectionAndItsReply) {
  Served served;
  ConnectReply& answer = served.handler.connect_reply;
  answer.facts.secret = std::string("\0\x01secret", 8);
  answer.facts.endpoints = {{"10.0.0.1", 4000}};
  answer.facts.queue_pairs.resize(1);
  answer.facts.queue_pairs[0].qp_number = 0xabcdef;
  answer.facts.window = 8;
  answer.facts.slot_bytes = 4096;
  answer.facts.link = 77;
  answer.clock = 12;
  answer.maps = true;
  const auto client = Open(served.address());
  ASSERT_TRUE(client->Join({}, Ignore, Within(seconds(5))).ok());
  ConnectRequest request;
  request.session = 1;
  request.worker = 3;
  request.shard = 2;
  request.facts.grants = {{0x7000, 4096, 9, 1}};
  request.parameters = {0x7f0000000000, 1 << 20, 0xfeedbeef, 1};
  request.gradients = {0x7f0000100000, 1 << 20, 0xdeadbeef, 0};
  request.wire = DataType::kBfloat16;
  const auto reply = client->Connect(request, Within(seconds(5)));
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->facts.secret, answer.facts.secret);
  ASSERT_EQ(reply->facts.endpoints.size(), 1u);
  EXPECT_EQ(reply->facts.endpoints[0].address, "10.0.0.1");
  ASSERT_EQ(reply->facts.queue_pairs.size(), 1u);
  EXPECT_EQ(reply->facts.queue_pairs[0].qp_number, 0xabcdefu);
  EXPECT_EQ(reply->facts.window, 8);
  EXPECT_EQ(reply->facts.link, 77u);
  EXPECT_EQ(reply->clock, 12);
  EXPECT_TRUE(reply->maps);

  const ConnectRequest seen = served.handler.last_connect();
  EXPECT_EQ(seen.session, 1);
  EXPECT_EQ(seen.worker, 3);
  EXPECT_EQ(seen.shard, 2);
  ASSERT_EQ(seen.facts.grants.size(), 1u);
  EXPECT_EQ(seen.facts.grants[0].address, 0x7000u);
  EXPECT_EQ(seen.parameters.address, 0x7f0000000000u);
  EXPECT_EQ(seen.parameters.length, 1u << 20);
  EXPECT_EQ(seen.parameters.key, 0xfeedbeefu);
  EXPECT_EQ(seen.parameters.mappable, 1u);
  EXPECT_EQ(seen.gradients.key, 0xdeadbeefu);
  EXPECT_EQ(seen.gradients.mappable, 0u);
  EXPECT_EQ(seen.wire, DataType::kBfloat16);
}

TEST(Control, CarriesStatusStopCheckpointAndPromotion) {
  Served served;
  ServerStatus& status = served.handler.status;
  status.server = 1;
  status.servers = 2;
  status.address = "10.0.0.1:4000";
  status.optimizer = "adam";
  status.checkpoint = "/data/step-7";
  status.consistency = Consistency::kAsp;
  status.shards.push_back({.shard = 4,
                           .role = "primary",
                           .bytes = 1 << 30,
                           .min_clock = 9,
                           .updates = 10,
                           .duplicates = 11,
                           .refused = 12,
                           .updates_per_second = 13.5,
                           .links = 14});
  status.workers.push_back({7, "worker 7 (node7, pid 4711)", 9, 3, 40});
  const auto client = Open(served.address());  // no session is needed
  const auto told = client->Status();
  ASSERT_TRUE(told.ok()) << told.status();
  EXPECT_EQ(told->server, 1);
  EXPECT_EQ(told->servers, 2);
  EXPECT_EQ(told->address, "10.0.0.1:4000");
  EXPECT_EQ(told->consistency, Consistency::kAsp);
  EXPECT_EQ(told->optimizer, "adam");
  EXPECT_EQ(told->checkpoint, "/data/step-7");
  ASSERT_EQ(told->shards.size(), 1u);
  EXPECT_EQ(told->shards[0].shard, 4);
  EXPECT_EQ(told->shards[0].role, "primary");
  EXPECT_EQ(told->shards[0].updates_per_second, 13.5);
  EXPECT_EQ(told->shards[0].links, 14);
  ASSERT_EQ(told->workers.size(), 1u);
  EXPECT_EQ(told->workers[0].who, "worker 7 (node7, pid 4711)");
  EXPECT_EQ(told->workers[0].waits_for, 3);

  const auto checkpoint = client->Checkpoint();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(*checkpoint, "/tmp/step-7");
  const absl::Status promoted = client->Promote(5, Within(seconds(5)));
  EXPECT_TRUE(absl::IsUnavailable(promoted)) << promoted;
  EXPECT_THAT(Message(promoted), AllOf(HasSubstr(served.address()), HasSubstr("shard 5"),
                                       HasSubstr("still hears the primary")));
  EXPECT_TRUE(client->Stop("asked for").ok());
  EXPECT_EQ(served.handler.stopped(), "asked for");
}

TEST(Control, TellsTheHandlersRefusal) {
  Served served;
  served.handler.join_status = InvalidArgument("tensor 3 is 'bias', not 'weight'");
  const auto client = Open(served.address());
  const auto reply = client->Join({}, Ignore, Within(seconds(5)));
  EXPECT_TRUE(absl::IsInvalidArgument(reply.status())) << reply.status();
  EXPECT_THAT(Message(reply.status()),
              AllOf(HasSubstr(served.address()), HasSubstr("'bias', not 'weight'")));
}

}  // namespace
}  // namespace gradwire::ps
