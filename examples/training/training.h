// The training program as a function: data, model, optimizer, trainer, checkpoints and reports put
// together. `gradwire train` is this behind flags.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "collectives/communicator.h"
#include "examples/training/model.h"
#include "examples/training/trainer.h"
#include "transport/status.h"

namespace gradwire::training {

struct TrainingOptions {
  std::string data = "digits";  // or a folder with IDX files
  ModelOptions model;
  ps::OptimizerOptions optimizer;
  ps::ClipOptions clip;
  int64_t epochs = 30;
  int64_t batch = 64;
  uint64_t seed = 1;
  int64_t bucket_bytes = 64 << 10;
  bool check_checksums = false;
  // Training ends as soon as the test accuracy reaches this; not reaching it is a failure.
  std::optional<double> target_accuracy;
  std::string checkpoint;    // folder; empty: none are written
  int keep_checkpoints = 3;  // newest of the folder, at least 1
  std::string resume;        // file or folder; empty: start anew
  std::string summary;       // file; empty: none
  std::string metrics;       // file; empty: none
};

// What can be known to be wrong without data or peers. InvalidArgument names the flag.
absl::Status Validate(const TrainingOptions& options);

// What is a parameter server's own, as one worker saw it.
struct PsSummary {
  int64_t servers = 0;
  int64_t workers = 0;  // when this one started
  int64_t members = 0;  // workers that took part in its last reply
  std::string consistency;
  int64_t staleness = 0;       // the bound; 0 unless ssp
  int64_t max_staleness = 0;   // of what it read, in steps
  double held_up_seconds = 0;  // replies waited for other workers
  int64_t held_up_by = -1;     // the last of them; -1: none
  uint64_t failovers = 0;      // shards that went over to their replica
  uint64_t duplicates = 0;     // pushes sent again that the servers had
  uint64_t bytes_pushed = 0;   // payload
  uint64_t bytes_pulled = 0;
};

struct TrainingSummary {
  std::string strategy = "allreduce";  // or "ps"
  std::string model;                   // Model::description()
  std::string data;                    // Dataset::name
  std::string optimizer;
  double learning_rate = 0;  // of which the schedule takes its share
  std::string lr_schedule;   // Schedule::ToString()
  int64_t batch = 0;
  uint64_t seed = 0;
  int world_size = 0;
  std::string transport;  // Communicator::transport_name()
  std::string device;     // Communicator::description()
  int64_t steps = 0;      // updates, those of the resumed run included
  int64_t epochs = 0;     // likewise
  double train_loss = 0;  // of the last epoch
  double test_accuracy = 0;
  double seconds = 0;                // wall time from the first update of this run to the end
  double samples_per_second = 0;     // of all ranks, evaluation and checkpoints not counted
  double comm_seconds = 0;           // CommunicationTime::busy of rank 0
  double exposed_comm_seconds = 0;   // CommunicationTime::exposed of rank 0
  double overlap_ratio = 0;          // CommunicationTime::OverlapRatio() of rank 0
  uint64_t bytes_sent = 0;           // by rank 0
  bool checksums_checked = false;    // --check-checksums held after every step
  std::string parameters_checksum;   // Hex(ParametersChecksum())
  std::vector<EpochResult> history;  // of this run
  std::optional<PsSummary> ps;       // strategy "ps"

  std::string ToJson() const;
};

// Collective: every rank calls it with the same options. Rank 0 prints to stdout and writes the
// files. The summary is each rank's own in its times and bytes, else the same everywhere.
absl::StatusOr<TrainingSummary> RunTraining(Communicator& communicator,
                                            const TrainingOptions& options);

}  // namespace gradwire::training
