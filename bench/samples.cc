#include "bench/samples.h"

#include <memory>
#include <optional>
#include <span>

#include "bench/tensor_memory.h"

namespace gradwire::bench {
namespace {

// The ranks of a communicator as the sampling method sees them.
class CommunicatorGroup : public Group {
 public:
  CommunicatorGroup(Communicator& communicator, const CollectiveInfo& collective, bool registered)
      : communicator_(communicator), collective_(collective), registered_(registered) {}
  int rank() const override { return communicator_.rank(); }
  int size() const override { return communicator_.size(); }
  absl::Status Run(float* tensor, size_t count) override { return CallOn(tensor, count).Run(); }
  absl::Status Barrier() override { return communicator_.Barrier(); }
  absl::Status Max(std::vector<double>& values) override {
    return communicator_.AllReduce(values, ReduceOp::kMax);
  }
  absl::StatusOr<std::byte*> Allocate(size_t bytes) override {
    GW_ASSIGN_OR_RETURN(memory_, TensorMemory::Make(communicator_, bytes, registered_));
    return memory_->data();
  }
  size_t CountOf(int64_t bytes) const override {
    return CaseOf(static_cast<size_t>(bytes)).TotalCount(size());
  }
  void Fill(const Pattern& pattern, float* tensor, size_t count) const override {
    CallOn(tensor, count).Fill(pattern);
  }
  size_t CountWrong(const Pattern& pattern, const float* tensor, size_t count) const override {
    return CallOn(const_cast<float*>(tensor), count).CountWrong(pattern);
  }
  double BusFactor() const override { return collective_.BusFactor(size()); }

 private:
  Case CaseOf(size_t bytes) const {
    return MakeCase(collective_, DataType::kFloat32, ReduceOp::kSum, 0, bytes, size());
  }
  Call CallOn(float* tensor, size_t count) const {
    auto* bytes = reinterpret_cast<std::byte*>(tensor);
    return {CaseOf(count * sizeof(float)), true, communicator_, bytes, bytes};
  }

  Communicator& communicator_;
  const CollectiveInfo& collective_;
  const bool registered_;
  std::optional<TensorMemory> memory_;
};

}  // namespace

absl::StatusOr<int64_t> RunSamples(Communicator& communicator, const Options& options,
                                   const std::function<void(const SampledRow&)>& print) {
  GW_RETURN_IF_ERROR(Validate(options, communicator.size()));
  SamplingOptions sampling = options.sampling;
  sampling.transport = communicator.transport_name();
  GW_ASSIGN_OR_RETURN(sampling.sizes, SizesOf(options));
  CommunicatorGroup group(communicator, AllCollectives()[0], options.registered);
  return Sample(group, sampling, print);
}

absl::StatusOr<std::vector<SampledRow>> RunByTurns(
    const std::vector<Variant>& variants, const CollectiveInfo& collective,
    const SamplingOptions& options, int64_t rounds,
    const std::function<void(int64_t)>& after_round) {
  std::vector<std::unique_ptr<CommunicatorGroup>> groups;
  std::vector<Sampler> samplers;
  for (const Variant& variant : variants) {
    groups.push_back(
        std::make_unique<CommunicatorGroup>(*variant.communicator, collective, variant.registered));
    SamplingOptions own = options;
    own.label = variant.label;
    own.transport = variant.communicator->transport_name();
    GW_ASSIGN_OR_RETURN(Sampler sampler, Sampler::Create(*groups.back(), own));
    samplers.push_back(sampler);
  }
  std::vector<SampledRow> rows;
  for (int64_t round = 0; round < rounds; ++round) {
    for (size_t i = 0; i < options.sizes.size(); ++i) {
      for (size_t turn = 0; turn < samplers.size(); ++turn) {
        // Who is first finds the caches as somebody else left them.
        Sampler& sampler = samplers[(static_cast<size_t>(round) + i + turn) % samplers.size()];
        sampler.set_round(round + 1);
        GW_ASSIGN_OR_RETURN(SampledRow row, sampler.Measure(options.sizes[i]));
        rows.push_back(std::move(row));
      }
    }
    after_round(round + 1);
  }
  return rows;
}

}  // namespace gradwire::bench
