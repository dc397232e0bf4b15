#include "examples/training/training.h"

#include <Eigen/Core>
#include <cmath>
#include <filesystem>
#include <memory>
#include <utility>

#include "examples/training/checkpoint.h"
#include "examples/training/checksum.h"
#include "examples/training/dataset.h"
#include "examples/training/report.h"
#include "transport/file_io.h"

namespace gradwire::training {

absl::Status Validate(const TrainingOptions& options) {
  if (options.model.kind != "mlp" && options.model.kind != "cnn") {
    return InvalidArgument("--model {}: is none of mlp|cnn", options.model.kind);
  }
  GW_RETURN_IF_ERROR(ps::Validate(options.optimizer));
  GW_RETURN_IF_ERROR(ps::Validate(options.clip));
  if (options.epochs < 1) return InvalidArgument("--epochs {}: must be positive", options.epochs);
  if (options.batch < 1) return InvalidArgument("--batch {}: must be positive", options.batch);
  if (options.bucket_bytes < 1) {
    return InvalidArgument("--bucket-bytes {}: must be positive", options.bucket_bytes);
  }
  if (options.keep_checkpoints < 1) {
    return InvalidArgument("--keep-checkpoints {}: must be positive", options.keep_checkpoints);
  }
  if (options.target_accuracy && !(*options.target_accuracy > 0 && *options.target_accuracy <= 1)) {
    return InvalidArgument("--target-accuracy {}: is outside 0..1", *options.target_accuracy);
  }
  return absl::OkStatus();
}

absl::StatusOr<TrainingSummary> RunTraining(Communicator& communicator,
                                            const TrainingOptions& options) {
  GW_RETURN_IF_ERROR(Validate(options));
  const bool leader = communicator.rank() == 0;
  // One thread per rank computes; more would fight the other ranks of the host for its cores. The
  // number is the process's, in which several ranks may run as threads: it is set once.
  [[maybe_unused]] static const bool once = (Eigen::setNbThreads(1), true);

  std::unique_ptr<Report> report;  // on rank 0 alone
  if (leader) {
    GW_ASSIGN_OR_RETURN(report, Report::Open(options));
    if (!options.checkpoint.empty()) {
      std::error_code error;
      std::filesystem::create_directories(options.checkpoint, error);
      if (error) {
        return InvalidArgument("--checkpoint {}: cannot make the folder: {}", options.checkpoint,
                               error.message());
      }
      // Now rather than after the first epoch.
      const auto tried =
          AtomicFile::Create(std::filesystem::path(options.checkpoint) / "step").status();
      if (!tried.ok()) return InvalidArgument("--checkpoint {}", Message(tried));
    }
  }

  GW_ASSIGN_OR_RETURN(const Dataset dataset, LoadDataset(options.data));
  GW_ASSIGN_OR_RETURN(const auto model,
                      MakeModel<float>(options.model, dataset.height, dataset.width, kClasses));
  const auto parameter_count = static_cast<int64_t>(model->values().size());
  GW_ASSIGN_OR_RETURN(const auto optimizer,
                      ps::Optimizer::Make(options.optimizer, parameter_count));
  const ps::OptimizerOptions& rule = optimizer->options();
  const TrainerOptions trainer_options = {.batch = options.batch,
                                          .seed = options.seed,
                                          .bucket_bytes = options.bucket_bytes,
                                          .clip = options.clip,
                                          .check_checksums = options.check_checksums};
  GW_ASSIGN_OR_RETURN(const auto trainer,
                      Trainer::Create(communicator, dataset, *model, *optimizer, trainer_options));

  const RunIdentity identity = {{"model", model->description()},
                                {"data", dataset.name},
                                {"optimizer", rule.name},
                                {"batch", fmt::format("{}", options.batch)},
                                {"seed", fmt::format("{}", options.seed)}};
  Position position;
  if (leader) {
    model->Initialize(options.seed);
    if (!options.resume.empty()) {
      GW_ASSIGN_OR_RETURN(position, LoadCheckpoint(options.resume, identity, *model, *optimizer));
    }
  }
  // Everything that must be equal on all ranks for the collectives to match, not only on resuming.
  RunIdentity common = identity;
  common["epochs"] = fmt::format("{}", options.epochs);
  common["lr"] = fmt::format("{} {}", *rule.learning_rate, rule.schedule.ToString());
  common["momentum"] = fmt::format("{}", rule.momentum);
  common["betas"] = fmt::format("{} {} {}", rule.beta1, rule.beta2, rule.epsilon);
  common["weight-decay"] = fmt::format("{}", rule.weight_decay);
  common["clip"] = fmt::format("{} {}", options.clip.norm, options.clip.value);
  common["bucket-bytes"] = fmt::format("{}", options.bucket_bytes);
  common["check-checksums"] = fmt::format("{}", options.check_checksums);
  common["target-accuracy"] = fmt::format("{}", options.target_accuracy.value_or(0));
  GW_RETURN_IF_ERROR(trainer->Synchronize(common, position));
  position = trainer->position();
  if (position.epoch >= options.epochs) {
    return InvalidArgument("--epochs {}: the checkpoint has {} behind it, nothing is left to do",
                           options.epochs, position.epoch);
  }
  if (leader) {
    report->Line(communicator.description());
    report->Line(fmt::format("{}, {} parameters; {}: {} samples to train, {} to test",
                             model->description(), parameter_count, dataset.name,
                             dataset.train.size(), dataset.test.size()));
    report->Line(fmt::format(
        "{}, global batch {}, {}, lr {}{}{}", Count(communicator.size(), "rank"), options.batch,
        rule.name, *rule.learning_rate,
        rule.schedule == ps::Schedule() ? "" : fmt::format(" {}", rule.schedule.ToString()),
        position.epoch == 0 ? "" : fmt::format("; resumed after epoch {}", position.epoch)));
  }

  TrainingSummary summary = {.model = model->description(),
                             .data = dataset.name,
                             .optimizer = rule.name,
                             .learning_rate = *rule.learning_rate,
                             .lr_schedule = rule.schedule.ToString(),
                             .batch = options.batch,
                             .seed = options.seed,
                             .world_size = communicator.size(),
                             .transport = communicator.transport_name(),
                             .device = communicator.description()};
  const auto on_step = [&](const StepResult& step) {
    if (!leader) return;
    report->Step(step, options.epochs, trainer->steps_per_epoch());
  };
  const auto start = Clock::now();
  double training_seconds = 0;
  int64_t samples = 0;
  CommunicationTime communication;
  bool reached = false;
  while (trainer->position().epoch < options.epochs && !reached) {
    GW_ASSIGN_OR_RETURN(const EpochResult epoch, trainer->RunEpoch(on_step));
    summary.history.push_back(epoch);
    training_seconds += epoch.seconds;
    samples += epoch.samples;
    communication += epoch.communication;
    reached = options.target_accuracy && epoch.test_accuracy >= *options.target_accuracy;
    if (!leader) continue;
    GW_RETURN_IF_ERROR(report->Epoch(epoch, options.epochs));
    if (!options.checkpoint.empty()) {
      GW_RETURN_IF_ERROR(SaveCheckpoint(options.checkpoint, options.keep_checkpoints,
                                        trainer->position(), identity, *model, *optimizer));
    }
  }
  summary.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  summary.steps = trainer->position().step;
  summary.epochs = trainer->position().epoch;
  summary.train_loss = summary.history.back().train_loss;
  summary.test_accuracy = summary.history.back().test_accuracy;
  summary.samples_per_second =
      training_seconds > 0 ? static_cast<double>(samples) / training_seconds : 0;
  summary.comm_seconds = std::chrono::duration<double>(communication.busy).count();
  summary.exposed_comm_seconds = std::chrono::duration<double>(communication.exposed).count();
  summary.overlap_ratio = communication.OverlapRatio();
  summary.bytes_sent = communicator.stats().transport.bytes_sent;
  summary.checksums_checked = options.check_checksums;
  summary.parameters_checksum = Hex(ParametersChecksum(*model));
  if (leader) GW_RETURN_IF_ERROR(report->Finish(summary));
  if (options.target_accuracy && !reached) {
    return FailedPrecondition("test accuracy {:.4f} after {} is below --target-accuracy {}",
                              summary.test_accuracy, Count(summary.epochs, "epoch"),
                              *options.target_accuracy);
  }
  return summary;
}

}  // namespace gradwire::training
