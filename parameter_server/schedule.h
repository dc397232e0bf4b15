// Learning rates that change with the step.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "transport/status.h"

namespace gradwire::ps {

// A factor of the base learning rate for every step. As text, the form of --lr-schedule:
//
//   constant                 1
//   step:N[:FACTOR]          FACTOR^k after k times N steps (0.1 when left out)
//   cosine:N[:FLOOR]         from 1 to FLOOR (0) over N steps along half a cosine, then FLOOR
//                            (Loshchilov and Hutter, 2017, without restarts)
//   linear:N[:FLOOR]         from 1 to FLOOR (0) over N steps in a straight line, then FLOOR
//
// each with ",warmup:N" behind it: the first N steps rise in a straight line to the first value of
// the schedule, which begins after them (Goyal et al., 2017).
class Schedule {
 public:
  Schedule() = default;  // constant
  // InvalidArgument names --lr-schedule, what is wrong with `text` and what there is.
  static absl::StatusOr<Schedule> Parse(std::string_view text);

  // The factor of a step, counted from 1. Between 0 and 1; 0 only behind a FLOOR of 0.
  double RateAt(int64_t step) const;
  // In the form that Parse() takes, every number written out.
  std::string ToString() const;

  friend bool operator==(const Schedule&, const Schedule&) = default;

 private:
  enum class Kind { kConstant, kStep, kCosine, kLinear };
  static constexpr int kKinds = 4;

  Kind kind_ = Kind::kConstant;
  int64_t steps_ = 0;   // N, positive unless constant
  double value_ = 0;    // FACTOR or FLOOR
  int64_t warmup_ = 0;  // steps
};

}  // namespace gradwire::ps
