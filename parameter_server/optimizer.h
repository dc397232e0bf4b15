// First-order optimizers over flat arrays: the one implementation, at workers that all-reduce and
// at servers.
#pragma once

#include <Eigen/Core>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "parameter_server/schedule.h"
#include "transport/status.h"

namespace gradwire::ps {

// sgd | momentum | nesterov | adam | adamw | lamb. The comments name the flags.
struct OptimizerOptions {
  std::string name = "momentum";        // --optimizer
  std::optional<double> learning_rate;  // --lr: positive; empty: DefaultLearningRate(name)
  double momentum = 0.9;                // --momentum: [0, 1), for momentum and nesterov
  double beta1 = 0.9;                   // --beta1: [0, 1), decay of the mean
  double beta2 = 0.999;                 // --beta2: [0, 1), decay of the mean square
  double epsilon = 1e-8;                // --epsilon: positive, keeps the divisor from zero
  double weight_decay = 0;              // --weight-decay: at least 0
  Schedule schedule;                    // --lr-schedule
};

// A learning rate that suits the example models.
double DefaultLearningRate(std::string_view name);

// w: parameter, g: gradient, r: learning rate, t: step from 1, u: momentum, c: weight decay.
// sgd, momentum, nesterov and adam add c w to g first (an L2 penalty); adamw and lamb decay w
// apart.
//
//   sgd       w -= r g
//   momentum  v = u v + g;  w -= r v                                   (Polyak, 1964)
//   nesterov  v = u v + g;  w -= r (g + u v)      (Sutskever, Martens, Dahl and Hinton, 2013; in
//             the form that keeps the looked-ahead parameter, so that v is that of momentum)
//   adam      m = b1 m + (1 - b1) g;  s = b2 s + (1 - b2) g^2;
//             d = (m / (1 - b1^t)) / (sqrt(s / (1 - b2^t)) + e);  w -= r d   (Kingma and Ba, 2015)
//   adamw     d as adam's;  w -= r (d + c w)                     (Loshchilov and Hutter, 2019)
//   lamb      d as adam's;  p = d + c w;  w -= r (|w| / |p|) p, the ratio 1 where a norm is 0
//             (You et al., 2020). The norms are over what one call of Update() is given, so that a
//             cut tensor has a ratio of its own for each piece: see whole_pieces().
class Optimizer {
 public:
  // For `size` parameters, all states zero. InvalidArgument names the flag that is wrong.
  static absl::StatusOr<std::unique_ptr<Optimizer>> Make(const OptimizerOptions& options,
                                                         int64_t size);

  // With the learning rate filled in.
  const OptimizerOptions& options() const { return options_; }
  const std::string& name() const { return options_.name; }
  // The rate of a step, counted from 1: options().learning_rate by its schedule.
  double LearningRateAt(int64_t step) const {
    return *options_.learning_rate * options_.schedule.RateAt(step);
  }

  // Updates the parameters [offset, offset + parameters.size()) of all, in place, without
  // allocating. Disjoint ranges may be updated by several threads at once. `gradients` is as long
  // as `parameters` and both lie inside the size given to Make().
  void Update(int64_t step, double learning_rate, int64_t offset, std::span<float> parameters,
              std::span<const float> gradients);

  // True for lamb: each call of Update() must be given one whole piece of a tensor, never a part
  // of one or several together. The others give the same bits however a range is divided.
  bool whole_pieces() const { return rule_ == Rule::kLamb; }

  // What must be saved to continue: arrays with one number per parameter.
  struct State {
    std::string name;  // "velocity" (momentum, nesterov); "mean", "square" (adam, adamw, lamb)
    Eigen::ArrayXf values;
  };
  std::vector<State>& states() { return states_; }
  const std::vector<State>& states() const { return states_; }

 private:
  enum class Rule { kSgd, kMomentum, kNesterov, kAdam, kAdamW, kLamb };
  Optimizer(const OptimizerOptions& options, Rule rule) : options_(options), rule_(rule) {}

  OptimizerOptions options_;
  Rule rule_;
  std::vector<State> states_;
};

// InvalidArgument, naming the flag, for options that Make() would refuse.
absl::Status Validate(const OptimizerOptions& options);

}  // namespace gradwire::ps
