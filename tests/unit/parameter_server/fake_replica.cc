#include "tests/unit/parameter_server/fake_replica.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <new>
#include <thread>
#include <utility>

#include "parameter_server/protocol.h"

namespace gradwire::ps {

FakeReplica::FakeReplica(const std::string& transport, ShardThread& primary)
    : side_(SettingsFor(transport)) {
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

void FakeReplica::Take() {
  std::array<Completion, 16> batch;
  const auto some = side_.transport->Wait(batch, Clock::now() + std::chrono::milliseconds(5));
  for (int i = 0; some.ok() && i < *some; ++i) {
    const Completion& completion = batch[static_cast<size_t>(i)];
    if (completion.kind != Completion::Kind::kArrived) continue;
    if (completion.tag == kRequestTag) ++requests;
    EXPECT_TRUE(link_->Release(1).ok());
  }
  side_.transport->Flush().IgnoreError();
}

void FakeReplica::Acknowledge(uint32_t number) {
  const int buffer = replies_->Take();
  Reply& reply = *new (replies_->bytes(buffer).data()) Reply;
  reply.number = number;
  const size_t length = offsetof(Reply, text);
  EXPECT_TRUE(
      link_->Write(replies_->Span(buffer, length), link_->NextSlot(length), kReplyTag).ok());
  EXPECT_TRUE(side_.transport->Flush().ok());
}

}  // namespace gradwire::ps
