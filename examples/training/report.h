// What rank 0 says and writes during a run.
#pragma once

#include <cstdio>
#include <fstream>
#include <memory>
#include <optional>
#include <string>

#include "examples/training/progress.h"
#include "examples/training/trainer.h"
#include "examples/training/training.h"
#include "transport/file_io.h"
#include "transport/status.h"

namespace gradwire::training {

// Lines and a progress bar on stdout, JSON lines in the metrics file, and the summary. Opens its
// files at once, so that a missing folder ends the run before it starts.
class Report {
 public:
  static absl::StatusOr<std::unique_ptr<Report>> Open(const TrainingOptions& options);

  void Line(std::string_view text) { progress_.Line(text); }
  // One JSON object, {"event": "step", ...}; errors are kept for Finish() and Epoch().
  void Step(const StepResult& step, int64_t epochs, int64_t steps_per_epoch);
  // One line and one JSON object, {"event": "epoch", ...}.
  absl::Status Epoch(const EpochResult& epoch, int64_t epochs);
  absl::Status Finish(const TrainingSummary& summary);

 private:
  Report() : progress_(stdout) {}
  absl::Status MetricsStatus();

  Progress progress_;
  std::string metrics_path_;
  std::ofstream metrics_;
  std::optional<AtomicFile> summary_;
};

}  // namespace gradwire::training
