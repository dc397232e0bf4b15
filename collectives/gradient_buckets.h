// Gradients grouped in buckets whose all-reduce overlaps the backward pass.
//
// Gradients come in the order in which a backward pass finishes them, last layer first; end to end
// they are one flat array. Each bucket is a piece of it in a registered allocation of its own. As
// soon as the last gradient of a bucket is final its all-reduce starts, while earlier layers still
// compute.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "collectives/communicator.h"
#include "transport/memory.h"
#include "transport/status.h"

namespace gradwire {

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
  // For gradients of so many elements each, at least one. A bucket closes before the gradient with
  // which it would exceed `bucket_bytes`; a larger gradient has a bucket of its own, and with 1
  // byte each has. `communicator` must outlive the buckets.
  static absl::StatusOr<std::unique_ptr<GradientBuckets>> Create(Communicator& communicator,
                                                                 std::span<const int64_t> sizes,
                                                                 int64_t bucket_bytes);
  ~GradientBuckets();  // waits for what still runs
  GradientBuckets(const GradientBuckets&) = delete;
  GradientBuckets& operator=(const GradientBuckets&) = delete;

  int count() const { return static_cast<int>(buckets_.size()); }
  // First element of a bucket in the flat array.
  int64_t offset(int bucket) const { return buckets_[static_cast<size_t>(bucket)].offset; }
  // Where the gradient that begins at `offset` of the flat array lies, whole.
  float* At(int64_t offset);

  // All gradients before `end` of the flat array are final. `end` grows during a step.
  void Ready(int64_t end);
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
    int64_t offset = 0;  // elements
    int64_t size = 0;    // elements
    Region memory;
    std::span<float> gradients;
    Work work;
  };

  explicit GradientBuckets(Communicator& communicator) : communicator_(communicator) {}
  void StartNext();

  Communicator& communicator_;
  std::vector<Bucket> buckets_;
  size_t next_ = 0;  // the bucket that fills now; count() when all have started
};

}  // namespace gradwire
