// What a study measures: one question, and the configurations whose difference answers it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "analysis/study.h"
#include "transport/status.h"

namespace gradwire::bench {

struct StudyOptions;

// One configuration, run as `gradwire bench allreduce`.
struct StudyPoint {
  std::string label;                     // its value of what is studied: "8", "polling"
  std::vector<std::string> flags;        // beside those of the plan
  std::vector<std::string> environment;  // NAME=value, likewise: settings of urxe; none for others
  int ranks = 0;                         // 0: the plan's
  int64_t bytes = 0;                     // 0: the plan's
  int calls = 0;                         // 0: the plan's
  bool refused = false;                  // the program is to refuse it, and say why
};

struct StudyPlan {
  std::string_view name;  // "signal_interval"
  // Instead of all that follows: another program of ours measures it.
  absl::StatusOr<analysis::Study> (*measure)(const StudyOptions&) = nullptr;
  std::string_view question;  // one sentence
  std::string_view varies;    // what the labels are: "signal interval (requests)"
  int ranks = 2;
  int64_t bytes = 1 << 20;
  int calls = 60;                        // timed, per round: for 10 ms and more, where they can
  std::vector<std::string> flags;        // of every point
  std::vector<std::string> environment;  // of every point, where the device is urxe
  std::vector<StudyPoint> points;
  bool across_transports = false;  // they are compared with each other, else each with itself
  std::string_view lesson;         // what theory expects, said after the numbers
  bool timeline = false;           // the slowest point's recording goes into the report
};

// In the order in which `gradwire study all` runs them.
std::span<const StudyPlan> AllStudies();

}  // namespace gradwire::bench
