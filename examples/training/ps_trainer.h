// A worker of a parameter server: it computes the gradients of its part of each global batch, and
// the servers update the parameters.
//
// The model lives in the worker's registered memory: servers write pulled parameters there, and
// gradients are pushed from where the backward pass leaves them, a bucket as soon as its last one
// is final. Samples, parts and scaling are those of Trainer, so that under BSP the curve is that of
// an all-reduce run up to the order of the sums.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "examples/training/trainer.h"
#include "parameter_server/worker.h"
#include "transport/status.h"

namespace gradwire::training {

// The parameters of a model in flat order, under the names that checkpoints have.
absl::StatusOr<ps::Layout> LayoutOf(const Model<float>& model);

struct PsTrainerOptions {
  int64_t batch = 64;  // samples of all workers together, 1..size of the training set
  uint64_t seed = 1;
  int64_t bucket_bytes = 64 << 10;  // gradients per push
  bool whole_pushes = false;        // all gradients in one push, as the worker's clip_norm needs
  // For what is told of a step; the servers have their own.
  double learning_rate = 0;
  ps::Schedule schedule;
};

class PsTrainer {
 public:
  // Moves `model` into the worker's memory. The referenced objects must outlive the trainer, which
  // has to go before the worker; the model is not to be used after the worker.
  static absl::StatusOr<std::unique_ptr<PsTrainer>> Create(ps::Worker& worker,
                                                           const Dataset& dataset,
                                                           Model<float>& model,
                                                           const PsTrainerOptions& options);

  // Offers the model's values to servers that have none, and takes over what they have.
  absl::Status Start();

  int64_t steps_per_epoch() const;
  // Where this worker stands, which is where the servers had it when it joined or came back.
  Position position() const;

  // Trains to the end of the epoch that the next step belongs to. Loss and accuracy are those of
  // this worker's parts, an epoch's samples those of the whole batches; test_accuracy stays 0. A
  // loss that is not finite is FailedPrecondition.
  absl::StatusOr<EpochResult> RunEpoch(const std::function<void(const StepResult&)>& on_step);

  // Accuracy on the whole test set, of the parameters as the servers have them now.
  absl::StatusOr<double> Evaluate();

 private:
  // Tensors [first, last) of the layout, pushed together.
  struct Bucket {
    int first = 0;
    int last = 0;
  };

  PsTrainer(ps::Worker& worker, const Dataset& dataset, Model<float>& model,
            const PsTrainerOptions& options);
  void MakeBuckets();
  absl::StatusOr<StepResult> Step(std::span<const uint32_t> batch);
  // This gradient is final; called in the order of the flat array.
  void Ready(const Parameter<float>& parameter);
  // Pushes the buckets that are complete.
  void PushFinished();
  // Pushes what is left, ends the step and waits for the new parameters.
  absl::Status Exchange(CommunicationTime& time);

  ps::Worker& worker_;
  const Dataset& dataset_;
  Model<float>& model_;
  const PsTrainerOptions options_;
  std::vector<Bucket> buckets_;
  int64_t first_members_ = 0;  // workers when this one started
  // Of the step under way.
  std::vector<ps::Handle> pushes_;  // by bucket
  absl::Status push_status_;
  Deadline first_push_;
  int64_t finished_ = 0;  // elements of the flat array whose gradient is final
  // Scratch, kept so that a step does not allocate.
  Matrix<float> inputs_;
  Matrix<float> d_logits_;
  std::vector<uint8_t> labels_;
};

}  // namespace gradwire::training
