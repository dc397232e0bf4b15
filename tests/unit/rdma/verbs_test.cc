// Every verbs object, and what its failures tell the user.
#include "transport/rdma/verbs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <array>
#include <cerrno>
#include <utility>
#include <vector>

#include "tests/support/fake_verbs.h"
#include "transport/rdma/advice.h"

namespace gradwire::rdma {
namespace {

using test::FailNext;
using testing::AllOf;
using testing::HasSubstr;

class VerbsTest : public testing::Test {
 protected:
  VerbsTest() { test::ResetFakeVerbs(); }
  ~VerbsTest() override { EXPECT_EQ(test::GetFakeCounters().alive.total(), 0); }

  static Device OpenDevice() {
    absl::StatusOr<Device> device = Device::Open("fake0");
    EXPECT_TRUE(device.ok()) << device.status();
    return *std::move(device);
  }
};

bool Readable(int fd) {
  pollfd entry{fd, POLLIN, 0};
  return poll(&entry, 1, 0) == 1;
}

TEST_F(VerbsTest, MakesAndDestroysEveryObject) {
  std::vector<std::byte> memory(100);
  {
    Device device = OpenDevice();
    EXPECT_EQ(device.name(), "fake0");
    EXPECT_EQ(device.attributes().phys_port_cnt, 1);
    const auto port = device.QueryPort(1);
    ASSERT_TRUE(port.ok());
    EXPECT_EQ(port->active_mtu, IBV_MTU_4096);
    auto domain = device.AllocateProtectionDomain();
    auto queue = device.CreateCompletionQueue(16, /*with_channel=*/true);
    ASSERT_TRUE(domain.ok() && queue.ok());
    EXPECT_EQ(queue->entries(), 16);
    EXPECT_GE(queue->fd(), 0);
    auto region = domain->Register(memory, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE);
    ASSERT_TRUE(region.ok());
    EXPECT_NE(region->local_key(), region->remote_key());
    EXPECT_EQ(region->bytes().data(), memory.data());
    // Registered memory is safe in a process that forks.
    EXPECT_EQ(ibv_is_fork_initialized(), IBV_FORK_ENABLED);
    auto shared = domain->CreateSharedReceiveQueue(8);
    ASSERT_TRUE(shared.ok());
    EXPECT_EQ(shared->depth(), 8);
    auto queue_pair = domain->CreateQueuePair({.completion_queue = &*queue,
                                               .shared_receive_queue = &*shared,
                                               .send_depth = 4,
                                               .inline_bytes = 64});
    ASSERT_TRUE(queue_pair.ok());
    EXPECT_EQ(queue_pair->send_depth(), 4);
    EXPECT_EQ(queue_pair->inline_bytes(), 64);
    EXPECT_EQ(queue_pair->QueryState().value(), IBV_QPS_RESET);
    EXPECT_EQ(test::GetFakeCounters().alive.total(), 7);
    EXPECT_EQ(test::GetFakeCounters().registered_bytes, 100u);
  }
  EXPECT_EQ(test::GetFakeCounters().registered_bytes, 0u);
}

TEST_F(VerbsTest, MovedObjectsAreDestroyedOnce) {
  Device opened = OpenDevice();
  Device device = std::move(opened);
  EXPECT_EQ(device.name(), "fake0");
  auto first = device.CreateCompletionQueue(4, true);
  auto second = device.CreateCompletionQueue(8, true);
  ASSERT_TRUE(first.ok() && second.ok());
  *first = *std::move(second);  // the first queue goes, and its channel after it
  EXPECT_EQ(first->entries(), 8);
  EXPECT_EQ(test::GetFakeCounters().alive.completion_queues, 1);
  EXPECT_EQ(test::GetFakeCounters().alive.channels, 1);
}

TEST_F(VerbsTest, NamesTheDevicesThatAreThere) {
  const absl::Status error = Device::Open("mlx5_0").status();
  EXPECT_EQ(error.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Message(error), AllOf(HasSubstr("'mlx5_0'"), HasSubstr("fake0")));
  test::SetFakeDevices({});
  EXPECT_THAT(Message(Device::Open("fake0").status()), HasSubstr("none"));
}

TEST_F(VerbsTest, EveryFailureToOpenLeavesNothing) {
  for (const char* call : {"ibv_get_device_list", "ibv_open_device", "ibv_query_device"}) {
    FailNext(call, EACCES);
    const absl::Status error = Device::Open("fake0").status();
    EXPECT_EQ(error.code(), absl::StatusCode::kPermissionDenied) << call;
    EXPECT_THAT(Message(error), AllOf(HasSubstr("fake0"), HasSubstr("/dev/infiniband"))) << call;
    EXPECT_EQ(test::GetFakeCounters().alive.total(), 0) << call;
  }
}

TEST_F(VerbsTest, EveryFailureToCreateIsReported) {
  Device device = OpenDevice();
  FailNext("ibv_alloc_pd", ENOMEM);
  EXPECT_THAT(Message(device.AllocateProtectionDomain().status()), HasSubstr("memlock"));
  FailNext("ibv_query_port", ENODEV);
  EXPECT_THAT(Message(device.QueryPort(1).status()),
              AllOf(HasSubstr("fake0 port 1"), HasSubstr("gradwire doctor")));
  FailNext("ibv_create_comp_channel", EMFILE);
  EXPECT_THAT(Message(device.CreateCompletionQueue(4, true).status()), HasSubstr("ulimit -n"));
  FailNext("ibv_create_cq", ENOMEM);
  EXPECT_THAT(Message(device.CreateCompletionQueue(4, true).status()), HasSubstr("--queue-depth"));
  EXPECT_EQ(test::GetFakeCounters().alive.channels, 0);
  EXPECT_THAT(Message(device.CreateCompletionQueue(1 << 20, false).status()),
              AllOf(HasSubstr("1048576"), HasSubstr("65536")));

  auto domain = device.AllocateProtectionDomain();
  auto queue = device.CreateCompletionQueue(4, false);
  ASSERT_TRUE(domain.ok() && queue.ok());
  FailNext("ibv_create_srq", ENOMEM);
  EXPECT_THAT(Message(domain->CreateSharedReceiveQueue(8).status()), HasSubstr("8 receives"));
  FailNext("ibv_create_qp", EAGAIN);
  EXPECT_THAT(Message(domain->CreateQueuePair({.completion_queue = &*queue}).status()),
              HasSubstr("--lanes"));
  // What the device allows is in the message.
  const absl::Status too_deep =
      domain->CreateQueuePair({.completion_queue = &*queue, .send_depth = 20000}).status();
  EXPECT_THAT(Message(too_deep), AllOf(HasSubstr("20000"), HasSubstr("16384")));
  EXPECT_EQ(domain->CreateQueuePair({}).status().code(), absl::StatusCode::kInvalidArgument);
  FailNext("ibv_resize_cq", ENOMEM);
  EXPECT_THAT(Message(queue->Resize(8)), HasSubstr("from 4 to 8"));
  EXPECT_TRUE(queue->Resize(8).ok());
  EXPECT_EQ(queue->entries(), 8);
}

TEST_F(VerbsTest, RegistrationNamesTheMemlockLimit) {
  Device device = OpenDevice();
  auto domain = device.AllocateProtectionDomain();
  ASSERT_TRUE(domain.ok());
  std::vector<std::byte> memory(4096);
  FailNext("ibv_reg_mr", ENOMEM);
  const absl::Status error = domain->Register(memory, IBV_ACCESS_LOCAL_WRITE).status();
  EXPECT_EQ(error.code(), absl::ErrnoToStatusCode(ENOMEM));
  EXPECT_THAT(Message(error), AllOf(HasSubstr("4096 bytes"), HasSubstr("memlock limit")));
  EXPECT_EQ(domain->Register({}, 0).status().code(), absl::StatusCode::kInvalidArgument);
  // A remote right without the local one is refused by the device.
  EXPECT_FALSE(domain->Register(memory, IBV_ACCESS_REMOTE_WRITE).ok());
}

TEST_F(VerbsTest, TakesLessInlineThanAskedWhereTheDeviceHasLess) {
  test::SetFakeDevices({{.max_inline_bytes = 100}});
  Device device = OpenDevice();
  auto domain = device.AllocateProtectionDomain();
  auto queue = device.CreateCompletionQueue(4, false);
  auto queue_pair = domain->CreateQueuePair(
      {.completion_queue = &*queue, .send_depth = 1, .receive_depth = 1, .inline_bytes = 128});
  ASSERT_TRUE(queue_pair.ok()) << queue_pair.status();
  EXPECT_EQ(queue_pair->inline_bytes(), 64);
}

TEST_F(VerbsTest, SaysThatADeviceHasNoSharedReceiveQueues) {
  test::SetFakeDevices({{.has_shared_receive_queues = false}});
  Device device = OpenDevice();
  auto domain = device.AllocateProtectionDomain();
  const absl::Status error = domain->CreateSharedReceiveQueue(8).status();
  EXPECT_EQ(error.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(Message(error), AllOf(HasSubstr("fake0"), HasSubstr("--receive-queue own")));
}

TEST_F(VerbsTest, FailedCompletionCallsAreErrors) {
  Device device = OpenDevice();
  auto queue = device.CreateCompletionQueue(4, true);
  ASSERT_TRUE(queue.ok());
  std::array<ibv_wc, 4> completions;
  EXPECT_EQ(queue->Poll(completions).value(), 0);
  FailNext("ibv_poll_cq", EIO);
  EXPECT_THAT(Message(queue->Poll(completions).status()), HasSubstr("take completions"));
  FailNext("ibv_req_notify_cq", ENODEV);
  EXPECT_FALSE(queue->Arm().ok());
  EXPECT_TRUE(queue->Arm().ok());
  FailNext("ibv_get_cq_event", EBADF);
  EXPECT_FALSE(queue->TakeEvents().ok());
  EXPECT_EQ(queue->TakeEvents().value(), 0);  // does not block
  auto silent = device.CreateCompletionQueue(4, false);
  EXPECT_EQ(silent->fd(), -1);
  EXPECT_FALSE(silent->TakeEvents().ok());
}

TEST_F(VerbsTest, AFailedDestroyIsSurvived) {
  Device device = OpenDevice();
  { auto domain = device.AllocateProtectionDomain(); }
  FailNext("ibv_dealloc_pd", EBUSY);
  { auto domain = device.AllocateProtectionDomain(); }
  EXPECT_EQ(test::GetFakeCounters().alive.domains, 1);
  { Device closing = std::move(device); }
  EXPECT_EQ(test::GetFakeCounters().alive.contexts, 1);  // its domain is still there
  test::ResetFakeVerbs();
}

TEST_F(VerbsTest, TellsAsynchronousEventsAndTheirSubject) {
  Device device = OpenDevice();
  EXPECT_FALSE(device.NextAsyncEvent().value().has_value());
  test::SetPortState("fake0", 1, IBV_PORT_DOWN);
  EXPECT_TRUE(Readable(device.async_fd()));
  const auto event = device.NextAsyncEvent().value();
  ASSERT_TRUE(event.has_value());
  EXPECT_EQ(event->type, IBV_EVENT_PORT_ERR);
  EXPECT_EQ(event->port, 1);
  EXPECT_EQ(event->qp_number, 0u);
  EXPECT_THAT(Message(AsyncEventStatus(*event, "fake0")), HasSubstr("fake0 port 1"));
  EXPECT_FALSE(Readable(device.async_fd()));
  EXPECT_EQ(test::GetFakeCounters().unacknowledged_events, 0);

  auto domain = device.AllocateProtectionDomain();
  auto queue = device.CreateCompletionQueue(4, false);
  auto queue_pair = domain->CreateQueuePair({.completion_queue = &*queue});
  test::RaiseEvent("fake0", IBV_EVENT_QP_FATAL, 0, queue_pair->number());
  EXPECT_EQ(device.NextAsyncEvent().value()->qp_number, queue_pair->number());
  FailNext("ibv_get_async_event", EIO);
  EXPECT_FALSE(device.NextAsyncEvent().ok());
}

TEST(AdviceTest, FatalEventsAreErrorsAndOthersAreNot) {
  for (const ibv_event_type type :
       {IBV_EVENT_QP_FATAL, IBV_EVENT_QP_REQ_ERR, IBV_EVENT_QP_ACCESS_ERR, IBV_EVENT_CQ_ERR,
        IBV_EVENT_SRQ_ERR, IBV_EVENT_PORT_ERR, IBV_EVENT_DEVICE_FATAL}) {
    const absl::Status error = AsyncEventStatus({type, 1, 77}, "rxe0");
    EXPECT_EQ(error.code(), absl::StatusCode::kUnavailable) << type;
    EXPECT_THAT(Message(error), AllOf(HasSubstr("rxe0"), HasSubstr(ibv_event_type_str(type))));
  }
  for (const ibv_event_type type :
       {IBV_EVENT_COMM_EST, IBV_EVENT_SQ_DRAINED, IBV_EVENT_PORT_ACTIVE, IBV_EVENT_GID_CHANGE,
        IBV_EVENT_QP_LAST_WQE_REACHED, IBV_EVENT_SRQ_LIMIT_REACHED}) {
    EXPECT_TRUE(AsyncEventStatus({type, 1, 0}, "rxe0").ok()) << type;
  }
}

TEST(AdviceTest, EveryCompletionStatusHasAdvice) {
  EXPECT_TRUE(CompletionError(IBV_WC_SUCCESS, "write to rank 3").ok());
  for (int status = IBV_WC_LOC_LEN_ERR; status <= IBV_WC_GENERAL_ERR; ++status) {
    const auto code = static_cast<ibv_wc_status>(status);
    const absl::Status error = CompletionError(code, "write to rank 3");
    EXPECT_FALSE(error.ok());
    EXPECT_THAT(Message(error),
                AllOf(HasSubstr("write to rank 3: "), HasSubstr(ibv_wc_status_str(code)),
                      HasSubstr("; "), testing::Not(HasSubstr("\n"))));
  }
  EXPECT_THAT(Message(CompletionError(IBV_WC_RETRY_EXC_ERR, "x")),
              AllOf(HasSubstr("--ib-timeout"), HasSubstr("--gid-index"), HasSubstr("gone")));
  EXPECT_THAT(Message(CompletionError(IBV_WC_RNR_RETRY_EXC_ERR, "x")), HasSubstr("--rnr-retries"));
  EXPECT_THAT(Message(CompletionError(IBV_WC_REM_ACCESS_ERR, "x")), HasSubstr("bounds"));
  EXPECT_THAT(Message(CompletionError(IBV_WC_WR_FLUSH_ERR, "x")), HasSubstr("first error"));
  EXPECT_THAT(Message(CompletionError(IBV_WC_FATAL_ERR, "x", 0x81)), HasSubstr("0x81"));
}

TEST(AdviceTest, TheSameErrnoMeansOtherThingsToOtherCalls) {
  EXPECT_THAT(Message(VerbsError(EINVAL, Verb::kToReady, "go")), HasSubstr("--gid-index"));
  EXPECT_THAT(Message(VerbsError(ENOMEM, Verb::kPost, "go")), HasSubstr("queue is full"));
  EXPECT_THAT(Message(VerbsError(ENOMEM, Verb::kRegister, "go")), HasSubstr("memlock"));
  EXPECT_THAT(Message(VerbsError(ETIMEDOUT, Verb::kToReady, "go")), HasSubstr("ping"));
  EXPECT_THAT(Message(VerbsError(EPERM, Verb::kRegister, "go")), HasSubstr("memlock"));
  EXPECT_THAT(Message(VerbsError(ENOSYS, Verb::kOpenDevice, "go")), HasSubstr("doctor"));
  EXPECT_EQ(VerbsError(EINVAL, Verb::kPost, "go").code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace gradwire::rdma
