// First-order optimizers over flat arrays.
#pragma once

#include <Eigen/Core>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "transport/status.h"

namespace gradwire::training {

// w: parameter, g: gradient, r: learning rate, t: step from 1.
//   sgd       w -= r g
//   momentum  v = 0.9 v + g;  w -= r v                                     (Polyak, 1964)
//   adam      m = 0.9 m + 0.1 g;  s = 0.999 s + 0.001 g^2;
//             w -= r (m / (1 - 0.9^t)) / (sqrt(s / (1 - 0.999^t)) + 1e-8)  (Kingma and Ba, 2015)
class Optimizer {
 public:
  // For `size` parameters. InvalidArgument for a name other than these three.
  static absl::StatusOr<std::unique_ptr<Optimizer>> Make(std::string_view name, int64_t size);
  // A learning rate that suits the example models.
  static double DefaultLearningRate(std::string_view name);

  const std::string& name() const { return name_; }

  // Updates the parameters [offset, offset + values.size()) of all.
  void Step(int64_t step, double learning_rate, int64_t offset, std::span<float> values,
            std::span<const float> gradients);

  // What must be saved to continue: arrays with one number per parameter.
  struct State {
    std::string name;  // "velocity", "mean", "square"
    Eigen::ArrayXf values;
  };
  std::vector<State>& states() { return states_; }

 private:
  enum class Rule { kSgd, kMomentum, kAdam };
  Optimizer(std::string_view name, Rule rule) : name_(name), rule_(rule) {}

  std::string name_;
  Rule rule_;
  std::vector<State> states_;
};

}  // namespace gradwire::training
