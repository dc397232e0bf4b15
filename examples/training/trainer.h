// Data-parallel training: every rank holds the whole model and computes the gradients of its part
// of each global batch; their sum over the ranks drives the same update everywhere.
//
// The order of the samples depends on the seed and the epoch alone, and the loss gradient is
// divided by the size of the global batch before it is summed, so the loss curve is that of one
// process training alone, up to the rounding of the sums, for any number of ranks and any batch.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "collectives/communicator.h"
#include "collectives/gradient_buckets.h"
#include "examples/training/checkpoint.h"
#include "examples/training/dataset.h"
#include "examples/training/model.h"
#include "parameter_server/clip.h"
#include "parameter_server/optimizer.h"
#include "transport/status.h"

namespace gradwire::training {

struct TrainerOptions {
  int64_t batch = 64;  // samples of all ranks together, 1..size of the training set
  uint64_t seed = 1;
  int64_t bucket_bytes = 64 << 10;
  ps::ClipOptions clip;          // of the sum over the ranks
  bool check_checksums = false;  // compare all ranks' parameters after every step
};

// One update, the same on every rank but for times.
struct StepResult {
  Position position;    // step: number of this update from 1; epoch: from 1
  double loss = 0;      // mean over the global batch, in nats, before the update
  int64_t correct = 0;  // of `samples`
  int64_t samples = 0;  // that loss and correct are over: the global batch
  int64_t batch = 0;    // size of the global batch
  double learning_rate = 0;
  double gradient_norm = 0;  // L2, before ClipOptions::norm; 0 when that is off
  double seconds = 0;        // wall time of this rank
  CommunicationTime communication;
};

struct EpochResult {
  int64_t epoch = 0;      // from 1
  int64_t step = 0;       // updates so far
  double train_loss = 0;  // mean over the samples, each as the model was when it saw it
  double train_accuracy = 0;
  double test_accuracy = 0;
  int64_t samples = 0;
  double seconds = 0;  // wall time of the updates, evaluation not counted
  CommunicationTime communication;
};

// The samples of one epoch in the order in which they are used.
std::vector<uint32_t> EpochOrder(uint64_t seed, int64_t epoch, int64_t samples);
// Part `rank` of `size` of a global batch: contiguous, sizes differ by at most one, empty when the
// batch is smaller than the rank's turn.
std::span<const uint32_t> PartOf(std::span<const uint32_t> batch, int rank, int size);
// InvalidArgument for a global batch that cannot be.
absl::Status CheckBatch(int64_t batch, const Dataset& dataset);
// How many of the samples of dataset.test the model puts right.
int64_t CountCorrect(Model<float>& model, const Dataset& dataset,
                     std::span<const uint32_t> samples);

class Trainer {
 public:
  // InvalidArgument for a batch that cannot be. The referenced objects must outlive the trainer.
  static absl::StatusOr<std::unique_ptr<Trainer>> Create(Communicator& communicator,
                                                         const Dataset& dataset,
                                                         Model<float>& model,
                                                         ps::Optimizer& optimizer,
                                                         const TrainerOptions& options);

  // Makes every rank start where rank 0 does: its parameters, optimizer state and position.
  // FailedPrecondition, naming the ranks, when they do not all have the same `identity`.
  absl::Status Synchronize(const RunIdentity& identity, Position position);

  int64_t steps_per_epoch() const;
  const Position& position() const { return position_; }

  // Trains one epoch, then evaluates; `on_step` is told of every update. A loss that is not finite
  // is FailedPrecondition on every rank.
  absl::StatusOr<EpochResult> RunEpoch(const std::function<void(const StepResult&)>& on_step);

 private:
  Trainer(Communicator& communicator, const Dataset& dataset, Model<float>& model,
          ps::Optimizer& optimizer, const TrainerOptions& options);

  absl::StatusOr<StepResult> Step(std::span<const uint32_t> batch);
  // Waits for the gradients and applies them, each bucket as it comes unless their norm is limited.
  absl::Status Update(StepResult& result);
  void Apply(const StepResult& result, int bucket);
  absl::StatusOr<double> Evaluate();
  // FailedPrecondition, with `what` and the ranks that differ from rank 0, unless all are equal.
  absl::Status CheckEqual(int64_t mine, std::string_view what);

  Communicator& communicator_;
  const Dataset& dataset_;
  Model<float>& model_;
  ps::Optimizer& optimizer_;
  TrainerOptions options_;
  std::unique_ptr<GradientBuckets> buckets_;
  Position position_;
  // Scratch, kept so that a step does not allocate.
  Matrix<float> inputs_;
  Matrix<float> d_logits_;
  std::vector<uint8_t> labels_;
};

}  // namespace gradwire::training
