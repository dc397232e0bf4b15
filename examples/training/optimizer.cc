#include "examples/training/optimizer.h"

#include <cmath>

namespace gradwire::training {
namespace {

constexpr float kMomentum = 0.9f;
constexpr float kBeta1 = 0.9f;
constexpr float kBeta2 = 0.999f;
constexpr float kEpsilon = 1e-8f;

}  // namespace

absl::StatusOr<std::unique_ptr<Optimizer>> Optimizer::Make(std::string_view name, int64_t size) {
  Rule rule;
  std::vector<std::string> states;
  if (name == "sgd") {
    rule = Rule::kSgd;
  } else if (name == "momentum") {
    rule = Rule::kMomentum;
    states = {"velocity"};
  } else if (name == "adam") {
    rule = Rule::kAdam;
    states = {"mean", "square"};
  } else {
    return InvalidArgument("--optimizer {}: is none of sgd|momentum|adam", name);
  }
  std::unique_ptr<Optimizer> optimizer(new Optimizer(name, rule));
  for (std::string& state : states) {
    optimizer->states_.push_back({std::move(state), Eigen::ArrayXf::Zero(size)});
  }
  return optimizer;
}

double Optimizer::DefaultLearningRate(std::string_view name) {
  if (name == "sgd") return 0.2;
  return name == "adam" ? 0.002 : 0.05;
}

void Optimizer::Step(int64_t step, double learning_rate, int64_t offset, std::span<float> values,
                     std::span<const float> gradients) {
  const auto size = static_cast<Eigen::Index>(values.size());
  Eigen::Map<Eigen::ArrayXf> w(values.data(), size);
  const Eigen::Map<const Eigen::ArrayXf> g(gradients.data(), size);
  const auto rate = static_cast<float>(learning_rate);
  switch (rule_) {
    case Rule::kSgd:
      w -= rate * g;
      return;
    case Rule::kMomentum: {
      auto v = states_[0].values.segment(offset, size);
      v = kMomentum * v + g;
      w -= rate * v;
      return;
    }
    case Rule::kAdam: {
      auto m = states_[0].values.segment(offset, size);
      auto s = states_[1].values.segment(offset, size);
      const auto t = static_cast<double>(step);
      const auto mean_scale = static_cast<float>(1.0 / (1.0 - std::pow(double{kBeta1}, t)));
      const auto square_scale = static_cast<float>(1.0 / (1.0 - std::pow(double{kBeta2}, t)));
      m = kBeta1 * m + (1 - kBeta1) * g;
      s = kBeta2 * s + (1 - kBeta2) * g.square();
      w -= rate * (mean_scale * m) / ((square_scale * s).sqrt() + kEpsilon);
      return;
    }
  }
}

}  // namespace gradwire::training
