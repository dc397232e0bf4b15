#include "collectives/gradient_buckets.h"

#include <algorithm>
#include <iterator>

namespace gradwire {

double CommunicationTime::OverlapRatio() const {
  if (busy.count() <= 0) return 0;
  const double ratio =
      1.0 - static_cast<double>(exposed.count()) / static_cast<double>(busy.count());
  return std::clamp(ratio, 0.0, 1.0);
}

absl::Status CommunicationTime::Wait(Work& work) {
  const auto start = Clock::now();
  const absl::Status status = work.Wait();
  exposed += Clock::now() - start;
  busy += work.duration();
  return status;
}

CommunicationTime& CommunicationTime::operator+=(const CommunicationTime& other) {
  busy += other.busy;
  exposed += other.exposed;
  return *this;
}

absl::StatusOr<std::unique_ptr<GradientBuckets>> GradientBuckets::Create(
    Communicator& communicator, std::span<const int64_t> sizes, int64_t bucket_bytes) {
  if (bucket_bytes < 1) return InvalidArgument("--bucket-bytes {}: must be positive", bucket_bytes);
  if (sizes.empty() || std::ranges::min(sizes) < 1) {
    return InvalidArgument("buckets need gradients, each of at least one element");
  }
  const int64_t limit = bucket_bytes / static_cast<int64_t>(sizeof(float));
  std::unique_ptr<GradientBuckets> self(new GradientBuckets(communicator));
  auto& buckets = self->buckets_;
  int64_t offset = 0;
  for (const int64_t size : sizes) {
    if (buckets.empty() || buckets.back().size + size > limit) {
      buckets.emplace_back().offset = offset;
    }
    buckets.back().size += size;
    offset += size;
  }
  for (Bucket& bucket : buckets) {
    const auto size = static_cast<size_t>(bucket.size);
    GW_ASSIGN_OR_RETURN(bucket.memory, communicator.Allocate(size * sizeof(float)));
    bucket.gradients = {reinterpret_cast<float*>(bucket.memory.bytes().data()), size};
  }
  return self;
}

GradientBuckets::~GradientBuckets() {
  for (Bucket& bucket : buckets_) bucket.work.Wait().IgnoreError();
}

float* GradientBuckets::At(int64_t offset) {
  const auto after = std::ranges::upper_bound(buckets_, offset, {}, &Bucket::offset);
  const Bucket& bucket = *std::prev(after);
  return bucket.gradients.data() + (offset - bucket.offset);
}

void GradientBuckets::Ready(int64_t end) {
  if (next_ == buckets_.size()) next_ = 0;  // the next step begins
  while (next_ < buckets_.size() && buckets_[next_].offset + buckets_[next_].size <= end) {
    StartNext();
  }
}

void GradientBuckets::ReadyWithZeros() {
  for (const Bucket& bucket : buckets_) std::ranges::fill(bucket.gradients, 0.0f);
  if (!buckets_.empty()) Ready(buckets_.back().offset + buckets_.back().size);
}

void GradientBuckets::StartNext() {
  Bucket& bucket = buckets_[next_++];
  bucket.work = communicator_.AllReduceAsync(bucket.gradients, ReduceOp::kSum);
}

absl::Status GradientBuckets::Wait(int bucket, CommunicationTime& time) {
  return time.Wait(buckets_[static_cast<size_t>(bucket)].work);
}

}  // namespace gradwire
