#include "examples/training/ps_trainer.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace gradwire::training {
namespace {

// In the order of the flat array, which is the layout's.
std::vector<Parameter<float>*> FlatOrder(const Model<float>& model) {
  std::vector<Parameter<float>*> parameters = model.parameters();
  std::ranges::sort(parameters, {}, &Parameter<float>::offset);
  return parameters;
}

}  // namespace

absl::StatusOr<ps::Layout> LayoutOf(const Model<float>& model) {
  std::vector<ps::TensorSpec> tensors;
  for (const Parameter<float>* parameter : FlatOrder(model)) {
    tensors.push_back({parameter->name, parameter->shape});
  }
  return ps::Layout::Make(std::move(tensors));
}

PsTrainer::PsTrainer(ps::Worker& worker, const Dataset& dataset, Model<float>& model,
                     const PsTrainerOptions& options)
    : worker_(worker), dataset_(dataset), model_(model), options_(options) {}

absl::StatusOr<std::unique_ptr<PsTrainer>> PsTrainer::Create(ps::Worker& worker,
                                                             const Dataset& dataset,
                                                             Model<float>& model,
                                                             const PsTrainerOptions& options) {
  GW_RETURN_IF_ERROR(CheckBatch(options.batch, dataset));
  if (options.bucket_bytes < 1) {
    return InvalidArgument("--bucket-bytes {}: must be positive", options.bucket_bytes);
  }
  GW_ASSIGN_OR_RETURN(const ps::Layout layout, LayoutOf(model));
  GW_RETURN_IF_ERROR(layout.Matches(worker.layout()));
  std::unique_ptr<PsTrainer> self(new PsTrainer(worker, dataset, model, options));
  model.PlaceIn(worker.parameters());
  for (Parameter<float>* parameter : model.parameters()) {
    parameter->gradient = worker.gradients().data() + parameter->offset;
  }
  self->MakeBuckets();
  return self;
}

void PsTrainer::MakeBuckets() {
  const int64_t limit = options_.bucket_bytes / static_cast<int64_t>(sizeof(float));
  const ps::Layout& layout = worker_.layout();
  for (int tensor = 0; tensor < layout.size(); ++tensor) {
    const bool fits = !buckets_.empty() &&
                      layout.offset(tensor + 1) - layout.offset(buckets_.back().first) <= limit;
    if (!fits) buckets_.push_back({.first = tensor, .last = tensor});
    buckets_.back().last = tensor + 1;
  }
}

absl::Status PsTrainer::Start() {
  const std::vector<float> values(model_.values().begin(), model_.values().end());
  GW_RETURN_IF_ERROR(worker_.Initialize(values));
  GW_RETURN_IF_ERROR(worker_.Pull());
  first_members_ = worker_.members();
  return absl::OkStatus();
}

int64_t PsTrainer::steps_per_epoch() const {
  return (dataset_.train.size() + options_.batch - 1) / options_.batch;
}

Position PsTrainer::position() const {
  return {.step = worker_.step(), .epoch = worker_.step() / steps_per_epoch()};
}

absl::StatusOr<EpochResult> PsTrainer::RunEpoch(
    const std::function<void(const StepResult&)>& on_step) {
  const Position start = position();
  const std::vector<uint32_t> order = EpochOrder(options_.seed, start.epoch, dataset_.train.size());
  const auto batch = static_cast<size_t>(options_.batch);
  EpochResult result = {.epoch = start.epoch + 1};
  double loss_sum = 0;
  int64_t seen = 0, correct = 0;
  // Who joins late or again goes on inside an epoch.
  for (auto begin = static_cast<size_t>(start.step % steps_per_epoch()) * batch;
       begin < order.size(); begin += batch) {
    const size_t size = std::min(batch, order.size() - begin);
    GW_ASSIGN_OR_RETURN(const StepResult step, Step(std::span(order).subspan(begin, size)));
    loss_sum += step.loss * static_cast<double>(step.samples);
    correct += step.correct;
    seen += step.samples;
    result.samples += step.batch;
    result.seconds += step.seconds;
    result.communication += step.communication;
    on_step(step);
  }
  result.step = worker_.step();
  if (seen > 0) {
    result.train_loss = loss_sum / static_cast<double>(seen);
    result.train_accuracy = static_cast<double>(correct) / static_cast<double>(seen);
  }
  return result;
}

absl::StatusOr<StepResult> PsTrainer::Step(std::span<const uint32_t> batch) {
  const auto start = Clock::now();
  StepResult result;
  const int64_t step = worker_.step() + 1;
  result.position = {.step = step, .epoch = (step - 1) / steps_per_epoch() + 1};
  result.learning_rate = options_.learning_rate * options_.schedule.RateAt(step);
  const std::string where = fmt::format("step {} (epoch {})", step, result.position.epoch);

  // Under BSP the parts stay, and those of a worker that is lost are left out. Else the numbers may
  // have gaps, and two workers share a part for a while.
  const bool bsp = worker_.consistency() == ps::Consistency::kBsp;
  const int64_t parts = std::max<int64_t>(bsp ? first_members_ : worker_.members(), 1);
  const auto part =
      PartOf(batch, static_cast<int>(worker_.number() % parts), static_cast<int>(parts));
  result.batch = static_cast<int64_t>(batch.size());
  result.samples = static_cast<int64_t>(part.size());
  finished_ = 0;
  if (part.empty()) {
    std::ranges::fill(worker_.gradients(), 0.0f);
  } else {
    Gather(dataset_, dataset_.train, part, inputs_, labels_);
    const LossResult loss = SoftmaxCrossEntropy(
        model_.Forward(inputs_), labels_, 1.0 / static_cast<double>(batch.size()), &d_logits_);
    result.loss = loss.sum / static_cast<double>(part.size());
    result.correct = loss.correct;
    if (!std::isfinite(result.loss)) {
      // Nothing of this step has been pushed.
      return FailedPrecondition("{}: the loss is {}; lower --lr", where, std::abs(result.loss));
    }
    model_.Backward(d_logits_, [this](const Parameter<float>& parameter) { Ready(parameter); });
  }
  GW_RETURN_IF_ERROR(Annotate(Exchange(result.communication), where));
  result.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return result;
}

void PsTrainer::Ready(const Parameter<float>& parameter) {
  finished_ = parameter.offset + parameter.size;
  if (!options_.whole_pushes) PushFinished();
}

void PsTrainer::PushFinished() {
  const ps::Layout& layout = worker_.layout();
  while (pushes_.size() < buckets_.size() && push_status_.ok()) {
    const Bucket& bucket = buckets_[pushes_.size()];
    if (layout.offset(bucket.last) > finished_) return;
    if (pushes_.empty()) first_push_ = Clock::now();
    const auto pushed = worker_.PushAsync(bucket.first, bucket.last);
    push_status_ = pushed.status();
    if (pushed.ok()) pushes_.push_back(*pushed);
  }
}

absl::Status PsTrainer::Exchange(CommunicationTime& time) {
  const auto wait = Clock::now();
  absl::Status status;
  if (options_.whole_pushes) {
    first_push_ = wait;
    status = worker_.PushPull();
  } else {
    finished_ = worker_.layout().elements();
    PushFinished();
    status = std::exchange(push_status_, absl::OkStatus());
    if (status.ok()) {
      // Asked for before the end of the step is told, which saves waiting twice.
      const auto pull = worker_.PullAsync(0, worker_.layout().size());
      status = pull.status();
      if (status.ok()) status = worker_.EndStep();
      if (status.ok()) status = worker_.Wait(*pull);
    }
    for (const ps::Handle push : pushes_) {
      if (status.ok()) status = worker_.Wait(push);
    }
    pushes_.clear();
  }
  const auto end = Clock::now();
  time.busy += end - first_push_;
  time.exposed += end - wait;
  return status;
}

absl::StatusOr<double> PsTrainer::Evaluate() {
  // Under BSP the parameters are the servers' already.
  if (worker_.consistency() != ps::Consistency::kBsp) GW_RETURN_IF_ERROR(worker_.Pull());
  std::vector<uint32_t> all(static_cast<size_t>(dataset_.test.size()));
  std::iota(all.begin(), all.end(), 0u);
  return static_cast<double>(CountCorrect(model_, dataset_, all)) /
         static_cast<double>(dataset_.test.size());
}

}  // namespace gradwire::training
