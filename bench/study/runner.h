// Carries out a study: every configuration once per round, so that what drifts on the machine hits
// all of them alike; each with telemetry, whose classes tell where the difference went.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "analysis/study.h"
#include "bench/study/plan.h"
#include "transport/status.h"

namespace gradwire::bench {

inline constexpr std::chrono::seconds kProgramLimit{180};  // of one program
inline constexpr uint64_t kMaxReport = 64 << 20;           // bytes of what it reports

struct StudyProgram {
  int exit_code = 0;
  std::string output;
};

struct StudyOptions {
  std::string program;           // gradwire's own path
  std::filesystem::path folder;  // an empty one of its own, for recordings and reports
  std::string device = "urxe";   // of what goes over RDMA
  int rounds = 5;
  double scale = 1;  // of the number of calls
  // Runs a program with further variables; an error when it did not end within `limit`.
  std::function<absl::StatusOr<StudyProgram>(const std::vector<std::string>& argv,
                                             std::chrono::milliseconds limit,
                                             const std::vector<std::string>& environment)>
      run;
  // Told before each program starts: which of how many.
  std::function<void(int done, int all, const std::string& what)> progress;
};

// The errors of a configuration that failed name it. What was measured until then is lost.
absl::StatusOr<analysis::Study> RunStudy(const StudyPlan& plan, const StudyOptions& options);

// Those that other programs of ours measure (programs.cc).
absl::StatusOr<analysis::Study> StudyWriteVsRead(const StudyOptions& options);
absl::StatusOr<analysis::Study> StudyAllReduceVsPs(const StudyOptions& options);

}  // namespace gradwire::bench
