#include "examples/training/trainer.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "examples/training/checksum.h"
#include "tests/support/local_world.h"

namespace gradwire::training {
namespace {

using ::testing::HasSubstr;

// What one rank saw of a run.
struct RankRun {
  absl::Status status;
  std::vector<double> losses;  // per step
  std::vector<double> gradient_norms;
  std::vector<double> test_accuracies;
  Sha256 checksum{};
};

struct RunOptions {
  std::string model = "mlp";
  ps::OptimizerOptions optimizer;
  TrainerOptions trainer;
  int epochs = 2;
};

RankRun TrainRank(World& world, const RunOptions& options, const Dataset& dataset,
                  RunIdentity identity) {
  RankRun run;
  run.status = [&]() -> absl::Status {
    GW_ASSIGN_OR_RETURN(const auto communicator, Communicator::Create(world, Settings()));
    GW_ASSIGN_OR_RETURN(const auto model,
                        MakeModel<float>({.kind = options.model, .hidden = {32}}, dataset.height,
                                         dataset.width, kClasses));
    // Other ranks start from other weights: Synchronize() must make them equal.
    model->Initialize(options.trainer.seed + static_cast<uint64_t>(world.rank()));
    GW_ASSIGN_OR_RETURN(
        const auto optimizer,
        ps::Optimizer::Make(options.optimizer, static_cast<int64_t>(model->values().size())));
    GW_ASSIGN_OR_RETURN(const auto trainer, Trainer::Create(*communicator, dataset, *model,
                                                            *optimizer, options.trainer));
    GW_RETURN_IF_ERROR(trainer->Synchronize(identity, {}));
    for (int i = 0; i < options.epochs; ++i) {
      const auto on_step = [&](const StepResult& step) {
        run.losses.push_back(step.loss);
        run.gradient_norms.push_back(step.gradient_norm);
      };
      GW_ASSIGN_OR_RETURN(const EpochResult epoch, trainer->RunEpoch(on_step));
      run.test_accuracies.push_back(epoch.test_accuracy);
    }
    run.checksum = ParametersChecksum(*model);
    return communicator->Barrier();
  }();
  return run;
}

std::vector<RankRun> TrainRanks(int size, const RunOptions& options) {
  const auto dataset = LoadDigits();
  std::vector<RankRun> runs(static_cast<size_t>(size));
  test::LocalJob::Run(size, [&](World& world) {
    runs[static_cast<size_t>(world.rank())] = TrainRank(world, options, *dataset, {});
  });
  return runs;
}

TEST(TrainerTest, EpochOrderIsAPermutationOfItsOwn) {
  const auto order = EpochOrder(1, 0, 100);
  auto sorted = order;
  std::ranges::sort(sorted);
  std::vector<uint32_t> expected(100);
  std::iota(expected.begin(), expected.end(), 0u);
  EXPECT_EQ(sorted, expected);
  EXPECT_EQ(EpochOrder(1, 0, 100), order);
  EXPECT_NE(EpochOrder(1, 1, 100), order);
  EXPECT_NE(EpochOrder(2, 0, 100), order);
}

TEST(TrainerTest, PartsCoverTheBatch) {
  std::vector<uint32_t> batch(10);
  std::iota(batch.begin(), batch.end(), 0u);
  for (const size_t samples : {0, 1, 3, 10}) {
    for (const int size : {1, 3, 4, 16}) {
      std::vector<uint32_t> joined;
      for (int rank = 0; rank < size; ++rank) {
        const auto part = PartOf(std::span(batch).first(samples), rank, size);
        EXPECT_LE(part.size(), samples / static_cast<size_t>(size) + 1);
        joined.insert(joined.end(), part.begin(), part.end());
      }
      EXPECT_TRUE(std::ranges::equal(joined, std::span(batch).first(samples)));
    }
  }
}

// The curve does not depend on how the batch is split: 50 samples over 3 or 4 ranks are uneven, and
// the last batch of an epoch (1438 = 28 * 50 + 38) is partial.
TEST(TrainerTest, SameCurveForAnyNumberOfRanks) {
  for (const char* model : {"mlp", "cnn"}) {
    RunOptions options;
    options.model = model;
    options.trainer.batch = 50;
    options.epochs = 1;
    options.trainer.check_checksums = true;
    options.trainer.bucket_bytes = 1024;
    const std::vector<RankRun> alone = TrainRanks(1, options);
    ASSERT_TRUE(alone[0].status.ok()) << alone[0].status;
    ASSERT_EQ(alone[0].losses.size(), 29u);
    EXPECT_LT(alone[0].losses.back(), alone[0].losses.front() / 2) << "it does not learn";
    for (const int size : {2, 3, 4}) {
      const std::vector<RankRun> runs = TrainRanks(size, options);
      for (const RankRun& run : runs) {
        ASSERT_TRUE(run.status.ok()) << run.status;
        ASSERT_EQ(run.losses.size(), alone[0].losses.size());
        for (size_t i = 0; i < run.losses.size(); ++i) {
          ASSERT_NEAR(run.losses[i], alone[0].losses[i], 1e-4) << model << " step " << i + 1;
        }
        EXPECT_EQ(run.losses, runs[0].losses) << "ranks saw different losses";
        EXPECT_EQ(run.checksum, runs[0].checksum);
        EXPECT_EQ(run.test_accuracies, runs[0].test_accuracies);
      }
    }
  }
}

// A limit that is never reached changes no bit; one that is keeps every update short, on all ranks
// alike and however the gradient is cut into buckets.
TEST(TrainerTest, ClipsTheNormOfTheWholeGradient) {
  RunOptions options;
  options.optimizer = {.name = "sgd", .learning_rate = 0.2};
  options.epochs = 1;
  const std::vector<RankRun> free = TrainRanks(2, options);
  ASSERT_TRUE(free[0].status.ok()) << free[0].status;
  EXPECT_EQ(free[0].gradient_norms[0], 0) << "nobody asked for it";

  options.trainer.clip.norm = 1e6;
  const std::vector<RankRun> loose = TrainRanks(2, options);
  ASSERT_TRUE(loose[0].status.ok()) << loose[0].status;
  EXPECT_EQ(loose[0].checksum, free[0].checksum);
  const double first = loose[0].gradient_norms[0];
  ASSERT_GT(first, 0.01);

  options.trainer.clip.norm = first / 10;
  const std::vector<RankRun> tight = TrainRanks(2, options);
  ASSERT_TRUE(tight[0].status.ok()) << tight[0].status;
  EXPECT_EQ(tight[0].checksum, tight[1].checksum);
  EXPECT_NE(tight[0].checksum, free[0].checksum);
  EXPECT_EQ(tight[0].gradient_norms[0], first) << "before clipping";
  // The first update is a tenth as long, so the loss falls less.
  EXPECT_GT(tight[0].losses[1], free[0].losses[1]);
  options.trainer.bucket_bytes = 64;
  const std::vector<RankRun> cut = TrainRanks(2, options);
  EXPECT_NEAR(cut[0].gradient_norms[0], first, 1e-6 * first);
  EXPECT_NEAR(cut[0].losses.back(), tight[0].losses.back(), 1e-4);
}

TEST(TrainerTest, ClipsValues) {
  RunOptions options;
  options.optimizer = {.name = "sgd", .learning_rate = 0.2};
  options.epochs = 1;
  options.trainer.clip = {.norm = 1e6, .value = 1e-4};
  const std::vector<RankRun> runs = TrainRanks(2, options);
  ASSERT_TRUE(runs[0].status.ok()) << runs[0].status;
  EXPECT_EQ(runs[0].checksum, runs[1].checksum);
  // 64 * 32 + 32 + 32 * 10 + 10 parameters, none beyond the limit.
  for (const double norm : runs[0].gradient_norms) EXPECT_LE(norm, 1.0001e-4 * std::sqrt(2410.0));
  EXPECT_GT(runs[0].gradient_norms[0], 5e-4) << "most of them reach it";
}

TEST(TrainerTest, EveryOptimizerLearnsAlikeOnAllRanks) {
  for (const char* name : {"sgd", "momentum", "nesterov", "adam", "adamw", "lamb"}) {
    RunOptions options;
    options.optimizer.name = name;
    options.optimizer.weight_decay = 1e-4;
    options.optimizer.schedule = *ps::Schedule::Parse("cosine:200,warmup:5");
    options.epochs = 5;
    options.trainer.bucket_bytes = 1 << 20;  // one: lamb must still go tensor by tensor
    const std::vector<RankRun> runs = TrainRanks(2, options);
    ASSERT_TRUE(runs[0].status.ok()) << name << ": " << runs[0].status;
    EXPECT_EQ(runs[0].checksum, runs[1].checksum) << name;
    EXPECT_LT(runs[0].losses.back(), runs[0].losses.front() / 2) << name;
    options.trainer.bucket_bytes = 64;
    const std::vector<RankRun> cut = TrainRanks(2, options);
    // Not to the bit: how gradients are summed within a rank depends on where they lie.
    ASSERT_TRUE(cut[0].status.ok()) << name << ": " << cut[0].status;
    for (size_t i = 0; i < 23; ++i) {
      EXPECT_NEAR(cut[0].losses[i], runs[0].losses[i], 1e-3) << name << " step " << i + 1;
    }
  }
}

TEST(TrainerTest, BatchSmallerThanTheWorld) {
  RunOptions options;
  options.trainer.batch = 2;
  options.optimizer.learning_rate = 0.005;
  options.epochs = 1;
  const std::vector<RankRun> alone = TrainRanks(1, options);
  const std::vector<RankRun> runs = TrainRanks(3, options);
  ASSERT_TRUE(runs[2].status.ok()) << runs[2].status;
  ASSERT_EQ(runs[2].losses.size(), 719u);
  for (size_t i = 0; i < 50; ++i) EXPECT_NEAR(runs[2].losses[i], alone[0].losses[i], 1e-4);
}

TEST(TrainerTest, ImpossibleBatches) {
  for (const int64_t batch : {0, -1, 1439}) {
    RunOptions options;
    options.trainer.batch = batch;
    const absl::Status status = TrainRanks(1, options)[0].status;
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(Message(status), HasSubstr("1..1438"));
  }
}

TEST(TrainerTest, DivergenceStopsEveryRank) {
  RunOptions options;
  options.optimizer.learning_rate = 1e30;
  for (const RankRun& run : TrainRanks(2, options)) {
    EXPECT_TRUE(absl::IsFailedPrecondition(run.status)) << run.status;
    EXPECT_THAT(Message(run.status),
                ::testing::ContainsRegex("step [0-9]+ \\(epoch 1\\): the loss is"));
  }
}

TEST(TrainerTest, RanksWithOtherOptionsAreNamed) {
  const auto dataset = LoadDigits();
  test::LocalJob::Run(3, [&](World& world) {
    const RunIdentity identity = {{"batch", world.rank() == 2 ? "32" : "64"}};
    const RankRun run = TrainRank(world, {}, *dataset, identity);
    EXPECT_TRUE(absl::IsFailedPrecondition(run.status)) << run.status;
    EXPECT_THAT(Message(run.status), HasSubstr("rank 2 and rank 0 differ in their options"));
  });
}

}  // namespace
}  // namespace gradwire::training
