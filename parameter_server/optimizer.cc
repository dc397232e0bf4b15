#include "parameter_server/optimizer.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "parameter_server/clip.h"

namespace gradwire::ps {
namespace {

using Array = Eigen::Map<Eigen::ArrayXf>;
using ConstArray = Eigen::Map<const Eigen::ArrayXf>;

struct RuleOf {
  std::string_view name;
  double learning_rate;  // that suits the example models
};
// By Optimizer::Rule.
constexpr std::array<RuleOf, 6> kRules = {{{"sgd", 0.2},
                                           {"momentum", 0.05},
                                           {"nesterov", 0.05},
                                           {"adam", 0.002},
                                           {"adamw", 0.002},
                                           {"lamb", 0.01}}};

const RuleOf* FindRule(std::string_view name) {
  return std::find_if(kRules.begin(), kRules.end(),
                      [name](const RuleOf& rule) { return rule.name == name; });
}

// Written so that NaN fails.
bool IsDecay(double value) { return value >= 0 && value < 1; }
bool IsPositive(double value) { return value > 0 && std::isfinite(value); }

// The direction of Adam: (m / (1 - b1^t)) / (sqrt(s / (1 - b2^t)) + e).
struct AdamScales {
  AdamScales(const OptimizerOptions& options, int64_t step)
      : mean(Correction(static_cast<float>(options.beta1), step)),
        square(Correction(static_cast<float>(options.beta2), step)),
        epsilon(static_cast<float>(options.epsilon)) {}

  static float Correction(float beta, int64_t step) {
    return static_cast<float>(1.0 / (1.0 - std::pow(double{beta}, static_cast<double>(step))));
  }

  float mean;
  float square;
  float epsilon;
};

// w -= r (|w| / |p|) p with p = d + c w. `m` and `s` are those of this step already.
template <typename State>
void LambStep(const AdamScales& adam, float rate, float decay, Array w, const State& m,
              const State& s) {
  // The direction is computed twice, block by block, rather than kept: it would need memory.
  constexpr Eigen::Index kBlock = 512;
  std::array<float, kBlock> buffer;
  const auto direction = [&](Eigen::Index begin, Eigen::Index size) {
    Array d(buffer.data(), size);
    d = (adam.mean * m.segment(begin, size)) /
            ((adam.square * s.segment(begin, size)).sqrt() + adam.epsilon) +
        decay * w.segment(begin, size);
    return d;
  };
  double squared = 0;
  for (Eigen::Index begin = 0; begin < w.size(); begin += kBlock) {
    const auto d = direction(begin, std::min(kBlock, w.size() - begin));
    squared += SquaredNorm({d.data(), static_cast<size_t>(d.size())});
  }
  const double length = std::sqrt(SquaredNorm({w.data(), static_cast<size_t>(w.size())}));
  const double ratio = length > 0 && squared > 0 ? length / std::sqrt(squared) : 1.0;
  const auto scaled = static_cast<float>(rate * ratio);
  for (Eigen::Index begin = 0; begin < w.size(); begin += kBlock) {
    const auto size = std::min(kBlock, w.size() - begin);
    const auto d = direction(begin, size);
    w.segment(begin, size) -= scaled * d;
  }
}

}  // namespace

double DefaultLearningRate(std::string_view name) {
  const RuleOf* const rule = FindRule(name);
  return rule == kRules.end() ? kRules[0].learning_rate : rule->learning_rate;
}

absl::Status Validate(const OptimizerOptions& options) {
  if (FindRule(options.name) == kRules.end()) {
    return InvalidArgument("--optimizer {}: is none of sgd|momentum|nesterov|adam|adamw|lamb",
                           options.name);
  }
  if (options.learning_rate && !IsPositive(*options.learning_rate)) {
    return InvalidArgument("--lr {}: must be positive", *options.learning_rate);
  }
  const std::array<std::pair<const char*, double>, 3> decays = {
      {{"--momentum", options.momentum}, {"--beta1", options.beta1}, {"--beta2", options.beta2}}};
  for (const auto& [flag, value] : decays) {
    if (!IsDecay(value))
      return InvalidArgument("{} {}: must be at least 0 and below 1", flag, value);
  }
  if (!IsPositive(options.epsilon)) {
    return InvalidArgument("--epsilon {}: must be positive", options.epsilon);
  }
  if (!(options.weight_decay >= 0 && std::isfinite(options.weight_decay))) {
    return InvalidArgument("--weight-decay {}: must be 0 or positive", options.weight_decay);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Optimizer>> Optimizer::Make(const OptimizerOptions& options,
                                                           int64_t size) {
  GW_RETURN_IF_ERROR(Validate(options));
  if (size < 0) return InvalidArgument("an optimizer for {} parameters", size);
  const auto rule = static_cast<Rule>(FindRule(options.name) - kRules.begin());
  std::unique_ptr<Optimizer> optimizer(new Optimizer(options, rule));
  if (!options.learning_rate) {
    optimizer->options_.learning_rate = DefaultLearningRate(options.name);
  }
  std::vector<const char*> names;
  if (rule == Rule::kMomentum || rule == Rule::kNesterov) names = {"velocity"};
  if (rule >= Rule::kAdam) names = {"mean", "square"};
  for (const char* name : names) {
    optimizer->states_.push_back({name, Eigen::ArrayXf::Zero(size)});
  }
  return optimizer;
}

void Optimizer::Update(int64_t step, double learning_rate, int64_t offset,
                       std::span<float> parameters, std::span<const float> gradients) {
  const auto size = static_cast<Eigen::Index>(parameters.size());
  Array w(parameters.data(), size);
  const ConstArray gradient(gradients.data(), size);
  const auto rate = static_cast<float>(learning_rate);
  const auto decay = static_cast<float>(options_.weight_decay);

  // Eigen keeps expressions, so `g` costs no pass of its own over memory.
  const auto update = [&](const auto& g) {
    switch (rule_) {
      case Rule::kSgd:
        w -= rate * g;
        return;
      case Rule::kMomentum:
      case Rule::kNesterov: {
        const auto momentum = static_cast<float>(options_.momentum);
        auto v = states_[0].values.segment(offset, size);
        if (rule_ == Rule::kMomentum) {
          v = momentum * v + g;
          w -= rate * v;
        } else {
          // `g` may depend on w, which is why it is read before w changes.
          v = momentum * v + g;
          w -= rate * (g + momentum * v);
        }
        return;
      }
      case Rule::kAdam:
      case Rule::kAdamW:
      case Rule::kLamb: {
        const auto beta1 = static_cast<float>(options_.beta1);
        const auto beta2 = static_cast<float>(options_.beta2);
        const AdamScales adam(options_, step);
        auto m = states_[0].values.segment(offset, size);
        auto s = states_[1].values.segment(offset, size);
        m = beta1 * m + (1 - beta1) * g;
        s = beta2 * s + (1 - beta2) * g.square();
        if (rule_ == Rule::kLamb) return LambStep(adam, rate, decay, w, m, s);
        if (rule_ == Rule::kAdamW && decay != 0) {
          w -= rate * ((adam.mean * m) / ((adam.square * s).sqrt() + adam.epsilon) + decay * w);
        } else {
          w -= rate * (adam.mean * m) / ((adam.square * s).sqrt() + adam.epsilon);
        }
        return;
      }
    }
  };
  const bool decays_apart = rule_ == Rule::kAdamW || rule_ == Rule::kLamb;
  if (decay != 0 && !decays_apart) {
    update(gradient + decay * w);
  } else {
    update(gradient);
  }
}

}  // namespace gradwire::ps
