#include "analysis/model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "analysis/model_json.h"

namespace gradwire::analysis {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

using Algorithm = AllReduceAlgorithm;
constexpr Algorithm kAll[] = {Algorithm::kRing, Algorithm::kRecursiveDoubling, Algorithm::kTree};

double Time(const Case& of, const Costs& costs) {
  return CriticalPath(of, costs).Microseconds(costs);
}

// What `costs` make of several sizes, times 1 + noise.
std::vector<Sample> Synthetic(const std::vector<Algorithm>& algorithms,
                              const std::vector<int>& worlds, const Costs& costs, double noise) {
  std::mt19937 random(7);
  std::normal_distribution<double> normal(0, 1);
  std::vector<Sample> samples;
  for (const Algorithm algorithm : algorithms) {
    for (const int ranks : worlds) {
      for (uint64_t bytes = 1 << 10; bytes <= 256 << 20; bytes *= 4) {
        const Case of{algorithm, ranks, bytes};
        samples.push_back({"a sample", of, Time(of, costs) * (1 + noise * normal(random))});
      }
    }
  }
  return samples;
}

TEST(CriticalPath, RingOfOneSliceIsTheTextbookFormula) {
  // 4 ranks, 64 KiB: segments of one slice of 16 KiB.
  const Costs costs{.alpha_us = 5, .beta_us_per_mb = 100, .gamma_us_per_mb = 30};
  const double mb = 0.065536;
  EXPECT_NEAR(Time({Algorithm::kRing, 4, 64 << 10}, costs),
              6 * 5 + 2 * 3.0 / 4 * mb * 100 + 3.0 / 4 * mb * 30, 1e-9);
}

TEST(CriticalPath, LargeRingsAreBoundByTheirLink) {
  const Costs costs{.alpha_us = 5, .beta_us_per_mb = 100, .gamma_us_per_mb = 30};
  const double link = 2 * 7.0 / 8 * 1073.741824 * 100;
  const double time = Time({Algorithm::kRing, 8, 1 << 30}, costs);
  EXPECT_GE(time, link);
  EXPECT_LE(time, link * 1.01);
}

TEST(CriticalPath, WithoutOverlapAllAddsUp) {
  const Costs costs{.alpha_us = 5, .beta_us_per_mb = 100, .gamma_us_per_mb = 30, .overlaps = false};
  // 8 MiB on 8 ranks: segments of 1 MiB, four slices each.
  const double mb = 1.048576;
  EXPECT_NEAR(Time({Algorithm::kRing, 8, 8 << 20}, costs), 14 * 4 * 5 + 14 * mb * 100 + 7 * mb * 30,
              1e-6);
}

TEST(CriticalPath, DoublingTakesTwoMoreStepsBeyondAPowerOfTwo) {
  const Costs costs{.alpha_us = 5, .beta_us_per_mb = 100, .gamma_us_per_mb = 30};
  const double mb = 0.001;
  EXPECT_NEAR(Time({Algorithm::kRecursiveDoubling, 8, 1000}, costs), 3 * (5 + mb * 130), 1e-9);
  EXPECT_NEAR(Time({Algorithm::kRecursiveDoubling, 9, 1000}, costs),
              3 * (5 + mb * 130) + 2 * 5 + mb * 230, 1e-9);
}

TEST(CriticalPath, ATreeGoesUpAndDownItsLevels) {
  const Costs costs{.alpha_us = 5};
  EXPECT_NEAR(Time({Algorithm::kTree, 9, 1000}, costs), 10, 1e-9);
  EXPECT_NEAR(Time({Algorithm::kTree, 10, 1000}, costs), 20, 1e-9);
}

TEST(CriticalPath, GrowsWithBytesAndPrices) {
  for (const bool overlaps : {false, true}) {
    Costs costs{.alpha_us = 2, .beta_us_per_mb = 80, .gamma_us_per_mb = 40, .overlaps = overlaps};
    for (const Algorithm algorithm : kAll) {
      double before = 0;
      for (uint64_t bytes = 64 << 10; bytes <= 1 << 30; bytes *= 2) {
        const Case of{algorithm, 24, bytes};
        const double time = Time(of, costs);
        EXPECT_GT(time, before) << bytes;
        before = time;
        for (double Costs::*price :
             {&Costs::alpha_us, &Costs::beta_us_per_mb, &Costs::gamma_us_per_mb}) {
          Costs dearer = costs;
          dearer.*price *= 3;
          EXPECT_GE(Time(of, dearer), time);
        }
      }
    }
  }
}

TEST(CriticalPath, ServersAreBoundByIncast) {
  const Costs costs{.alpha_us = 2, .beta_us_per_mb = 80, .gamma_us_per_mb = 1};
  const auto time = [&](int workers, int servers) {
    return CriticalPath(ServerCase{workers, servers, 64 << 20}, costs).Microseconds(costs);
  };
  const double once = 67.108864 * 80;
  EXPECT_GE(time(8, 2), 4 * once);
  EXPECT_LE(time(8, 2), 4.1 * once);
  EXPECT_LT(time(8, 8), time(8, 4));
}

TEST(Fit, FindsPricesThatAddUp) {
  const Costs truth{
      .alpha_us = 12, .beta_us_per_mb = 300, .gamma_us_per_mb = 120, .overlaps = false};
  const auto model =
      Fit(Synthetic({kAll[0], kAll[1], kAll[2]}, {2, 3, 4, 8}, truth, /*noise=*/0.03));
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_FALSE(model->overlaps);
  EXPECT_THAT(model->alpha_us, DoubleNear(12, 1));
  EXPECT_THAT(model->beta_us_per_mb, DoubleNear(300, 20));
  EXPECT_THAT(model->gamma_us_per_mb, DoubleNear(120, 30));
  EXPECT_LT(model->error, 0.04);
  EXPECT_GT(model->error, 0.005);
  EXPECT_THAT(model->notes, IsEmpty());
  EXPECT_EQ(model->points.size(), 3u * 4 * 10);
  // Of ten sizes one is hardly missed.
  ASSERT_TRUE(model->unseen_error);
  EXPECT_LT(*model->unseen_error, 0.05);
  EXPECT_GE(*model->unseen_error, model->error * 0.8);
}

TEST(Fit, FindsPricesThatHideBehindEachOther) {
  const Costs truth{.alpha_us = 4, .beta_us_per_mb = 90, .gamma_us_per_mb = 60, .overlaps = true};
  const auto model = Fit(Synthetic({kAll[0], kAll[1]}, {4, 8, 16}, truth, /*noise=*/0.02));
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_TRUE(model->overlaps);
  EXPECT_THAT(model->alpha_us, DoubleNear(4, 0.4));
  EXPECT_THAT(model->beta_us_per_mb, DoubleNear(90, 6));
  EXPECT_THAT(model->gamma_us_per_mb, DoubleNear(60, 12));
}

TEST(Fit, PredictsWorldsThatWereNotMeasured) {
  const Costs truth{
      .alpha_us = 12, .beta_us_per_mb = 300, .gamma_us_per_mb = 120, .overlaps = false};
  const auto model = Fit(Synthetic({kAll[0], kAll[1]}, {2, 4}, truth, /*noise=*/0.03));
  ASSERT_TRUE(model.ok()) << model.status();
  for (const Algorithm algorithm : kAll) {
    const Case of{algorithm, 64, 32 << 20};
    EXPECT_NEAR(Time(of, CostsOf(*model)) / Time(of, truth), 1, 0.1);
  }
}

TEST(Fit, SaysHowFarOffASizeIsThatItWasNotShown) {
  // A size that is dearer than the others: seen, it moves the prices; unseen, it does not.
  const Costs truth{.alpha_us = 10, .beta_us_per_mb = 200, .overlaps = false};
  auto samples = Synthetic({Algorithm::kRing}, {4}, truth, /*noise=*/0);
  samples[5].measured_us *= 1.5;
  const auto model = Fit(samples);
  ASSERT_TRUE(model.ok()) << model.status();
  for (size_t i = 0; i < samples.size(); ++i) {
    ASSERT_TRUE(model->points[i].unseen_us) << i;
    if (i == 5) {
      EXPECT_NEAR(*model->points[i].unseen_us, Time(samples[i].of, truth), 1e-6);
    } else {
      EXPECT_GT(std::abs(*model->points[i].unseen_us - samples[i].measured_us), 1e-3) << i;
    }
  }
  // Three samples of three sizes: none can be missed.
  const auto few = Fit(std::span(samples).first(3));
  ASSERT_TRUE(few.ok()) << few.status();
  EXPECT_FALSE(few->unseen_error);
  EXPECT_FALSE(few->points[0].unseen_us);
}

TEST(Fit, SaysWhenReductionsDoNotShow) {
  // A ring sends exactly twice what it reduces.
  const Costs truth{
      .alpha_us = 10, .beta_us_per_mb = 200, .gamma_us_per_mb = 100, .overlaps = false};
  const auto samples = Synthetic({Algorithm::kRing}, {4}, truth, /*noise=*/0);
  const auto folded = Fit(samples);
  ASSERT_TRUE(folded.ok()) << folded.status();
  EXPECT_EQ(folded->gamma_us_per_mb, 0);
  EXPECT_NEAR(folded->beta_us_per_mb, 250, 1e-6);
  EXPECT_THAT(folded->notes, ElementsAre(HasSubstr("contained in beta")));

  const auto given = Fit(samples, {.gamma_us_per_mb = 100});
  ASSERT_TRUE(given.ok()) << given.status();
  EXPECT_NEAR(given->beta_us_per_mb, 200, 1e-6);
  EXPECT_THAT(given->notes, ElementsAre(HasSubstr("given")));
}

TEST(Fit, RefusesNonsense) {
  const Costs truth{.alpha_us = 10, .beta_us_per_mb = 200};
  const auto good = Synthetic({Algorithm::kRing}, {4}, truth, 0);
  const auto refused = [&](const Sample& sample) {
    auto samples = good;
    samples.push_back(sample);
    return Message(Fit(samples).status());
  };
  EXPECT_THAT(refused({"alone", {Algorithm::kRing, 1, 1024}, 5}), HasSubstr("alone: 1 ranks"));
  EXPECT_THAT(refused({"empty", {Algorithm::kRing, 2, 0}, 5}), HasSubstr("empty: 0 bytes"));
  EXPECT_THAT(refused({"slow", {Algorithm::kRing, 2, 8}, -1}), HasSubstr("slow: -1 us"));
  EXPECT_THAT(refused({"nan", {Algorithm::kRing, 2, 8}, NAN}), HasSubstr("no measured time"));
  EXPECT_TRUE(absl::IsInvalidArgument(Fit(good, {.gamma_us_per_mb = -1}).status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(Fit({}).status()));
  const std::vector<Sample> same(5, good[0]);
  EXPECT_TRUE(absl::IsFailedPrecondition(Fit(same).status()));
}

TEST(Fit, RefusesSizesThatGrowLikeTheirMessages) {
  // Whole slices alone: each message has the same bytes.
  const Costs truth{
      .alpha_us = 10, .beta_us_per_mb = 200, .gamma_us_per_mb = 100, .overlaps = false};
  std::vector<Sample> samples;
  for (uint64_t bytes = 1 << 20; bytes <= 64 << 20; bytes *= 2) {
    const Case of{Algorithm::kTree, 4, bytes};
    samples.push_back({"whole slices", of, Time(of, truth)});
  }
  const auto model = Fit(samples);
  EXPECT_TRUE(absl::IsFailedPrecondition(model.status())) << model.status();
  EXPECT_THAT(Message(model.status()), HasSubstr("below a slice"));
}

TEST(ModelJson, PricesSurviveTheWayThroughAFile) {
  const auto model = Fit(Synthetic({kAll[0]}, {4}, {.alpha_us = 1, .beta_us_per_mb = 10}, 0.01));
  ASSERT_TRUE(model.ok()) << model.status();
  const auto read = CostsFromJson(ToJson(*model).dump());
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->alpha_us, model->alpha_us);
  EXPECT_EQ(read->beta_us_per_mb, model->beta_us_per_mb);
  EXPECT_EQ(read->gamma_us_per_mb, model->gamma_us_per_mb);
  EXPECT_EQ(read->overlaps, model->overlaps);
}

TEST(ModelJson, RefusesWhatIsNoModel) {
  const std::string whole = ToJson(Model{}).dump();
  EXPECT_TRUE(CostsFromJson(whole).ok());
  EXPECT_THAT(Message(CostsFromJson("[1]").status()), HasSubstr("no JSON object"));
  EXPECT_THAT(Message(CostsFromJson(R"({"alpha_us": 1})").status()), HasSubstr("beta_us_per_mb"));
  EXPECT_THAT(Message(CostsFromJson(R"({"alpha_us": -1})").status()), HasSubstr("alpha_us"));
  EXPECT_FALSE(CostsFromJson(whole.substr(0, whole.size() - 2)).ok());
}

}  // namespace
}  // namespace gradwire::analysis
