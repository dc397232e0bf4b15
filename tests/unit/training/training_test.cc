// Whole runs through RunTraining(), with the files they write.
#include "examples/training/training.h"

#include <gmock/gmock.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/support/local_world.h"
#include "tests/unit/training/temporary_folder.h"

namespace gradwire::training {
namespace {

using Json = nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Runs on `size` ranks; returns rank 0's result.
absl::StatusOr<TrainingSummary> RunRanks(int size, const TrainingOptions& options) {
  absl::StatusOr<TrainingSummary> result = InternalError("rank 0 did not run");
  Settings settings;
  settings.transport = "tcp";  // whatever devices there are
  test::LocalJob::Run(size, [&](World& world) {
    const auto communicator = Communicator::Create(world, settings);
    ASSERT_TRUE(communicator.ok()) << communicator.status();
    auto summary = RunTraining(**communicator, options);
    if (summary.ok()) {
      EXPECT_TRUE((*communicator)->Barrier().ok());
    } else {
      world.Leave(Message(summary.status())).IgnoreError();
    }
    if (world.rank() == 0) result = std::move(summary);
  });
  return result;
}

std::vector<Json> JsonLines(const std::string& text) {
  std::istringstream stream(text);
  std::vector<Json> lines;
  for (std::string line; std::getline(stream, line);) lines.push_back(Json::parse(line));
  return lines;
}

TEST(TrainingTest, LearnsTheDigitsAndWritesItsFiles) {
  const TemporaryFolder folder;
  TrainingOptions options;
  options.epochs = 12;
  options.summary = folder.path() / "summary.json";
  options.metrics = folder.path() / "metrics.jsonl";
  options.check_checksums = true;
  const auto summary = RunRanks(2, options);
  ASSERT_TRUE(summary.ok()) << summary.status();
  EXPECT_GE(summary->test_accuracy, 0.97);

  const Json json = Json::parse(folder.Read("summary.json"));
  EXPECT_EQ(json["test_accuracy"], summary->test_accuracy);
  EXPECT_EQ(json["world_size"], 2);
  EXPECT_EQ(json["transport"], "tcp");
  EXPECT_EQ(json["steps"], 12 * 23);
  EXPECT_EQ(json["parameters_checksum"].get<std::string>().size(), 64u);
  EXPECT_GT(json["bytes_sent"], 0);
  EXPECT_GT(json["comm_seconds"], 0.0);
  for (const char* key : {"train_loss", "device", "seconds", "samples_per_second", "overlap_ratio",
                          "model", "data", "epochs", "batch", "seed"}) {
    EXPECT_TRUE(json.contains(key)) << key;
  }
  const std::vector<Json> lines = JsonLines(folder.Read("metrics.jsonl"));
  ASSERT_EQ(lines.size(), 12u * (23 + 1));
  EXPECT_EQ(lines[0]["event"], "step");
  EXPECT_EQ(lines[0]["step"], 1);
  EXPECT_NEAR(lines[0]["loss"], std::log(10.0), 1.0);
  EXPECT_EQ(lines[22]["samples"], 1438 - 22 * 64);
  EXPECT_EQ(lines[23]["event"], "epoch");
  EXPECT_EQ(lines.back()["test_accuracy"], summary->test_accuracy);
  EXPECT_THAT(folder.Names(), ElementsAre("metrics.jsonl", "summary.json"));
}

TEST(TrainingTest, ReportsTheRateOfEachStep) {
  const TemporaryFolder folder;
  TrainingOptions options;
  options.epochs = 1;
  options.metrics = folder.path() / "metrics.jsonl";
  options.summary = folder.path() / "summary.json";
  options.optimizer.learning_rate = 0.1;
  options.optimizer.schedule = *ps::Schedule::Parse("step:10:0.5,warmup:4");
  options.clip.norm = 5;
  ASSERT_TRUE(RunRanks(1, options).ok());
  const std::vector<Json> lines = JsonLines(folder.Read("metrics.jsonl"));
  EXPECT_DOUBLE_EQ(lines[0]["lr"], 0.025);
  EXPECT_DOUBLE_EQ(lines[3]["lr"], 0.1);
  EXPECT_DOUBLE_EQ(lines[13]["lr"], 0.1);
  EXPECT_DOUBLE_EQ(lines[14]["lr"], 0.05);
  EXPECT_GT(lines[0]["gradient_norm"], 0.0);
  EXPECT_EQ(Json::parse(folder.Read("summary.json"))["lr_schedule"], "step:10:0.5,warmup:4");
}

TEST(TrainingTest, ResumedRunIsBitEqual) {
  for (const char* optimizer : {"momentum", "adam", "lamb"}) {
    for (const int size : {1, 3}) {
      const TemporaryFolder folder;
      TrainingOptions options;
      options.optimizer.name = optimizer;
      options.optimizer.schedule = *ps::Schedule::Parse("cosine:80,warmup:10");
      options.epochs = 4;
      const auto whole = RunRanks(size, options);
      options.epochs = 2;
      options.checkpoint = folder.path() / "deep" / "folder";
      ASSERT_TRUE(RunRanks(size, options).ok());
      options.epochs = 4;
      options.resume = options.checkpoint;
      const auto resumed = RunRanks(size, options);
      ASSERT_TRUE(resumed.ok()) << resumed.status();
      EXPECT_EQ(resumed->parameters_checksum, whole->parameters_checksum) << optimizer << size;
      EXPECT_EQ(resumed->train_loss, whole->train_loss);
      EXPECT_EQ(resumed->steps, whole->steps);
      EXPECT_EQ(resumed->history.size(), 2u);
    }
  }
}

TEST(TrainingTest, ResumingWhatDoesNotFit) {
  const TemporaryFolder folder;
  TrainingOptions options;
  options.epochs = 1;
  options.checkpoint = folder.path();
  ASSERT_TRUE(RunRanks(1, options).ok());
  options.resume = folder.path();
  EXPECT_THAT(Message(RunRanks(1, options).status()), HasSubstr("nothing is left to do"));
  options.epochs = 2;
  options.model.kind = "cnn";
  EXPECT_THAT(Message(RunRanks(1, options).status()),
              ::testing::AllOf(HasSubstr("mlp 64-128-10"), HasSubstr("cnn 8x8")));
}

TEST(TrainingTest, TargetAccuracyEndsOrFails) {
  TrainingOptions options;
  options.target_accuracy = 0.8;
  const auto early = RunRanks(2, options);
  ASSERT_TRUE(early.ok()) << early.status();
  EXPECT_LT(early->epochs, 10);
  options.epochs = 1;
  options.target_accuracy = 1.0;
  EXPECT_THAT(Message(RunRanks(1, options).status()), HasSubstr("below --target-accuracy 1"));
}

TEST(TrainingTest, FailureLeavesNoHalfSummary) {
  const TemporaryFolder folder;
  TrainingOptions options;
  options.summary = folder.path() / "summary.json";
  options.optimizer.learning_rate = 1e30;
  EXPECT_TRUE(absl::IsFailedPrecondition(RunRanks(1, options).status()));
  EXPECT_THAT(folder.Names(), IsEmpty());
  options.summary = folder.path() / "absent" / "summary.json";
  EXPECT_THAT(Message(RunRanks(1, options).status()), HasSubstr("absent/summary.json"));
}

TEST(TrainingTest, FullDiskIsAnError) {
  TrainingOptions options;
  options.epochs = 1;
  options.metrics = "/dev/full";
  EXPECT_THAT(Message(RunRanks(1, options).status()),
              HasSubstr("--metrics /dev/full: cannot write"));
}

TEST(TrainingTest, BadOptionsNameTheirFlag) {
  const auto error = [](auto change) {
    TrainingOptions options;
    change(options);
    const absl::Status status = Validate(options);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    return Message(status);
  };
  EXPECT_THAT(error([](auto& o) { o.model.kind = "rnn"; }), HasSubstr("--model rnn"));
  EXPECT_THAT(error([](auto& o) { o.optimizer.name = "x"; }), HasSubstr("--optimizer x"));
  EXPECT_THAT(error([](auto& o) { o.epochs = 0; }), HasSubstr("--epochs 0"));
  EXPECT_THAT(error([](auto& o) { o.batch = 0; }), HasSubstr("--batch 0"));
  EXPECT_THAT(error([](auto& o) { o.optimizer.learning_rate = -1; }), HasSubstr("--lr -1"));
  EXPECT_THAT(error([](auto& o) { o.optimizer.learning_rate = NAN; }), HasSubstr("--lr nan"));
  EXPECT_THAT(error([](auto& o) { o.optimizer.momentum = 1; }), HasSubstr("--momentum 1"));
  EXPECT_THAT(error([](auto& o) { o.clip.norm = -1; }), HasSubstr("--clip-norm -1"));
  EXPECT_THAT(error([](auto& o) { o.clip.value = NAN; }), HasSubstr("--clip-value nan"));
  EXPECT_THAT(error([](auto& o) { o.bucket_bytes = 0; }), HasSubstr("--bucket-bytes 0"));
  EXPECT_THAT(error([](auto& o) { o.keep_checkpoints = 0; }), HasSubstr("--keep-checkpoints 0"));
  EXPECT_THAT(error([](auto& o) { o.target_accuracy = 1.5; }), HasSubstr("--target-accuracy"));
}

}  // namespace
}  // namespace gradwire::training
