#include "examples/training/trainer.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "examples/training/checksum.h"
#include "examples/training/random.h"

namespace gradwire::training {
namespace {

double SecondsSince(Deadline start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

std::vector<uint32_t> EpochOrder(uint64_t seed, int64_t epoch, int64_t samples) {
  std::vector<uint32_t> order(static_cast<size_t>(samples));
  std::iota(order.begin(), order.end(), 0u);
  // Streams from the top, those of the initial parameters count from zero.
  Random random(seed, ~static_cast<uint64_t>(epoch));
  Shuffle(std::span(order), random);
  return order;
}

std::span<const uint32_t> PartOf(std::span<const uint32_t> batch, int rank, int size) {
  const size_t begin = batch.size() * static_cast<size_t>(rank) / static_cast<size_t>(size);
  const size_t end = batch.size() * (static_cast<size_t>(rank) + 1) / static_cast<size_t>(size);
  return batch.subspan(begin, end - begin);
}

absl::Status CheckBatch(int64_t batch, const Dataset& dataset) {
  if (batch >= 1 && batch <= dataset.train.size()) return absl::OkStatus();
  return InvalidArgument("--batch {}: is outside 1..{}, the samples to train with", batch,
                         dataset.train.size());
}

int64_t CountCorrect(Model<float>& model, const Dataset& dataset,
                     std::span<const uint32_t> samples) {
  constexpr size_t kSamplesAtOnce = 256;
  Matrix<float> inputs;
  std::vector<uint8_t> labels;
  int64_t correct = 0;
  while (!samples.empty()) {
    const auto some = samples.first(std::min(kSamplesAtOnce, samples.size()));
    samples = samples.subspan(some.size());
    Gather(dataset, dataset.test, some, inputs, labels);
    correct += SoftmaxCrossEntropy<float>(model.Forward(inputs), labels, 0, nullptr).correct;
  }
  return correct;
}

Trainer::Trainer(Communicator& communicator, const Dataset& dataset, Model<float>& model,
                 ps::Optimizer& optimizer, const TrainerOptions& options)
    : communicator_(communicator),
      dataset_(dataset),
      model_(model),
      optimizer_(optimizer),
      options_(options) {}

absl::StatusOr<std::unique_ptr<Trainer>> Trainer::Create(Communicator& communicator,
                                                         const Dataset& dataset,
                                                         Model<float>& model,
                                                         ps::Optimizer& optimizer,
                                                         const TrainerOptions& options) {
  GW_RETURN_IF_ERROR(CheckBatch(options.batch, dataset));
  std::unique_ptr<Trainer> self(new Trainer(communicator, dataset, model, optimizer, options));
  std::vector<Parameter<float>*> parameters = model.parameters();
  std::ranges::sort(parameters, {}, &Parameter<float>::offset);
  std::vector<int64_t> sizes;
  for (const Parameter<float>* parameter : parameters) sizes.push_back(parameter->size);
  GW_ASSIGN_OR_RETURN(self->buckets_,
                      GradientBuckets::Create(communicator, sizes, options.bucket_bytes));
  for (Parameter<float>* parameter : parameters) {
    parameter->gradient = self->buckets_->At(parameter->offset);
  }
  return self;
}

absl::Status Trainer::Synchronize(const RunIdentity& identity, Position position) {
  GW_RETURN_IF_ERROR(CheckEqual(Short(ChecksumOf(fmt::format("{}", identity))),
                                fmt::format("options or data ({})", identity)));
  std::array<int64_t, 2> start = {position.step, position.epoch};
  GW_RETURN_IF_ERROR(communicator_.Broadcast(start, 0));
  position_ = {.step = start[0], .epoch = start[1]};
  GW_RETURN_IF_ERROR(communicator_.Broadcast(model_.values(), 0));
  for (ps::Optimizer::State& state : optimizer_.states()) {
    GW_RETURN_IF_ERROR(communicator_.Broadcast(state.values, 0));
  }
  return absl::OkStatus();
}

int64_t Trainer::steps_per_epoch() const {
  return (dataset_.train.size() + options_.batch - 1) / options_.batch;
}

absl::StatusOr<EpochResult> Trainer::RunEpoch(
    const std::function<void(const StepResult&)>& on_step) {
  const std::vector<uint32_t> order =
      EpochOrder(options_.seed, position_.epoch, dataset_.train.size());
  EpochResult result;
  double loss_sum = 0;
  int64_t correct = 0;
  for (size_t begin = 0; begin < order.size(); begin += static_cast<size_t>(options_.batch)) {
    const size_t size = std::min(static_cast<size_t>(options_.batch), order.size() - begin);
    GW_ASSIGN_OR_RETURN(const StepResult step, Step(std::span(order).subspan(begin, size)));
    loss_sum += step.loss * static_cast<double>(step.samples);
    correct += step.correct;
    result.samples += step.samples;
    result.seconds += step.seconds;
    result.communication += step.communication;
    on_step(step);
  }
  ++position_.epoch;
  result.epoch = position_.epoch;
  result.step = position_.step;
  result.train_loss = loss_sum / static_cast<double>(result.samples);
  result.train_accuracy = static_cast<double>(correct) / static_cast<double>(result.samples);
  GW_ASSIGN_OR_RETURN(result.test_accuracy, Evaluate());
  return result;
}

absl::StatusOr<StepResult> Trainer::Step(std::span<const uint32_t> batch) {
  const StepScope recorded = communicator_.BeginStep();
  const auto start = Clock::now();
  StepResult result;
  result.position = {.step = position_.step + 1, .epoch = position_.epoch + 1};
  result.samples = result.batch = static_cast<int64_t>(batch.size());
  result.learning_rate = optimizer_.LearningRateAt(result.position.step);

  // From here to the last Wait() nothing returns: collectives in flight use these buffers.
  const auto part = PartOf(batch, communicator_.rank(), communicator_.size());
  LossResult loss;
  if (!part.empty()) {
    Gather(dataset_, dataset_.train, part, inputs_, labels_);
    const Matrix<float>& logits = model_.Forward(inputs_);
    loss =
        SoftmaxCrossEntropy(logits, labels_, 1.0 / static_cast<double>(batch.size()), &d_logits_);
  }
  // Counts below 2^53 are exact in float64, so both travel together.
  std::array<double, 2> totals = {loss.sum, static_cast<double>(loss.correct)};
  Work totals_work = communicator_.AllReduceAsync(totals);
  if (part.empty()) {
    buckets_->ReadyWithZeros();
  } else {
    model_.Backward(d_logits_, [this](const Parameter<float>& parameter) {
      buckets_->Ready(parameter.offset + parameter.size);
    });
  }
  absl::Status status = result.communication.Wait(totals_work);
  status.Update(Update(result));
  const std::string where =
      fmt::format("step {} (epoch {})", result.position.step, result.position.epoch);
  if (!status.ok()) return Annotate(status, where);

  result.loss = totals[0] / static_cast<double>(batch.size());
  result.correct = static_cast<int64_t>(totals[1]);
  if (!std::isfinite(result.loss)) {
    return FailedPrecondition("{}: the loss is {}; lower --lr, now {}", where,
                              std::abs(result.loss), *optimizer_.options().learning_rate);
  }
  position_.step = result.position.step;
  if (options_.check_checksums) {
    GW_RETURN_IF_ERROR(
        CheckEqual(Short(ParametersChecksum(model_)), fmt::format("parameters after {}", where)));
  }
  result.seconds = SecondsSince(start);
  // Alone, nothing was sent: what a collective of one took is no communication.
  if (communicator_.size() == 1) result.communication = {};
  return result;
}

absl::Status Trainer::Update(StepResult& result) {
  const ps::ClipOptions& clip = options_.clip;
  absl::Status status;
  double squared_norm = 0;
  for (int i = 0; i < buckets_->count(); ++i) {
    status.Update(buckets_->Wait(i, result.communication));
    if (!status.ok()) continue;  // the others still run
    if (clip.value > 0) ps::ClipValues(buckets_->gradients(i), static_cast<float>(clip.value));
    if (clip.norm > 0) {
      squared_norm += ps::SquaredNorm(buckets_->gradients(i));
    } else {
      Apply(result, i);
    }
  }
  if (!status.ok() || clip.norm <= 0) return status;
  // Every rank has the same sums, so the same norm and the same factor.
  result.gradient_norm = std::sqrt(squared_norm);
  const float scale = ps::ClipScale(squared_norm, clip.norm);
  for (int i = 0; i < buckets_->count(); ++i) {
    if (scale != 1) ps::Scale(buckets_->gradients(i), scale);
    Apply(result, i);
  }
  return absl::OkStatus();
}

void Trainer::Apply(const StepResult& result, int bucket) {
  const int64_t begin = buckets_->offset(bucket);
  const std::span<const float> gradients = buckets_->gradients(bucket);
  const auto end = begin + static_cast<int64_t>(gradients.size());
  const auto update = [&](int64_t offset, int64_t count) {
    const auto size = static_cast<size_t>(count);
    optimizer_.Update(result.position.step, result.learning_rate, offset,
                      model_.values().subspan(static_cast<size_t>(offset), size),
                      gradients.subspan(static_cast<size_t>(offset - begin), size));
  };
  if (!optimizer_.whole_pieces()) return update(begin, end - begin);
  for (const Parameter<float>* parameter : model_.parameters()) {
    if (parameter->offset >= begin && parameter->offset < end) {
      update(parameter->offset, parameter->size);
    }
  }
}

absl::StatusOr<double> Trainer::Evaluate() {
  std::vector<uint32_t> all(static_cast<size_t>(dataset_.test.size()));
  std::iota(all.begin(), all.end(), 0u);
  std::array<int64_t, 1> correct = {
      CountCorrect(model_, dataset_, PartOf(all, communicator_.rank(), communicator_.size()))};
  GW_RETURN_IF_ERROR(communicator_.AllReduce(correct));
  return static_cast<double>(correct[0]) / static_cast<double>(dataset_.test.size());
}

absl::Status Trainer::CheckEqual(int64_t mine, std::string_view what) {
  const std::array<int64_t, 1> own = {mine};
  std::vector<int64_t> all(static_cast<size_t>(communicator_.size()));
  GW_RETURN_IF_ERROR(communicator_.AllGather(own, all));
  std::vector<size_t> different;
  for (size_t rank = 1; rank < all.size(); ++rank) {
    if (all[rank] != all[0]) different.push_back(rank);
  }
  if (different.empty()) return absl::OkStatus();
  return FailedPrecondition("rank {} and rank 0 differ in their {}", fmt::join(different, ", "),
                            what);
}

}  // namespace gradwire::training
