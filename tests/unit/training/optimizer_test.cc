#include "examples/training/optimizer.h"

#include <gtest/gtest.h>

#include <cmath>

namespace gradwire::training {
namespace {

// Each rule against the formula of its header in double, over three steps of one parameter.
TEST(OptimizerTest, FollowsTheFormulas) {
  const std::vector<double> gradients = {0.5, -2.0, 0.1};
  constexpr double kRate = 0.1;
  for (const char* name : {"sgd", "momentum", "adam"}) {
    auto optimizer = Optimizer::Make(name, 3);
    ASSERT_TRUE(optimizer.ok()) << optimizer.status();
    std::vector<float> values = {9, 1, 9};
    double w = 1, v = 0, m = 0, s = 0;
    for (int t = 1; t <= 3; ++t) {
      const double g = gradients[static_cast<size_t>(t - 1)];
      const std::vector<float> given = {static_cast<float>(g)};
      (*optimizer)->Step(t, kRate, 1, std::span(values).subspan(1, 1), given);
      v = 0.9 * v + g;
      m = 0.9 * m + 0.1 * g;
      s = 0.999 * s + 0.001 * g * g;
      if (std::string(name) == "sgd") w -= kRate * g;
      if (std::string(name) == "momentum") w -= kRate * v;
      if (std::string(name) == "adam") {
        w -=
            kRate * (m / (1 - std::pow(0.9, t))) / (std::sqrt(s / (1 - std::pow(0.999, t))) + 1e-8);
      }
      EXPECT_NEAR(values[1], w, 1e-5) << name << " step " << t;
    }
    EXPECT_EQ(values[0], 9) << name << " touched a neighbour";
    EXPECT_EQ(values[2], 9) << name << " touched a neighbour";
  }
}

TEST(OptimizerTest, PiecesGiveTheSameAsTheWhole) {
  for (const char* name : {"sgd", "momentum", "adam"}) {
    auto whole = *Optimizer::Make(name, 7);
    auto pieces = *Optimizer::Make(name, 7);
    std::vector<float> a(7, 1.0f), b(7, 1.0f), g = {1, 2, 3, 4, 5, 6, 7};
    for (int t = 1; t <= 3; ++t) {
      whole->Step(t, 0.1, 0, a, g);
      for (const auto& [offset, size] : {std::pair<size_t, size_t>{5, 2}, {0, 5}}) {
        pieces->Step(t, 0.1, static_cast<int64_t>(offset), std::span(b).subspan(offset, size),
                     std::span(g).subspan(offset, size));
      }
    }
    EXPECT_EQ(a, b) << name;
  }
}

TEST(OptimizerTest, UnknownName) {
  EXPECT_TRUE(absl::IsInvalidArgument(Optimizer::Make("adagrad", 1).status()));
}

}  // namespace
}  // namespace gradwire::training
