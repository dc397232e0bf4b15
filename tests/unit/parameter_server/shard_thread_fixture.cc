#include "tests/unit/parameter_server/shard_thread_fixture.h"

#include <algorithm>
#include <utility>

#include "transport/bootstrap/solo_world.h"

namespace gradwire::ps {

std::unique_ptr<ShardThread> ShardThreadTest::Start(ShardOptions options, bool replica) {
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

absl::Status ShardThreadTest::Assign(TestWorker& worker, float value) {
  std::ranges::fill(worker.gradients(), value);
  return worker.Do(Op::kAssign, 0, 0);
}

}  // namespace gradwire::ps
