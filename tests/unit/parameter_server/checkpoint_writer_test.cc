#include "parameter_server/checkpoint_writer.h"

#include <gmock/gmock.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <thread>

#include "parameter_server/checkpoint_internal.h"
#include "tests/unit/training/temporary_folder.h"

namespace gradwire::ps {
namespace {

using namespace std::chrono_literals;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using training::TemporaryFolder;

constexpr int64_t kWritten = 1000;

std::unique_ptr<ShardSnapshot> SnapshotOf(int64_t step, int shard, int shards,
                                          int64_t elements = kWritten) {
  const int64_t begin = elements * shard / shards, end = elements * (shard + 1) / shards;
  auto snapshot = std::make_unique<ShardSnapshot>();
  snapshot->step = step;
  snapshot->shard = shard;
  snapshot->shards = shards;
  snapshot->pieces = {{"w", {elements}, begin, end}};
  snapshot->parameters.assign(static_cast<size_t>(end - begin), static_cast<float>(step));
  snapshot->clocks = {{0, step, 0}};
  return snapshot;
}

class CheckpointWriterTest : public ::testing::Test {
 protected:
  std::unique_ptr<CheckpointWriter> Start(CheckpointWriterOptions options = {.run = "r"}) {
    options.folder = folder_.path();
    auto writer = CheckpointWriter::Start(options);
    EXPECT_TRUE(writer.ok()) << writer.status();
    return *std::move(writer);
  }
  // The step of the newest checkpoint whose values are right; -1 without.
  int64_t Newest(int64_t elements = kWritten) {
    const std::vector<Piece> all = {{"w", {elements}, 0, elements}};
    const auto loaded = LoadPieces(folder_.path(), all);
    if (!loaded.ok()) return absl::IsNotFound(loaded.status()) ? -1 : -2;
    for (const float value : loaded->parameters) {
      if (value != static_cast<float>(loaded->info.step)) return -3;
    }
    return loaded->info.step;
  }
  static absl::Status Flush(CheckpointWriter& writer, std::chrono::milliseconds wait = 20s) {
    return writer.Flush(Clock::now() + wait);
  }
  TemporaryFolder folder_;
};

TEST_F(CheckpointWriterTest, WritesAndKeepsTheNewest) {
  auto writer = Start({.keep = 2, .run = "r"});
  ASSERT_TRUE(Flush(*writer).ok()) << "nothing to wait for";
  for (int64_t step = 10; step <= 50; step += 10) {
    writer->Save(SnapshotOf(step, 0, 2));
    writer->Save(SnapshotOf(step, 1, 2));
    const absl::Status status = Flush(*writer);
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(Newest(), step);
  }
  EXPECT_THAT(folder_.Names(), ElementsAre("step-000040", "step-000050"));
  const auto progress = writer->progress();
  EXPECT_EQ(progress.written, 50);
  EXPECT_EQ(progress.complete, 50);
  EXPECT_EQ(progress.files, 10);
  EXPECT_EQ(progress.manifests, 5);
  EXPECT_EQ(progress.failed, 0);
}

TEST_F(CheckpointWriterTest, CountsAStepThatIsWrittenAnew) {
  auto writer = Start({.run = "r"});
  for (int64_t round = 1; round <= 2; ++round) {
    writer->Save(SnapshotOf(0, 0, 1));
    ASSERT_TRUE(Flush(*writer).ok());
    EXPECT_EQ(Newest(), 0);
    EXPECT_EQ(writer->progress().files, round);
    EXPECT_EQ(writer->progress().manifests, round);
  }
}

// Three processes with a shard each, as threads with a writer each; every one in its own order and
// at its own pace.
TEST_F(CheckpointWriterTest, ManyWritersMakeOneCheckpoint) {
  constexpr int kShards = 3;
  constexpr int64_t kSteps = 8;
  std::vector<std::thread> threads;
  for (int shard = 0; shard < kShards; ++shard) {
    threads.emplace_back([this, shard] {
      auto writer = Start({.keep = 2, .run = "r"});
      for (int64_t step = 1; step <= kSteps; ++step) {
        std::this_thread::sleep_for(std::chrono::milliseconds(7 * ((step + shard) % 3)));
        writer->Save(SnapshotOf(step, shard, kShards));
        // Waits for its own file, so that none gives way; not for the others'.
        while (writer->progress().written < step) std::this_thread::sleep_for(1ms);
      }
      const absl::Status status = Flush(*writer);
      EXPECT_TRUE(status.ok()) << status;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(Newest(), kSteps);
  EXPECT_THAT(folder_.Names(), ElementsAre("step-000007", "step-000008"));
}

TEST_F(CheckpointWriterTest, AMissingShardIsNamedAndLaterCleanedUp) {
  auto first = Start({.run = "r", .patience = 100ms});
  auto second = Start({.run = "r"});
  first->Save(SnapshotOf(1, 0, 2));
  second->Save(SnapshotOf(1, 1, 2));
  ASSERT_TRUE(Flush(*first).ok());
  first->Save(SnapshotOf(2, 0, 2));
  const absl::Status status = Flush(*first);
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_THAT(Message(status), AllOf(HasSubstr("step-000002: stays incomplete"),
                                     HasSubstr("shard-1-of-2.safetensors")));
  EXPECT_EQ(Newest(), 1);
  EXPECT_THAT(folder_.Names(), ElementsAre("step-000001", "step-000002"));
  second->Save(SnapshotOf(3, 1, 2));
  first->Save(SnapshotOf(3, 0, 2));
  ASSERT_TRUE(Flush(*first).ok()) << "the next one is good again";
  EXPECT_EQ(Newest(), 3);
  EXPECT_THAT(folder_.Names(), ElementsAre("step-000001", "step-000003"));
}

TEST_F(CheckpointWriterTest, FilesOfAnEarlierRunDoNotCount) {
  {
    auto old = Start({.run = "old", .patience = 1ms});
    old->Save(SnapshotOf(5, 1, 2));
    ASSERT_TRUE(Flush(*old).ok());
  }
  auto writer = Start({.run = "new", .patience = 100ms});
  writer->Save(SnapshotOf(5, 0, 2));
  EXPECT_THAT(Message(Flush(*writer)),
              HasSubstr("shard-1-of-2.safetensors of this run (there is one of run 'old')"));
  EXPECT_EQ(Newest(), -1);
  writer->Save(SnapshotOf(5, 1, 2));
  writer->Save(SnapshotOf(5, 0, 2));
  ASSERT_TRUE(Flush(*writer).ok());
  EXPECT_EQ(Newest(), 5);
}

TEST_F(CheckpointWriterTest, FlushHasADeadline) {
  auto writer = Start({.run = "r", .patience = 10s});
  writer->Save(SnapshotOf(1, 0, 2));
  const auto start = Clock::now();
  EXPECT_TRUE(absl::IsDeadlineExceeded(Flush(*writer, 50ms)));
  writer.reset();  // does not wait for shard 1 either
  EXPECT_LT(Clock::now() - start, 5s);
}

TEST_F(CheckpointWriterTest, ANewerSnapshotReplacesAWaitingOne) {
  constexpr int64_t kMany = 4 << 20;  // long enough to write that the others meet it
  auto writer = Start();
  // On a busy machine the writer may be ahead of this thread: four at a time, until they did meet.
  for (int64_t step = 0; writer->progress().dropped < 2 && step < 40;) {
    std::vector<std::unique_ptr<ShardSnapshot>> snapshots;
    for (int i = 0; i < 4; ++i) snapshots.push_back(SnapshotOf(++step, 0, 1, kMany));
    for (auto& snapshot : snapshots) writer->Save(std::move(snapshot));
    ASSERT_TRUE(Flush(*writer).ok());
    EXPECT_EQ(Newest(kMany), step);  // the last one is never replaced
  }
  const auto progress = writer->progress();
  EXPECT_GE(progress.dropped, 2);
  EXPECT_EQ(progress.failed, 0);
}

// A file-size limit stands for a full disk: writes fail with EFBIG in the middle of a file, and the
// signal that comes with it must not end the process.
TEST_F(CheckpointWriterTest, WithoutSpaceThePreviousOneStays) {
  auto writer = Start();
  writer->Save(SnapshotOf(1, 0, 1));
  ASSERT_TRUE(Flush(*writer).ok());

  rlimit old_limit{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old_limit), 0);
  rlimit limit = old_limit;
  limit.rlim_cur = 64 << 10;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  writer->Save(SnapshotOf(2, 0, 1, 100'000));
  const absl::Status status = Flush(*writer);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &old_limit), 0);

  EXPECT_FALSE(status.ok());
  EXPECT_THAT(Message(status),
              AllOf(HasSubstr("step-000002/shard-0-of-1.safetensors"), HasSubstr("cannot write")));
  EXPECT_THAT(folder_.Names(), ElementsAre("step-000001")) << "something is left";
  EXPECT_EQ(Newest(), 1);
  EXPECT_EQ(writer->progress().failed, 1);
  EXPECT_EQ(writer->progress().complete, 1);

  writer->Save(SnapshotOf(3, 0, 1));
  EXPECT_TRUE(Flush(*writer).ok()) << "a later one may succeed";
  EXPECT_EQ(Newest(), 3);
}

TEST_F(CheckpointWriterTest, AnUnwritableFolderIsToldAtOnceOrInTheStatus) {
  CheckpointWriterOptions options = {.folder = folder_.Write("file", "") / "deeper"};
  const auto refused = CheckpointWriter::Start(options);
  EXPECT_TRUE(absl::IsFailedPrecondition(refused.status())) << refused.status();
  EXPECT_THAT(Message(refused.status()), HasSubstr("--checkpoint"));
  // Something stands in the place of the step's folder.
  auto writer = Start();
  folder_.Write("step-000001", "a file");
  writer->Save(SnapshotOf(1, 0, 1));
  EXPECT_THAT(Message(Flush(*writer)), HasSubstr("step-000001: cannot make the folder"));
  writer->Save(SnapshotOf(2, 0, 1));
  EXPECT_TRUE(Flush(*writer).ok());
  EXPECT_EQ(Newest(), 2);
}

TEST_F(CheckpointWriterTest, ABadSnapshotIsAnErrorOfItsOwn) {
  auto writer = Start();
  auto snapshot = SnapshotOf(1, 0, 1);
  snapshot->parameters.pop_back();
  writer->Save(std::move(snapshot));
  EXPECT_TRUE(absl::IsInvalidArgument(Flush(*writer)));
  EXPECT_THAT(folder_.Names(), testing::IsEmpty());
}

// An error of one shard is not forgotten because another shard of the same step went well.
TEST_F(CheckpointWriterTest, OneShardsSuccessDoesNotHideAnothersFailure) {
  auto writer = Start({.run = "r", .patience = 50ms});
  auto snapshot = SnapshotOf(1, 0, 2);
  snapshot->parameters.pop_back();
  writer->Save(std::move(snapshot));
  EXPECT_FALSE(Flush(*writer).ok());
  writer->Save(SnapshotOf(1, 1, 2));
  EXPECT_TRUE(absl::IsInvalidArgument(Flush(*writer)));
}

TEST(CheckpointWriterOptionsTest, Refusals) {
  const TemporaryFolder folder;
  EXPECT_THAT(Message(CheckpointWriter::Start({.folder = folder.path(), .keep = 0}).status()),
              HasSubstr("--keep-checkpoints 0"));
  EXPECT_THAT(Message(CheckpointWriter::Start({}).status()), HasSubstr("--checkpoint"));
}

}  // namespace
}  // namespace gradwire::ps
