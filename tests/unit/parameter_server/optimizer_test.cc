#include "parameter_server/optimizer.h"

#include <gmock/gmock.h>

#include <cmath>
#include <random>

namespace gradwire::ps {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr const char* kNames[] = {"sgd", "momentum", "nesterov", "adam", "adamw", "lamb"};

// The formulas of the header in double, for one tensor.
class Reference {
 public:
  Reference(const OptimizerOptions& options, std::vector<double> w)
      : options_(options), w_(std::move(w)), a_(w_.size()), b_(w_.size()) {}

  void Update(int step, double rate, const std::vector<double>& gradients) {
    const auto& [name, lr, u, b1, b2, e, c, schedule] = options_;
    std::vector<double> p(w_.size());
    double w_squares = 0, p_squares = 0;
    for (size_t i = 0; i < w_.size(); ++i) {
      const bool apart = name == "adamw" || name == "lamb";
      const double g = gradients[i] + (apart ? 0 : c * w_[i]);
      if (name == "sgd") p[i] = g;
      if (name == "momentum" || name == "nesterov") {
        a_[i] = u * a_[i] + g;
        p[i] = name == "momentum" ? a_[i] : g + u * a_[i];
      }
      if (name.starts_with("adam") || name == "lamb") {
        a_[i] = b1 * a_[i] + (1 - b1) * g;
        b_[i] = b2 * b_[i] + (1 - b2) * g * g;
        p[i] = a_[i] / (1 - std::pow(b1, step)) / (std::sqrt(b_[i] / (1 - std::pow(b2, step))) + e);
        if (apart) p[i] += c * w_[i];
      }
      w_squares += w_[i] * w_[i];
      p_squares += p[i] * p[i];
    }
    double ratio = 1;
    if (name == "lamb" && w_squares > 0 && p_squares > 0) ratio = std::sqrt(w_squares / p_squares);
    for (size_t i = 0; i < w_.size(); ++i) w_[i] -= rate * ratio * p[i];
  }
  const std::vector<double>& w() const { return w_; }

 private:
  OptimizerOptions options_;
  std::vector<double> w_, a_, b_;
};

// 1,300 parameters: several of LAMB's blocks, and a rest that fills no vector register.
TEST(OptimizerTest, StaysWithTheFormulasFor100Steps) {
  constexpr size_t kSize = 1301;
  for (const char* name : kNames) {
    for (const double decay : {0.0, 0.01}) {
      const OptimizerOptions options = {.name = name,
                                        .learning_rate = 0.01,
                                        .momentum = 0.8,
                                        .beta1 = 0.85,
                                        .beta2 = 0.95,
                                        .epsilon = 1e-6,
                                        .weight_decay = decay};
      auto optimizer = Optimizer::Make(options, kSize + 2);
      ASSERT_TRUE(optimizer.ok()) << optimizer.status();
      std::mt19937 random(7);
      std::uniform_real_distribution<float> uniform(-1, 1);
      std::vector<float> values(kSize + 2);
      for (float& value : values) value = uniform(random);
      const float first = values.front(), last = values.back();
      Reference reference(options, std::vector<double>(values.begin() + 1, values.end() - 1));
      for (int step = 1; step <= 100; ++step) {
        std::vector<float> gradients(kSize);
        for (float& gradient : gradients) gradient = uniform(random) + 0.3f;
        (*optimizer)->Update(step, 0.01, 1, std::span(values).subspan(1, kSize), gradients);
        reference.Update(step, 0.01, std::vector<double>(gradients.begin(), gradients.end()));
      }
      double worst = 0, moved = 0;
      for (size_t i = 0; i < kSize; ++i) {
        worst = std::max(worst, std::abs(values[i + 1] - reference.w()[i]));
        moved = std::max(moved, std::abs(reference.w()[i]));
      }
      EXPECT_LT(worst, 2e-5) << name << " with decay " << decay;
      EXPECT_GT(moved, 0.5) << name;
      EXPECT_EQ(values.front(), first) << name << " touched a neighbour";
      EXPECT_EQ(values.back(), last) << name << " touched a neighbour";
    }
  }
}

// By hand, two steps of one parameter w = 2 with gradients 1 and 3 at rate 0.5.
TEST(OptimizerTest, HandComputed) {
  const auto run = [](const OptimizerOptions& options) {
    auto optimizer = *Optimizer::Make(options, 1);
    std::vector<float> w = {2};
    std::vector<float> path;
    for (int step = 1; step <= 2; ++step) {
      const std::vector<float> gradient = {step == 1 ? 1.0f : 3.0f};
      optimizer->Update(step, 0.5, 0, w, gradient);
      path.push_back(w[0]);
    }
    return path;
  };
  EXPECT_THAT(run({.name = "sgd"}), ElementsAre(1.5f, 0.0f));
  // g = 1 + 0.5 * 2 = 2, then 3 + 0.5 * 1 = 3.5
  EXPECT_THAT(run({.name = "sgd", .weight_decay = 0.5}), ElementsAre(1.0f, -0.75f));
  // v = 1, 3.5
  EXPECT_THAT(run({.name = "momentum", .momentum = 0.5}), ElementsAre(1.5f, -0.25f));
  // p = 1 + 0.5 * 1, 3 + 0.5 * 3.5
  EXPECT_THAT(run({.name = "nesterov", .momentum = 0.5}), ElementsAre(1.25f, -1.125f));
  // The first direction of Adam is the gradient's sign.
  EXPECT_NEAR(run({.name = "adam"})[0], 1.5f, 1e-6);
  // d + c w = 1 + 0.25 * 2
  EXPECT_NEAR(run({.name = "adamw", .weight_decay = 0.25})[0], 1.25f, 1e-6);
  // |w| / |p| = 2 / 1.5, so the step is 0.5 * 2 whatever the decay
  EXPECT_NEAR(run({.name = "lamb", .weight_decay = 0.25})[0], 1.0f, 1e-6);
  EXPECT_NEAR(run({.name = "lamb"})[0], 1.0f, 1e-6);
}

TEST(OptimizerTest, LambWithoutLengthTakesAdamsStep) {
  auto optimizer = *Optimizer::Make({.name = "lamb"}, 2);
  std::vector<float> w = {0, 0};
  optimizer->Update(1, 0.5, 0, w, std::vector<float>{3, -4});
  EXPECT_NEAR(w[0], -0.5, 1e-6);
  EXPECT_NEAR(w[1], 0.5, 1e-6);
  w = {1, 1};
  auto still = *Optimizer::Make({.name = "lamb"}, 2);
  still->Update(1, 0.5, 0, w, std::vector<float>{0, 0});
  EXPECT_THAT(w, ElementsAre(1, 1));
}

TEST(OptimizerTest, PiecesGiveTheSameAsTheWhole) {
  for (const char* name : kNames) {
    const OptimizerOptions options = {.name = name, .weight_decay = 0.1};
    auto whole = *Optimizer::Make(options, 7);
    auto pieces = *Optimizer::Make(options, 7);
    std::vector<float> a = {1, 2, 4, 8, 16, 32, 64}, b = a, g = {1, 2, 3, 4, 5, 6, 7};
    for (int t = 1; t <= 3; ++t) {
      whole->Update(t, 0.1, 0, a, g);
      for (const auto& [offset, size] : {std::pair<size_t, size_t>{5, 2}, {0, 5}}) {
        pieces->Update(t, 0.1, static_cast<int64_t>(offset), std::span(b).subspan(offset, size),
                       std::span(g).subspan(offset, size));
      }
    }
    EXPECT_EQ(whole->whole_pieces(), std::string(name) == "lamb");
    if (whole->whole_pieces()) {
      EXPECT_NE(a, b) << name << " does not say that pieces matter";
    } else {
      EXPECT_EQ(a, b) << name;
    }
  }
}

// Bits that every build of these three rules has had: runs resume across versions.
TEST(OptimizerTest, BitsOfTheOldRules) {
  for (const char* name : {"sgd", "momentum", "adam"}) {
    auto optimizer = *Optimizer::Make({.name = name}, 5);
    std::vector<float> w = {1, -2, 0.3f, 1e-3f, 7};
    Eigen::ArrayXf expected = Eigen::Map<Eigen::ArrayXf>(w.data(), 5);
    Eigen::ArrayXf v = Eigen::ArrayXf::Zero(5), m = v, s = v;
    for (int t = 1; t <= 20; ++t) {
      Eigen::ArrayXf g(5);
      for (int i = 0; i < 5; ++i) g[i] = std::sin(static_cast<float>(t * 5 + i));
      optimizer->Update(t, 0.07, 0, w, {g.data(), 5});
      const float rate = 0.07f;
      if (std::string(name) == "sgd") expected -= rate * g;
      if (std::string(name) == "momentum") {
        v = 0.9f * v + g;
        expected -= rate * v;
      }
      if (std::string(name) == "adam") {
        const auto mean = static_cast<float>(1.0 / (1.0 - std::pow(double{0.9f}, double(t))));
        const auto square = static_cast<float>(1.0 / (1.0 - std::pow(double{0.999f}, double(t))));
        m = 0.9f * m + (1 - 0.9f) * g;
        s = 0.999f * s + (1 - 0.999f) * g.square();
        expected -= rate * (mean * m) / ((square * s).sqrt() + 1e-8f);
      }
    }
    EXPECT_TRUE((Eigen::Map<Eigen::ArrayXf>(w.data(), 5) == expected).all()) << name;
  }
}

TEST(OptimizerTest, StatesHaveNames) {
  const auto names = [](const char* name) {
    std::vector<std::string> found;
    const auto optimizer = *Optimizer::Make({.name = name}, 3);
    for (const auto& state : optimizer->states()) {
      EXPECT_EQ(state.values.size(), 3);
      EXPECT_TRUE((state.values == 0).all());
      found.push_back(state.name);
    }
    return found;
  };
  EXPECT_THAT(names("sgd"), ElementsAre());
  EXPECT_THAT(names("momentum"), ElementsAre("velocity"));
  EXPECT_THAT(names("nesterov"), ElementsAre("velocity"));
  for (const char* name : {"adam", "adamw", "lamb"}) {
    EXPECT_THAT(names(name), ElementsAre("mean", "square"));
  }
}

TEST(OptimizerTest, RateFollowsTheSchedule) {
  OptimizerOptions options = {.name = "adam"};
  EXPECT_EQ((*Optimizer::Make(options, 0))->LearningRateAt(5), DefaultLearningRate("adam"));
  options.learning_rate = 0.4;
  options.schedule = *Schedule::Parse("linear:4");
  const auto optimizer = *Optimizer::Make(options, 0);
  EXPECT_DOUBLE_EQ(optimizer->LearningRateAt(1), 0.4);
  EXPECT_DOUBLE_EQ(optimizer->LearningRateAt(3), 0.2);
  EXPECT_DOUBLE_EQ(optimizer->LearningRateAt(5), 0);
}

TEST(OptimizerTest, RefusalsNameTheFlag) {
  const auto error = [](const OptimizerOptions& options) {
    const absl::Status status = Optimizer::Make(options, 1).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    return Message(status);
  };
  EXPECT_THAT(error({.name = "adagrad"}), HasSubstr("--optimizer adagrad: is none of sgd|"));
  EXPECT_THAT(error({.learning_rate = 0}), HasSubstr("--lr 0"));
  EXPECT_THAT(error({.learning_rate = INFINITY}), HasSubstr("--lr inf"));
  EXPECT_THAT(error({.momentum = 1}), HasSubstr("--momentum 1"));
  EXPECT_THAT(error({.momentum = NAN}), HasSubstr("--momentum nan"));
  EXPECT_THAT(error({.beta1 = -0.1}), HasSubstr("--beta1 -0.1"));
  EXPECT_THAT(error({.beta2 = 1.5}), HasSubstr("--beta2 1.5"));
  EXPECT_THAT(error({.epsilon = 0}), HasSubstr("--epsilon 0"));
  EXPECT_THAT(error({.weight_decay = -1}), HasSubstr("--weight-decay -1"));
  EXPECT_TRUE(absl::IsInvalidArgument(Optimizer::Make({}, -1).status()));
}

}  // namespace
}  // namespace gradwire::ps
