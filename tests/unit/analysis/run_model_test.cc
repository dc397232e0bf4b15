// The model of a run, from recordings made by hand whose prices are known.
#include "analysis/run_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "analysis/model.h"
#include "tests/unit/analysis/script.h"
#include "tests/unit/training/temporary_folder.h"

namespace gradwire::analysis {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using training::TemporaryFolder;

constexpr Costs kTruth{
    .alpha_us = 20, .beta_us_per_mb = 400, .gamma_us_per_mb = 150, .overlaps = false};

// Recordings of all-reduces of float32 that take as long as `costs` make them.
class Made {
 public:
  explicit Made(int ranks, const std::string& algorithm = "auto")
      : ranks_(ranks), script_(ranks, "tcp") {
    for (int rank = 0; rank < ranks; ++rank) {
      script_.rank(rank).facts.settings = {{"slice-bytes", "262144"},
                                           {"slots", "16"},
                                           {"all-reduce", algorithm},
                                           {"latency-bytes", "-1"}};
    }
  }

  // `late_us` after the others come, the last rank does.
  void Add(double took_us, uint64_t bytes, double late_us = 0) {
    ++number_;
    for (int rank = 0; rank < ranks_; ++rank) {
      const double late = rank == ranks_ - 1 ? late_us : 0;
      // Who came last ends last, by a nanosecond.
      const double end = now_us_ + late_us + took_us + (late > 0 ? 1e-3 : 0);
      script_.Operation(rank, now_us_ + late, end, number_, bytes / 4);
    }
    now_us_ += late_us + took_us + 10;
  }
  void AddByPrice(AllReduceAlgorithm algorithm, uint64_t bytes, double late_us = 0) {
    const Case of{algorithm, ranks_, bytes};
    const double took = CriticalPath(of, kTruth).Microseconds(kTruth);
    Add(40 * took, bytes, late_us);  // a first one that opens links
    for (int i = 0; i < 3; ++i) Add(took, bytes, late_us);
  }

  Script& script() { return script_; }
  Run Analysed() {
    const TemporaryFolder folder;
    auto run = script_.Analysed(folder.path());
    EXPECT_TRUE(run.ok()) << run.status();
    if (!run.ok()) return {};
    EXPECT_THAT(run->problems, IsEmpty());
    return *std::move(run);
  }

 private:
  const int ranks_;
  Script script_;
  uint64_t number_ = 0;
  double now_us_ = 0;
};

TEST(RunModel, GivesBackThePricesOfARun) {
  Made made(2);
  for (uint64_t bytes = 1 << 10; bytes <= 16 << 20; bytes *= 4) {
    // Two ranks change from doubling to the ring above 512 KiB.
    made.AddByPrice(
        bytes <= 512 << 10 ? AllReduceAlgorithm::kRecursiveDoubling : AllReduceAlgorithm::kRing,
        bytes);
  }
  const auto run = made.Analysed();
  ASSERT_TRUE(run.model) << run.model_note;
  EXPECT_THAT(run.model_note, IsEmpty());
  EXPECT_THAT(run.model->alpha_us, DoubleNear(20, 0.5));
  EXPECT_THAT(run.model->beta_us_per_mb, DoubleNear(400, 8));
  EXPECT_THAT(run.model->gamma_us_per_mb, DoubleNear(150, 8));
  EXPECT_FALSE(run.model->overlaps);
  EXPECT_LT(run.model->error, 0.01);
  ASSERT_TRUE(run.model->unseen_error);
  EXPECT_LT(*run.model->unseen_error, 0.02);
  ASSERT_EQ(run.model->points.size(), 8u);
  EXPECT_EQ(run.model->points[0].algorithm, "recursive_doubling");
  EXPECT_EQ(run.model->points[0].what, "all_reduce of 256 float, sum");
  EXPECT_EQ(run.model->points[7].algorithm, "ring");
  EXPECT_EQ(run.model->points[7].bytes, 16u << 20);
}

TEST(RunModel, PredictsOtherWorldsAndSlices) {
  Made made(2);
  for (uint64_t bytes = 1 << 10; bytes <= 16 << 20; bytes *= 4) {
    made.AddByPrice(
        bytes <= 512 << 10 ? AllReduceAlgorithm::kRecursiveDoubling : AllReduceAlgorithm::kRing,
        bytes);
  }
  const auto run = made.Analysed();
  ASSERT_TRUE(run.model) << run.model_note;
  int slices = 0;
  for (const Model::Prediction& each : run.model->predictions) {
    const Case of{each.algorithm == "ring" ? AllReduceAlgorithm::kRing
                                           : AllReduceAlgorithm::kRecursiveDoubling,
                  each.ranks, each.bytes, each.slice_bytes};
    EXPECT_NEAR(each.predicted_us / CriticalPath(of, kTruth).Microseconds(kTruth), 1, 0.02);
    if (each.slice_bytes != 256 << 10) ++slices;
  }
  EXPECT_EQ(run.model->predictions.size(), 18u);  // four worlds and two other slices
  EXPECT_EQ(slices, 6);
}

TEST(RunModel, ALateRankIsNotThePriceOfTheCollective) {
  Made made(3, "ring");
  for (uint64_t bytes = 1 << 10; bytes <= 16 << 20; bytes *= 4) {
    made.AddByPrice(AllReduceAlgorithm::kRing, bytes, /*late_us=*/5000);
  }
  const auto run = made.Analysed();
  ASSERT_TRUE(run.model) << run.model_note;
  EXPECT_THAT(run.model->alpha_us, DoubleNear(20, 0.5));
  // A ring alone sends twice what it reduces.
  EXPECT_THAT(run.model->beta_us_per_mb, DoubleNear(475, 10));
  EXPECT_THAT(run.model->notes, ElementsAre(HasSubstr("contained in beta")));
}

TEST(RunModel, TakesGammaFromTheReductions) {
  Made made(3, "ring");
  for (uint64_t bytes = 1 << 10; bytes <= 16 << 20; bytes *= 4) {
    made.AddByPrice(AllReduceAlgorithm::kRing, bytes);
  }
  // At the truth's 150 us a MB, once preempted; the short ones are mostly the call.
  for (int i = 0; i < 9; ++i) {
    const double begin = 1000.0 * i;
    made.script().Add(1, telemetry::Kind::kReduce, begin, begin + (i == 4 ? 900 : 15), -1, 0,
                      100'000);
    made.script().Add(1, telemetry::Kind::kReduce, begin + 950, begin + 960, -1, 0, 64);
  }
  const auto run = made.Analysed();
  ASSERT_TRUE(run.model) << run.model_note;
  EXPECT_NEAR(run.model->gamma_us_per_mb, 150, 1e-6);
  EXPECT_THAT(run.model->beta_us_per_mb, DoubleNear(400, 8));
  EXPECT_THAT(run.model->alpha_us, DoubleNear(20, 0.5));
}

TEST(RunModel, RanksThatShareCoresUseTheTree) {
  Made made(4);
  for (int rank = 0; rank < 4; ++rank) made.script().rank(rank).facts.oversubscribed = true;
  for (uint64_t bytes = 1 << 10; bytes <= 256 << 10; bytes *= 4) {
    made.AddByPrice(AllReduceAlgorithm::kTree, bytes);
  }
  const auto run = made.Analysed();
  ASSERT_TRUE(run.model) << run.model_note;
  EXPECT_EQ(run.model->points[0].algorithm, "tree");
  EXPECT_LT(run.model->error, 0.01);
  EXPECT_THAT(run.model->notes.back(), HasSubstr("shared cores"));
}

TEST(RunModel, SaysWhatToMeasureForOne) {
  Made one_size(2);
  one_size.AddByPrice(AllReduceAlgorithm::kRing, 1 << 20);
  auto run = one_size.Analysed();
  EXPECT_FALSE(run.model);
  EXPECT_THAT(run.model_note, HasSubstr("-b 1K -e 16M -f 4"));

  Made untold(2);
  untold.AddByPrice(AllReduceAlgorithm::kRing, 1 << 20);
  untold.script().rank(0).facts.settings.erase("slots");
  run = untold.Analysed();
  EXPECT_FALSE(run.model);
  EXPECT_THAT(run.model_note, HasSubstr("does not tell its --slots"));

  Made odd(2);
  odd.AddByPrice(AllReduceAlgorithm::kRing, 1 << 20);
  odd.script().rank(0).facts.settings["slice-bytes"] = "-7";
  run = odd.Analysed();
  EXPECT_FALSE(run.model);
  EXPECT_THAT(run.model_note, HasSubstr("--slice-bytes of the recording"));
}

}  // namespace
}  // namespace gradwire::analysis
