// The gradients of a model, grouped in buckets whose all-reduce overlaps the backward pass.
//
// Each bucket is one registered allocation; the gradients of its parameters are views into it. The
// layout is that of the model's flat array: last layer first, so buckets fill in order. As soon as
// the last gradient of a bucket is final its all-reduce starts, while earlier layers still compute.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "collectives/communicator.h"
#include "examples/training/model.h"
#include "transport/status.h"

namespace gradwire::training {

// What communication cost one rank.
struct CommunicationTime {
  std::chrono::nanoseconds busy{0};     // collectives were running: sum of Work::duration()
  std::chrono::nanoseconds exposed{0};  // the training thread waited for them

  // The share of `busy` that was hidden behind computing: 1 - exposed / busy, cut to 0..1; 0 when
  // nothing was sent.
  double OverlapRatio() const;
  // Waits for `work` and counts what it cost.
  absl::Status Wait(Work& work);
  CommunicationTime& operator+=(const CommunicationTime& other);
};

class GradientBuckets {
 public:
  // A bucket closes before the parameter with which it would exceed `bucket_bytes`; a larger
  // parameter has a bucket of its own. `communicator` and `model` must outlive the buckets.
  static absl::StatusOr<std::unique_ptr<GradientBuckets>> Create(Communicator& communicator,
                                                                 Model<float>& model,
                                                                 int64_t bucket_bytes);
  ~GradientBuckets();  // waits for what still runs
  GradientBuckets(const GradientBuckets&) = delete;
  GradientBuckets& operator=(const GradientBuckets&) = delete;

  int count() const { return static_cast<int>(buckets_.size()); }
  // First parameter of a bucket in the model's flat array.
  int64_t offset(int bucket) const { return buckets_[static_cast<size_t>(bucket)].offset; }

  // This parameter's gradient is final; called in the order of the flat array.
  void Ready(const Parameter<float>& parameter);
  // Contributes zero everywhere: the step of a rank whose part of the batch is empty.
  void ReadyWithZeros();
  // Waits for a bucket. Call for each bucket, in order.
  absl::Status Wait(int bucket, CommunicationTime& time);
  // After Wait(), until this rank's next gradients: the sum of all ranks'.
  std::span<float> gradients(int bucket) const {
    return buckets_[static_cast<size_t>(bucket)].gradients;
  }

 private:
  struct Bucket {
    int64_t offset = 0;  // parameters
    int64_t size = 0;    // parameters
    Region memory;
    std::span<float> gradients;
    Work work;
  };

  explicit GradientBuckets(Communicator& communicator) : communicator_(communicator) {}
  void StartNext();

  Communicator& communicator_;
  std::vector<Bucket> buckets_;
  size_t next_ = 0;  // the bucket that fills now
};

}  // namespace gradwire::training
