#include "examples/training/gradient_buckets.h"

#include <algorithm>

namespace gradwire::training {

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

absl::StatusOr<std::unique_ptr<GradientBuckets>> GradientBuckets::Create(Communicator& communicator,
                                                                         Model<float>& model,
                                                                         int64_t bucket_bytes) {
  if (bucket_bytes < 1) return InvalidArgument("--bucket-bytes {}: must be positive", bucket_bytes);
  std::vector<Parameter<float>*> parameters = model.parameters();
  std::sort(parameters.begin(), parameters.end(),
            [](const auto* a, const auto* b) { return a->offset < b->offset; });

  std::unique_ptr<GradientBuckets> self(new GradientBuckets(communicator));
  auto& buckets = self->buckets_;
  for (const Parameter<float>* parameter : parameters) {
    const int64_t limit = bucket_bytes / static_cast<int64_t>(sizeof(float));
    if (buckets.empty() || buckets.back().size + parameter->size > limit) {
      buckets.emplace_back().offset = parameter->offset;
    }
    buckets.back().size += parameter->size;
  }
  for (Bucket& bucket : buckets) {
    const auto size = static_cast<size_t>(bucket.size);
    GW_ASSIGN_OR_RETURN(bucket.memory, communicator.Allocate(size * sizeof(float)));
    bucket.gradients = {reinterpret_cast<float*>(bucket.memory.bytes().data()), size};
  }
  size_t at = 0;
  for (Parameter<float>* parameter : parameters) {
    if (parameter->offset == buckets[at].offset + buckets[at].size) ++at;
    parameter->gradient = buckets[at].gradients.data() + (parameter->offset - buckets[at].offset);
  }
  return self;
}

GradientBuckets::~GradientBuckets() {
  for (Bucket& bucket : buckets_) bucket.work.Wait().IgnoreError();
}

void GradientBuckets::Ready(const Parameter<float>& parameter) {
  const Bucket& bucket = buckets_[next_];
  if (parameter.offset + parameter.size == bucket.offset + bucket.size) StartNext();
}

void GradientBuckets::ReadyWithZeros() {
  for (int i = 0; i < count(); ++i) {
    std::ranges::fill(buckets_[next_].gradients, 0.0f);
    StartNext();
  }
}

void GradientBuckets::StartNext() {
  Bucket& bucket = buckets_[next_];
  bucket.work = communicator_.AllReduceAsync(bucket.gradients, ReduceOp::kSum);
  next_ = (next_ + 1) % buckets_.size();
}

absl::Status GradientBuckets::Wait(int bucket, CommunicationTime& time) {
  return time.Wait(buckets_[static_cast<size_t>(bucket)].work);
}

}  // namespace gradwire::training
