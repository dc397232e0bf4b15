// Training by parameter servers whose workers and servers are threads of this process.
#include "examples/training/ps_training.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>

#include "examples/training/ps_trainer.h"
#include "tests/support/local_world.h"
#include "tests/support/tcp_settings.h"
#include "tests/unit/training/temporary_folder.h"

namespace gradwire::training {
namespace {

using Json = nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

using Results = std::vector<absl::StatusOr<TrainingSummary>>;

// Runs a job of `workers` and ps.servers; the results are by rank.
Results RunJob(int workers, const TrainingOptions& options, const PsOptions& ps) {
  Results results(static_cast<size_t>(workers + ps.servers), InternalError("it did not run"));
  test::LocalJob::Run(static_cast<int>(results.size()), [&](World& world) {
    auto& result = results[static_cast<size_t>(world.rank())];
    result = RunPsTraining(world, options, ps, TcpSettings());
    if (!result.ok()) world.Leave(Message(result.status())).IgnoreError();
  });
  return results;
}

TrainingSummary RunAllReduce(int ranks, const TrainingOptions& options) {
  absl::StatusOr<TrainingSummary> result = InternalError("rank 0 did not run");
  test::LocalJob::Run(ranks, [&](World& world) {
    const auto communicator = Communicator::Create(world, TcpSettings());
    ASSERT_TRUE(communicator.ok()) << communicator.status();
    auto summary = RunTraining(**communicator, options);
    EXPECT_TRUE(summary.ok()) << summary.status();
    EXPECT_TRUE((*communicator)->Barrier().ok());
    if (world.rank() == 0) result = std::move(summary);
  });
  EXPECT_TRUE(result.ok()) << result.status();
  return *std::move(result);
}

TEST(PsTrainingTest, GivesTheCurveOfAnAllReduce) {
  TrainingOptions options;
  options.epochs = 2;
  options.batch = 50;  // the last batch of an epoch is short
  options.model.hidden = {32};
  const TrainingSummary expected = RunAllReduce(3, options);
  options.bucket_bytes = 256;  // a push for each tensor
  PsOptions ps;
  ps.servers = 2;
  ps.server.slice_bytes = 1024;
  const Results results = RunJob(3, options, ps);
  for (const auto& result : results) ASSERT_TRUE(result.ok()) << result.status();
  const TrainingSummary& summary = *results[0];
  ASSERT_TRUE(summary.ps.has_value());
  EXPECT_EQ(summary.ps->workers, 3);
  EXPECT_EQ(summary.ps->servers, 2);
  EXPECT_EQ(summary.ps->max_staleness, 0);
  EXPECT_EQ(summary.steps, expected.steps);
  EXPECT_NEAR(summary.test_accuracy, expected.test_accuracy, 0.003);
  // The workers' parts together are the whole: so is the mean of their losses, weighted by size.
  double loss = 0;
  for (int worker = 0; worker < 3; ++worker) {
    loss += results[static_cast<size_t>(worker)]->train_loss / 3;
    EXPECT_EQ(results[static_cast<size_t>(worker)]->parameters_checksum,
              summary.parameters_checksum);
  }
  EXPECT_NEAR(loss, expected.train_loss, 0.01 * expected.train_loss);
}

TEST(PsTrainingTest, PartsMayBeEmpty) {
  TrainingOptions options;
  options.epochs = 1;
  options.batch = 2;  // three workers
  options.model.hidden = {8};
  options.optimizer.learning_rate = 0.005;
  const TrainingSummary expected = RunAllReduce(3, options);
  const Results results = RunJob(3, options, {});
  for (const auto& result : results) ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(results[0]->steps, 719);
  EXPECT_GT(expected.test_accuracy, 0.6);
  EXPECT_NEAR(results[0]->test_accuracy, expected.test_accuracy, 0.01);
}

TEST(PsTrainingTest, WritesItsFilesAndGoesOnFromThem) {
  const TemporaryFolder folder;
  TrainingOptions options;
  options.epochs = 4;
  options.summary = folder.path() / "summary.json";
  options.metrics = folder.path() / "metrics.jsonl";
  options.checkpoint = folder.path() / "checkpoints";
  PsOptions ps;
  ps.server.shard.checkpoint_interval = 30;
  const Results whole = RunJob(2, options, ps);
  for (const auto& result : whole) ASSERT_TRUE(result.ok()) << result.status();
  const Json json = Json::parse(folder.Read("summary.json"));
  EXPECT_EQ(json["strategy"], "ps");
  EXPECT_EQ(json["servers"], 1);
  EXPECT_EQ(json["workers"], 2);
  EXPECT_EQ(json["consistency"], "bsp");
  EXPECT_EQ(json["failovers"], 0);
  EXPECT_EQ(json["steps"], 4 * 23);
  EXPECT_GT(json["bytes_pulled"], 0);
  for (const char* key : {"staleness", "max_staleness", "held_up_seconds", "held_up_by",
                          "duplicates", "bytes_pushed", "test_accuracy", "history"}) {
    EXPECT_TRUE(json.contains(key)) << key;
  }

  ps.servers = 2;
  options.resume = options.checkpoint;  // the newest: step 90
  options.checkpoint.clear();
  ps.server.shard.checkpoint_interval = 0;
  const Results resumed = RunJob(2, options, ps);
  for (const auto& result : resumed) ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(resumed[0]->history.size(), 1u);
  EXPECT_EQ(resumed[0]->parameters_checksum, whole[0]->parameters_checksum);
  options.epochs = 3;
  const Results over = RunJob(2, options, ps);
  EXPECT_THAT(over[0].status().message(), HasSubstr("nothing is left to do"));
}

TEST(PsTrainingTest, EndsWhenTheLossIsNotFinite) {
  TrainingOptions options;
  options.optimizer.learning_rate = 1e30;
  const Results results = RunJob(2, options, {});
  for (int worker = 0; worker < 2; ++worker) {
    const absl::Status& status = results[static_cast<size_t>(worker)].status();
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_THAT(status.message(), HasSubstr("(epoch 1): the loss is"));
  }
}

TEST(PsTrainingTest, RefusesWhatCannotBe) {
  const auto wrong = [](const std::function<void(TrainingOptions&, PsOptions&)>& spoil) {
    TrainingOptions options;
    PsOptions ps;
    EXPECT_TRUE(Validate(options, ps).ok());
    spoil(options, ps);
    const absl::Status status = Validate(options, ps);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    return std::string(status.message());
  };
  EXPECT_THAT(wrong([](auto&, auto& ps) { ps.servers = 0; }), HasSubstr("--servers 0"));
  EXPECT_THAT(wrong([](auto&, auto& ps) { ps.server.replica = true; }), HasSubstr("--replica"));
  EXPECT_THAT(wrong([](auto&, auto& ps) { ps.server.threads = 65; }), HasSubstr("--ps-threads"));
  EXPECT_THAT(wrong([](auto&, auto& ps) { ps.server.window = 1; }), HasSubstr("--ps-window"));
  EXPECT_THAT(wrong([](auto& o, auto&) { o.check_checksums = true; }),
              HasSubstr("--check-checksums"));
  EXPECT_THAT(wrong([](auto& o, auto& ps) {
                o.clip.norm = 1;
                ps.servers = 2;
                ps.server.replica = true;
              }),
              HasSubstr("--clip-norm with --replica"));
  EXPECT_THAT(wrong([](auto& o, auto& ps) {
                o.optimizer.name = "lamb";
                ps.server.shard.consistency = ps::Consistency::kAsp;
              }),
              HasSubstr("--consistency bsp"));
  const Results none = RunJob(0, {}, {});
  EXPECT_THAT(none[0].status().message(), HasSubstr("needs a worker besides"));
}

TEST(LayoutOfModelTest, FollowsTheFlatArray) {
  const auto model = MakeModel<float>({.kind = "mlp", .hidden = {3}}, 2, 2, 10);
  ASSERT_TRUE(model.ok()) << model.status();
  const auto layout = LayoutOf(**model);
  ASSERT_TRUE(layout.ok()) << layout.status();
  std::vector<std::string> names;
  for (const ps::TensorSpec& tensor : layout->tensors()) names.push_back(tensor.name);
  EXPECT_THAT(names, ElementsAre("dense2.weight", "dense2.bias", "dense1.weight", "dense1.bias"));
  EXPECT_EQ(layout->elements(), static_cast<int64_t>((*model)->values().size()));
  for (const Parameter<float>* parameter : (*model)->parameters()) {
    const auto tensor = layout->Find(parameter->name);
    ASSERT_TRUE(tensor.ok()) << tensor.status();
    EXPECT_EQ(layout->offset(*tensor), parameter->offset);
  }
}

TEST(ModelTest, MovesItsParameters) {
  const auto model = MakeModel<float>({.kind = "mlp", .hidden = {3}}, 2, 2, 10);
  ASSERT_TRUE(model.ok()) << model.status();
  (*model)->Initialize(3);
  const std::vector<float> values((*model)->values().begin(), (*model)->values().end());
  std::vector<float> memory(values.size() + 5, -1);
  (*model)->PlaceIn(memory);
  EXPECT_EQ((*model)->values().data(), memory.data());
  EXPECT_EQ((*model)->values().size(), values.size());
  EXPECT_TRUE(std::equal(values.begin(), values.end(), memory.begin()));
  EXPECT_EQ(memory[values.size()], -1);
  // What is written there is what the layers compute with.
  std::ranges::fill((*model)->values(), 0.0f);
  const Matrix<float> in = Matrix<float>::Ones(4, 2);
  EXPECT_TRUE((*model)->Forward(in).isZero());
}

}  // namespace
}  // namespace gradwire::training
