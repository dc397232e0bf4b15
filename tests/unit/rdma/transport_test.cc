// The RDMA transport between threads over queue pairs that move real bytes (fake_verbs.h), and
// against failures of the device.
#include "transport/rdma/transport.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <thread>
#include <tuple>

#include "tests/support/fake_verbs.h"
#include "tests/support/links.h"
#include "tests/support/local_world.h"

namespace gradwire::rdma {
namespace {

using test::GetFakeCounters;
using test::In;
using test::LinkSettings;
using test::LocalJob;
using test::Next;
using ::testing::HasSubstr;

// Every test begins and ends without a verbs object.
class RdmaTest : public ::testing::Test {
 protected:
  void SetUp() override { test::ResetFakeVerbs(); }
  void TearDown() override { EXPECT_EQ(GetFakeCounters().alive.total(), 0); }
};

// Both ranks write `writes` messages of growing length to each other, each checked byte by byte.
void WriteToEachOther(World& world, const Settings& settings, int writes) {
  auto transport = RdmaTransport::Create(world, settings, "test");
  ASSERT_TRUE(transport.ok()) << transport.status();
  auto link = (*transport)->OpenLink(1 - world.rank(), In(10'000));
  ASSERT_TRUE(link.ok()) << link.status();
  auto region = (*transport)->Allocate(4096, Access::kLocal);
  ASSERT_TRUE(region.ok());
  int sent = 0;
  int received = 0;
  while (sent < writes || received < writes ||
         (*link)->written() < (*link)->next_sequence()) {  // the source must live until then
    if (sent < writes && (*link)->credits() > 0 && (*link)->written() == (*link)->next_sequence()) {
      const auto length = static_cast<size_t>(sent * 37 % 4097);
      std::memset(region->bytes().data(), sent & 0xff, length);
      ASSERT_EQ((*link)->Write(*region->Span(0, length), (*link)->NextSlot(length),
                               static_cast<uint32_t>(sent)),
                absl::OkStatus());
      ASSERT_EQ((*link)->Settle(), absl::OkStatus());
      ++sent;
      continue;
    }
    Completion completions[3];
    const auto count = (*transport)->Wait(completions, In(10'000));
    ASSERT_TRUE(count.ok()) << count.status();
    for (int i = 0; i < *count; ++i) {
      const Completion& completion = completions[i];
      if (completion.kind != Completion::Kind::kArrived) continue;
      ASSERT_EQ(completion.tag, static_cast<uint32_t>(received));
      ASSERT_EQ(completion.length, static_cast<uint32_t>(received * 37 % 4097));
      for (const std::byte byte : (*link)->Slot(completion)) {
        ASSERT_EQ(byte, static_cast<std::byte>(received & 0xff));
      }
      ASSERT_EQ((*link)->Release(1), absl::OkStatus());
      ++received;
    }
  }
  EXPECT_EQ((*transport)->counters().writes, static_cast<uint64_t>(writes));
  EXPECT_EQ((*transport)->counters().arrivals, static_cast<uint64_t>(writes));
}

class ModesTest : public RdmaTest,
                  public ::testing::WithParamInterface<std::tuple<int, const char*, const char*>> {
};

TEST_P(ModesTest, WritesArriveInOrderAndNeverFindTheReceiverUnready) {
  Settings settings = LinkSettings();
  std::tie(settings.lanes, settings.receive_queue, settings.completion) = GetParam();
  LocalJob::Run(2, [&](World& world) { WriteToEachOther(world, settings, 300); });
  EXPECT_EQ(GetFakeCounters().not_ready, 0u);
  EXPECT_EQ(GetFakeCounters().overruns, 0u);
}

INSTANTIATE_TEST_SUITE_P(Modes, ModesTest,
                         ::testing::Combine(::testing::Values(1, 3),
                                            ::testing::Values("own", "shared"),
                                            ::testing::Values("adaptive", "polling", "channel")));

TEST_F(RdmaTest, EveryShapeOfQueueDrains) {
  for (const int depth : {2, 3, 16}) {
    for (const int interval : {1, 2, 15}) {
      for (const int chain : {1, 2, 16}) {
        for (const int batch : {1, 32}) {
          Settings settings = LinkSettings();
          settings.queue_depth = depth;
          settings.signal_interval = interval;
          settings.chain_length = chain;
          settings.receive_batch = batch;
          settings.slots = 5;
          if (!Validate(settings).ok()) continue;
          SCOPED_TRACE(
              fmt::format("depth {} interval {} chain {} batch {}", depth, interval, chain, batch));
          LocalJob::Run(2, [&](World& world) { WriteToEachOther(world, settings, 40); });
          ASSERT_EQ(GetFakeCounters().not_ready, 0u);
        }
      }
    }
  }
}

TEST(RdmaSettings, WhatCannotDrainIsRefusedWithTheReason) {
  Settings settings;
  settings.queue_depth = 8;
  settings.signal_interval = 8;
  EXPECT_THAT(Message(Validate(settings)), HasSubstr("never drains"));
  settings.signal_interval = 7;
  settings.chain_length = 9;
  EXPECT_THAT(Message(Validate(settings)), HasSubstr("never fits"));
  settings.chain_length = 8;
  EXPECT_TRUE(Validate(settings).ok());
  settings.path_mtu = 1500;
  EXPECT_THAT(Message(Validate(settings)), HasSubstr("--path-mtu 1500"));
}

TEST_F(RdmaTest, NoWriteWithoutACredit) {
  LocalJob::Run(2, [&](World& world) {
    auto transport = RdmaTransport::Create(world, LinkSettings(), "test");
    ASSERT_TRUE(transport.ok()) << transport.status();
    Link* const link = *(*transport)->OpenLink(1 - world.rank(), In(10'000));
    auto region = (*transport)->Allocate(64, Access::kLocal);
    const RegionSpan span = *region->Span(0, 64);
    if (world.rank() == 0) {
      for (int i = 0; i < link->window(); ++i) {
        ASSERT_EQ(link->Write(span, link->NextSlot(64), 1), absl::OkStatus());
      }
      EXPECT_TRUE(absl::IsResourceExhausted(link->Write(span, link->NextSlot(64), 1)));
      ASSERT_TRUE(Next(**transport, Completion::Kind::kCredits).ok());
      EXPECT_GT(link->credits(), 0);
      EXPECT_TRUE(absl::IsInvalidArgument(link->Write(span, link->NextSlot(63), 1)));
      EXPECT_TRUE(absl::IsInvalidArgument(link->Write(span, link->NextSlot(64), 1u << 20)));
    } else {
      for (int i = 0; i < link->window(); ++i) {
        ASSERT_TRUE(Next(**transport, Completion::Kind::kArrived).ok());
      }
      EXPECT_TRUE(absl::IsInvalidArgument(link->Release(link->window() + 1)));
      ASSERT_EQ(link->Release(link->window()), absl::OkStatus());
    }
    ASSERT_EQ(world.Barrier("end", std::chrono::seconds(10)), absl::OkStatus());
  });
}

TEST_F(RdmaTest, WhoLeavesSaysSoAfterEverythingElse) {
  LocalJob::Run(2, [&](World& world) {
    auto transport = RdmaTransport::Create(world, LinkSettings(), "test");
    ASSERT_TRUE(transport.ok()) << transport.status();
    Link* const link = *(*transport)->OpenLink(1 - world.rank(), In(10'000));
    if (world.rank() == 0) {
      auto region = (*transport)->Allocate(64, Access::kLocal);
      for (uint32_t i = 0; i < 3; ++i) {
        ASSERT_EQ(link->Write(*region->Span(0, 64), link->NextSlot(64), i), absl::OkStatus());
      }
      ASSERT_EQ(link->Settle(), absl::OkStatus());
      while (link->written() < 2) ASSERT_TRUE(Next(**transport, Completion::Kind::kWritten).ok());
      return;
    }
    for (uint32_t i = 0; i < 3; ++i) {
      const auto arrived = Next(**transport, Completion::Kind::kArrived);
      ASSERT_TRUE(arrived.ok()) << arrived.status();
      EXPECT_EQ(arrived->tag, i);
    }
    ASSERT_TRUE(Next(**transport, Completion::Kind::kClosed).ok());
    EXPECT_THAT(Message(link->status()), HasSubstr("rank 0"));
    EXPECT_THAT(Message(link->status()), HasSubstr("has left"));
  });
}

TEST_F(RdmaTest, FailedCompletionEndsTheLinkWithAdvice) {
  for (const char* mode : {"adaptive", "channel", "polling"}) {
    LocalJob::Run(2, [&](World& world) {
      Settings settings = LinkSettings();
      settings.completion = mode;
      auto transport = RdmaTransport::Create(world, settings, "test");
      ASSERT_TRUE(transport.ok()) << transport.status();
      Link* const link = *(*transport)->OpenLink(1 - world.rank(), In(10'000));
      if (world.rank() == 0) {
        auto region = (*transport)->Allocate(64, Access::kLocal);
        test::CompleteNext(IBV_WC_RETRY_EXC_ERR);
        ASSERT_EQ(link->Write(*region->Span(0, 64), link->NextSlot(64), 1), absl::OkStatus());
        ASSERT_TRUE(Next(**transport, Completion::Kind::kClosed).ok());
        EXPECT_TRUE(absl::IsUnavailable(link->status())) << link->status();
        EXPECT_THAT(Message(link->status()), HasSubstr("rank 1"));
        EXPECT_THAT(Message(link->status()), HasSubstr("--ib-timeout"));
        const absl::Status again = link->Write(*region->Span(0, 64), link->NextSlot(64), 1);
        EXPECT_EQ(again, link->status());  // it latches
      }
      ASSERT_EQ(world.Barrier("end", std::chrono::seconds(10)), absl::OkStatus());
    });
  }
}

TEST_F(RdmaTest, FullQueueThatCannotDrainEndsTheLink) {
  LocalJob::Run(2, [&](World& world) {
    auto transport = RdmaTransport::Create(world, LinkSettings(), "test");
    ASSERT_TRUE(transport.ok()) << transport.status();
    Link* const link = *(*transport)->OpenLink(1 - world.rank(), In(10'000));
    if (world.rank() == 0) {
      auto region = (*transport)->Allocate(64, Access::kLocal);
      test::FailNext("ibv_post_send", ENOMEM);
      ASSERT_EQ(link->Write(*region->Span(0, 64), link->NextSlot(64), 1), absl::OkStatus());
      ASSERT_TRUE(Next(**transport, Completion::Kind::kClosed).ok());
      EXPECT_THAT(Message(link->status()), HasSubstr("post a write to rank 1"));
    }
    ASSERT_EQ(world.Barrier("end", std::chrono::seconds(10)), absl::OkStatus());
  });
}

TEST_F(RdmaTest, PortDownLatches) {
  for (const char* mode : {"adaptive", "channel", "polling"}) {
    test::ResetFakeVerbs();
    LocalJob::Run(2, [&](World& world) {
      Settings settings = LinkSettings();
      settings.completion = mode;
      auto transport = RdmaTransport::Create(world, settings, "test");
      ASSERT_TRUE(transport.ok()) << transport.status();
      Link* const link = *(*transport)->OpenLink(1 - world.rank(), In(10'000));
      ASSERT_EQ(world.Barrier("open", std::chrono::seconds(10)), absl::OkStatus());
      if (world.rank() == 0) test::SetPortState("fake0", 1, IBV_PORT_DOWN);
      Completion completion[1];
      const auto waited = (*transport)->Wait(completion, In(10'000));
      ASSERT_TRUE(absl::IsUnavailable(waited.status())) << waited.status();
      EXPECT_THAT(Message(waited.status()), HasSubstr("fake0 port 1"));
      EXPECT_EQ((*transport)->Poll(completion).status(), waited.status());
      EXPECT_EQ((*transport)->OpenLink(1 - world.rank(), In(100)).status(), waited.status());
      EXPECT_FALSE(link->status().ok());
    });
  }
}

TEST_F(RdmaTest, HarmlessEventsChangeNothing) {
  LocalJob::Run(2, [&](World& world) {
    Settings settings = LinkSettings();
    settings.spin_us = 0;
    auto transport = RdmaTransport::Create(world, settings, "test");
    ASSERT_TRUE(transport.ok()) << transport.status();
    ASSERT_TRUE((*transport)->OpenLink(1 - world.rank(), In(10'000)).ok());
    test::RaiseEvent("fake0", IBV_EVENT_GID_CHANGE, 1);
    test::RaiseEvent("fake0", IBV_EVENT_PORT_ERR, 2);  // a port that is not ours
    Completion completion[1];
    EXPECT_TRUE(absl::IsDeadlineExceeded((*transport)->Wait(completion, In(50)).status()));
    ASSERT_EQ(world.Barrier("end", std::chrono::seconds(10)), absl::OkStatus());
  });
}

TEST_F(RdmaTest, WaitEndsWhenTheJobFails) {
  for (const char* mode : {"adaptive", "channel", "polling"}) {
    LocalJob job(2, false);
    std::vector<std::thread> threads;
    for (int rank = 0; rank < 2; ++rank) {
      threads.emplace_back([&job, rank, mode] {
        Settings settings = LinkSettings();
        settings.completion = mode;
        const auto world = job.Join(rank);
        auto transport = RdmaTransport::Create(*world, settings, "test");
        ASSERT_TRUE(transport.ok());
        ASSERT_TRUE((*transport)->OpenLink(1 - rank, In(10'000)).ok());
        if (rank == 0) job.Fail(Unavailable("rank 7 died"));
        const auto arrived = Next(**transport, Completion::Kind::kArrived);
        EXPECT_THAT(Message(arrived.status()), HasSubstr("rank 7 died"));
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
}

TEST_F(RdmaTest, EveryFailureOfSettingUpIsReportedAndLeavesNothing) {
  struct Failure {
    const char* function;
    int error;
    const char* message;
  };
  const Failure failures[] = {
      {"ibv_open_device", EACCES, "fake0"},
      {"ibv_alloc_pd", ENOMEM, "protection domain"},
      {"ibv_create_comp_channel", EMFILE, "ulimit -n"},
      {"ibv_create_cq", ENOMEM, "completion queue"},
      {"ibv_reg_mr", ENOMEM, "memlock"},
      {"ibv_create_qp", ENOMEM, "queue pair"},
      {"ibv_modify_qp", EINVAL, "INIT"},
      {"ibv_post_recv", ENOMEM, "receives"},
  };
  for (const Failure& failure : failures) {
    test::ResetFakeVerbs();
    LocalJob job(2, false);
    const auto world = job.Join(0);
    test::FailNext(failure.function, failure.error);
    absl::Status status;
    {
      auto transport = RdmaTransport::Create(*world, LinkSettings(), "test");
      status = transport.ok() ? (*transport)->OpenLink(1, In(5'000)).status() : transport.status();
    }
    EXPECT_FALSE(status.ok()) << failure.function;
    EXPECT_THAT(Message(status), HasSubstr(failure.message)) << failure.function;
    EXPECT_EQ(GetFakeCounters().alive.total(), 0) << failure.function;
  }
}

TEST_F(RdmaTest, DifferentSettingsAreNamed) {
  LocalJob::Run(2, [&](World& world) {
    Settings settings = LinkSettings();
    settings.slots = world.rank() == 0 ? 4 : 8;
    const auto transport = RdmaTransport::Create(world, settings, "test");
    ASSERT_TRUE(transport.ok()) << transport.status();
    const auto link = (*transport)->OpenLink(1 - world.rank(), In(10'000));
    ASSERT_TRUE(absl::IsInvalidArgument(link.status())) << link.status();
    EXPECT_THAT(Message(link.status()), HasSubstr(world.rank() == 0 ? "--slots 8" : "--slots 4"));
    EXPECT_THAT(Message(link.status()), HasSubstr(fmt::format("rank {}", 1 - world.rank())));
  });
}

TEST_F(RdmaTest, WithoutADeviceTheErrorSaysWhatToDo) {
  test::SetFakeDevices({});
  LocalJob::Run(1, [&](World& world) {
    const auto transport = RdmaTransport::Create(world, LinkSettings(), "test");
    EXPECT_TRUE(absl::IsNotFound(transport.status()));
    EXPECT_THAT(Message(transport.status()), HasSubstr("gradwire doctor"));
  });
}

TEST_F(RdmaTest, TooManySharedReceivesAreRefused) {
  test::FakeDevice device;
  device.has_shared_receive_queues = false;
  test::SetFakeDevices({device});
  LocalJob::Run(2, [&](World& world) {
    Settings settings = LinkSettings();
    settings.receive_queue = "shared";
    const auto transport = RdmaTransport::Create(world, settings, "test");
    EXPECT_THAT(Message(transport.status()), HasSubstr("--receive-queue shared"));
  });
}

TEST_F(RdmaTest, RegistrationsAreFoundByAddress) {
  LocalJob::Run(1, [&](World& world) {
    auto transport = RdmaTransport::Create(world, LinkSettings(), "test");
    ASSERT_TRUE(transport.ok()) << transport.status();
    std::vector<std::byte> memory(1 << 16);
    const Bytes all(memory);
    Region whole = *(*transport)->Register(all, Access::kRemoteWrite);
    EXPECT_EQ(GetFakeCounters().alive.regions, 1);
    {
      const Region part = *(*transport)->Register(all.subspan(100, 200), Access::kLocal);
      EXPECT_EQ(GetFakeCounters().alive.regions, 1);
      // What is granted is the part, whatever was registered around it.
      EXPECT_EQ(part.grant().address, reinterpret_cast<uint64_t>(memory.data()) + 100);
      EXPECT_EQ(part.grant().length, 200u);
      EXPECT_EQ(part.grant().key, whole.grant().key);
      EXPECT_FALSE(part.Span(100, 101).ok());
    }
    // A part that outlives the whole keeps the registration.
    Region part = *(*transport)->Register(all.subspan(4096), Access::kRemoteWrite);
    whole = Region();
    EXPECT_EQ(GetFakeCounters().alive.regions, 1);
    part = Region();
    EXPECT_EQ(GetFakeCounters().alive.regions, 0);
    // A right to write is not found in a registration without it.
    const Region local = *(*transport)->Register(all, Access::kLocal);
    const Region writable = *(*transport)->Register(all.subspan(0, 64), Access::kRemoteWrite);
    EXPECT_EQ(GetFakeCounters().alive.regions, 2);
    EXPECT_NE(local.grant().key, writable.grant().key);
    // Nothing needs no registration.
    EXPECT_TRUE((*transport)->Register(Bytes(), Access::kRemoteWrite).ok());
    EXPECT_EQ(GetFakeCounters().alive.regions, 2);
  });
}

}  // namespace
}  // namespace gradwire::rdma
