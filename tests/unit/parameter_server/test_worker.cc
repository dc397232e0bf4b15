#include "tests/unit/parameter_server/test_worker.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <utility>

namespace gradwire::ps {

TestWorker::TestWorker(const std::string& transport, int64_t number, const Placement& placement,
                       DataType wire)
    : side_(SettingsFor(transport)), number_(number), placement_(placement), wire_(wire) {
  const size_t bytes = kElements * SizeOf(wire);
  parameters_ = *side_.transport->Allocate(bytes, Access::kRemoteWrite);
  gradients_ = *side_.transport->Allocate(bytes, Access::kLocal);
  messages_.emplace(*SendPool::Make(*side_.transport, kSliceBytes, 16));
}

absl::StatusOr<int64_t> TestWorker::Connect(ShardThread& shard, bool in_place) {
  auto end =
      side_.transport->PrepareLink(0, "the shard", {.window = kWindow, .slot_bytes = kSliceBytes});
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

void TestWorker::Disconnect() {
  link_.reset();
  if (raw_ != nullptr) side_.transport->CloseLink(std::exchange(raw_, nullptr));
}

void TestWorker::Ask(Op op, int64_t step, uint8_t flags, float scale) {
  link_->Ask({.op = op,
              .flags = op == Op::kPull && flags == Request::kEndOfStep ? uint8_t{0} : flags,
              .count = static_cast<uint32_t>(placement_.slices(0).size()),
              .scale = scale,
              .step = step},
             [this](const Reply& reply) { replies.push_back(reply); });
  Pump();
}

void TestWorker::Pump() {
  if (const absl::Status sent = link_->Pump(); !sent.ok()) failure.Update(sent);
  side_.transport->Flush().IgnoreError();
}

bool TestWorker::Wait(size_t count, Deadline deadline) {
  std::array<Completion, 16> batch;
  while (replies.size() < count && failure.ok()) {
    Pump();
    const auto some =
        side_.transport->Wait(batch, std::min(deadline, Clock::now() + std::chrono::seconds(1)));
    if (!some.ok() && !absl::IsDeadlineExceeded(some.status())) failure = some.status();
    for (int i = 0; some.ok() && i < *some; ++i) {
      failure.Update(link_->Handle(batch[static_cast<size_t>(i)]));
    }
    if (Clock::now() >= deadline) break;
  }
  return replies.size() >= count;
}

absl::Status TestWorker::Do(Op op, int64_t step, uint8_t flags, float scale) {
  const size_t before = replies.size();
  Ask(op, step, flags, scale);
  if (!Wait(before + 1)) return failure.ok() ? DeadlineExceeded("no reply") : failure;
  return replies.back().status();
}

absl::Status TestWorker::Raw(ConstBytes bytes, uint32_t tag) {
  const int buffer = messages_->Take();
  std::ranges::copy(bytes, messages_->bytes(buffer).begin());
  GW_RETURN_IF_ERROR(
      raw_->Write(messages_->Span(buffer, bytes.size()), raw_->NextSlot(bytes.size()), tag));
  return side_.transport->Flush();
}

}  // namespace gradwire::ps
