// The prices that explain measured times best.
#include <Eigen/Dense>
#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <vector>

#include "analysis/median.h"
#include "analysis/model.h"

namespace gradwire::analysis {
namespace {

// A price is told from zero when it is this many times its standard error.
constexpr double kSignificant = 2;
// What hides behind what depends on the prices, so these are found in rounds.
constexpr int kRounds = 50;
// Columns that are nearer to a combination of the others than this are one.
constexpr double kDependent = 1e-5;

// Sums of squares that rounding alone may make.
constexpr double kExact = 1e-9;

using Columns = Eigen::Matrix<double, Eigen::Dynamic, 3>;

// x >= 0 with the least |a x - b|, over the columns that `free` allows. With three unknowns all
// sets of columns are tried.
Eigen::Vector3d NonNegative(const Columns& a, const Eigen::VectorXd& b, unsigned free) {
  Eigen::Vector3d best = Eigen::Vector3d::Zero();
  double least = b.squaredNorm();
  for (unsigned set = 1; set < 8; ++set) {
    if ((set & ~free) != 0) continue;
    std::vector<int> chosen;
    for (int i = 0; i < 3; ++i) {
      if ((set >> i & 1) != 0) chosen.push_back(i);
    }
    const Eigen::MatrixXd part = a(Eigen::all, chosen);
    if ((part.colwise().norm().array() == 0).any()) continue;
    // Columns of one length, or bytes would drown messages.
    const Eigen::VectorXd scale = part.colwise().norm().cwiseInverse();
    const Eigen::VectorXd solution =
        scale.asDiagonal() * (part * scale.asDiagonal()).colPivHouseholderQr().solve(b);
    if (!solution.allFinite() || (solution.array() < 0).any()) continue;
    const double error = (part * solution - b).squaredNorm();
    if (error < least) {
      least = error;
      best.setZero();
      for (size_t i = 0; i < chosen.size(); ++i) {
        best[chosen[i]] = solution[static_cast<Eigen::Index>(i)];
      }
    }
  }
  return best;
}

class Fitting {
 public:
  Fitting(std::span<const Sample> samples, bool overlaps, std::optional<double> gamma)
      : samples_(samples), gamma_(gamma) {
    costs_.overlaps = overlaps;
  }

  // With gamma fitted, given, or left to beta.
  void Run(bool fit_gamma) {
    error_ = std::numeric_limits<double>::infinity();
    const bool overlaps = costs_.overlaps;
    // Rounds may end where the link hides behind reductions or the other way round: begin at both.
    for (const unsigned first : {3u, 7u}) {
      if (first == 7u && !fit_gamma) break;
      free_ = first;
      Costs start = Solve({.overlaps = false});
      start.overlaps = overlaps;
      free_ = fit_gamma ? 7u : 3u;
      Improve(start);
    }
  }

  const Costs& costs() const { return costs_; }
  double error() const { return error_; }

  // The smallest singular value of the columns `which`, each of length one: 0 when one follows
  // from the others.
  double Independence(const std::vector<int>& which) const {
    Eigen::MatrixXd part = Table(costs_)(Eigen::all, which);
    for (auto column : part.colwise()) {
      if (column.norm() == 0) return 0;
      column.normalize();
    }
    const Eigen::VectorXd values = part.jacobiSvd().singularValues();
    return values[values.size() - 1];
  }

  // Whether the samples show a gamma that is not zero.
  bool ShowsGamma() const {
    if (Independence({0, 1, 2}) < kDependent) return false;
    const Columns a = Table(costs_);
    const auto spare = static_cast<double>(samples_.size()) - 3;
    if (spare < 1) return false;
    const Eigen::Vector3d scale = a.colwise().norm().cwiseInverse();
    const Eigen::Matrix3d normal = scale.asDiagonal() * (a.transpose() * a) * scale.asDiagonal();
    const double variance = normal.inverse()(2, 2) * scale[2] * scale[2] * error_ / spare;
    return costs_.gamma_us_per_mb > kSignificant * std::sqrt(variance);
  }

 private:
  void Improve(Costs tried) {
    for (int round = 0; round < kRounds; ++round) {
      const double error = ErrorOf(tried);
      if (error < error_) {
        error_ = error;
        costs_ = tried;
      }
      Costs next = Solve(tried);
      // Half the way: two sets of what hides would otherwise take turns.
      if (round > 4) {
        next.alpha_us = (next.alpha_us + tried.alpha_us) / 2;
        next.beta_us_per_mb = (next.beta_us_per_mb + tried.beta_us_per_mb) / 2;
        next.gamma_us_per_mb = (next.gamma_us_per_mb + tried.gamma_us_per_mb) / 2;
      }
      tried = next;
    }
  }

  // One row per sample, in parts of the measured time.
  Columns Table(const Costs& costs) const {
    Columns table(samples_.size(), 3);
    for (size_t i = 0; i < samples_.size(); ++i) {
      const Terms terms = CriticalPath(samples_[i].of, costs);
      table.row(static_cast<Eigen::Index>(i)) =
          Eigen::RowVector3d(terms.messages, terms.mb, terms.reduced_mb) / samples_[i].measured_us;
    }
    return table;
  }

  Costs Solve(const Costs& under) const {
    const Columns table = Table(under);
    Eigen::VectorXd wanted = Eigen::VectorXd::Ones(table.rows());
    unsigned free = free_;
    if (gamma_) {
      wanted -= table.col(2) * *gamma_;
      free = 3;
    }
    const Eigen::Vector3d solution = NonNegative(table, wanted, free);
    Costs costs = under;
    costs.alpha_us = solution[0];
    costs.beta_us_per_mb = solution[1];
    costs.gamma_us_per_mb = gamma_.value_or(solution[2]);
    return costs;
  }

  double ErrorOf(const Costs& costs) const {
    double sum = 0;
    for (const Sample& sample : samples_) {
      const double part =
          CriticalPath(sample.of, costs).Microseconds(costs) / sample.measured_us - 1;
      sum += part * part;
    }
    return sum;
  }

  const std::span<const Sample> samples_;
  const std::optional<double> gamma_;
  unsigned free_ = 7;
  Costs costs_;
  double error_ = 0;
};

absl::Status Check(std::span<const Sample> samples, const FitOptions& options) {
  std::set<uint64_t> sizes;
  for (const Sample& sample : samples) {
    GW_RETURN_IF_ERROR(Annotate(Validate(sample.of), "sample " + sample.what));
    if (!std::isfinite(sample.measured_us) || sample.measured_us <= 0) {
      return InvalidArgument("sample {}: {} us is no measured time", sample.what,
                             sample.measured_us);
    }
    sizes.insert(sample.of.bytes);
  }
  const double gamma = options.gamma_us_per_mb.value_or(0);
  if (!std::isfinite(gamma) || gamma < 0) {
    return InvalidArgument("gamma of {} us per MB: it cannot be below 0", gamma);
  }
  if (samples.size() < 3 || sizes.size() < 2) {
    return FailedPrecondition(
        "{} {} of {} {} cannot tell a message's price from a byte's; measure at least three, of "
        "two "
        "sizes or more",
        samples.size(), samples.size() == 1 ? "sample" : "samples", sizes.size(),
        sizes.size() == 1 ? "size" : "sizes");
  }
  return absl::OkStatus();
}

struct Found {
  Costs costs;
  bool folded = false;  // gamma is contained in beta
};

absl::StatusOr<Found> Find(std::span<const Sample> samples, const FitOptions& options) {
  GW_RETURN_IF_ERROR(Check(samples, options));
  const bool given = options.gamma_us_per_mb.has_value();
  std::optional<Fitting> best;
  bool folded = false;
  for (const bool overlaps : {false, true}) {
    Fitting fitting(samples, overlaps, options.gamma_us_per_mb);
    fitting.Run(!given);
    const bool fold = !given && !fitting.ShowsGamma();
    if (fold) fitting.Run(false);
    // The simpler one unless the other explains clearly more.
    if (!best || fitting.error() + kExact < 0.9 * best->error()) {
      best.emplace(fitting);
      folded = fold;
    }
  }
  if (best->Independence({0, 1}) < kDependent) {
    return FailedPrecondition(
        "in these {} samples bytes grow with messages, so that one price cannot be told from the "
        "other; measure sizes below a slice as well",
        samples.size());
  }
  return Found{best->costs(), folded};
}

double Predicted(const Case& of, const Costs& costs) {
  return CriticalPath(of, costs).Microseconds(costs);
}

// How far off each size is when the others alone are fitted. Sizes without which nothing can be
// fitted stay without.
void AddUnseen(std::span<const Sample> samples, const FitOptions& options, Model& model) {
  std::set<uint64_t> sizes;
  for (const Sample& sample : samples) sizes.insert(sample.of.bytes);
  std::vector<double> errors;
  for (const uint64_t size : sizes) {
    std::vector<Sample> others;
    for (const Sample& sample : samples) {
      if (sample.of.bytes != size) others.push_back(sample);
    }
    const absl::StatusOr<Found> found = Find(others, options);
    if (!found.ok()) continue;
    for (size_t i = 0; i < samples.size(); ++i) {
      if (samples[i].of.bytes != size) continue;
      const double unseen = Predicted(samples[i].of, found->costs);
      model.points[i].unseen_us = unseen;
      errors.push_back(std::abs(unseen / samples[i].measured_us - 1));
    }
  }
  if (!errors.empty()) model.unseen_error = Median(std::move(errors));
}

}  // namespace

absl::StatusOr<Model> Fit(std::span<const Sample> samples, const FitOptions& options) {
  GW_ASSIGN_OR_RETURN(const Found found, Find(samples, options));
  const Costs& costs = found.costs;
  Model model;
  model.alpha_us = costs.alpha_us;
  model.beta_us_per_mb = costs.beta_us_per_mb;
  model.gamma_us_per_mb = costs.gamma_us_per_mb;
  model.overlaps = costs.overlaps;
  std::vector<double> errors;
  for (const Sample& sample : samples) {
    const double predicted = Predicted(sample.of, costs);
    model.points.push_back({.what = sample.what,
                            .algorithm = std::string(NameOf(sample.of.algorithm)),
                            .bytes = sample.of.bytes,
                            .ranks = sample.of.ranks,
                            .measured_us = sample.measured_us,
                            .predicted_us = predicted,
                            .unseen_us = std::nullopt});
    errors.push_back(std::abs(predicted / sample.measured_us - 1));
  }
  model.error = Median(std::move(errors));
  AddUnseen(samples, options, model);
  if (options.gamma_us_per_mb)
    model.notes.push_back("gamma was measured apart and given, not fitted");
  if (found.folded) {
    model.notes.push_back(
        "these samples do not show the price of reducing apart from that of the link: gamma is "
        "contained in beta; other algorithms in the same samples, or a given gamma, would tell");
  }
  if (model.alpha_us == 0) {
    model.notes.push_back("these samples show no price per message; smaller sizes would");
  }
  return model;
}

}  // namespace gradwire::analysis
