// gradwire train: a model on real data, data-parallel over the ranks of the job.
#include "cli/command.h"
#include "examples/training/training.h"

namespace gradwire::cli {
namespace {

constexpr const char* kFooter = R"(Examples:
  gradwire train                                     alone, on the built-in digits
  gradwire launch -n 4 -- gradwire train             four local ranks
  gradwire launch -n 2 -- gradwire train --model cnn --data ./mnist --epochs 3
  gradwire train --epochs 5 --checkpoint ckpt        write ckpt/step-N.safetensors
  gradwire train --epochs 9 --checkpoint ckpt --resume    continue from the newest of them
MNIST: examples/fetch_mnist.sh ./mnist
Exit code: 0 done, 1 the work failed, 2 wrong usage or configuration.)";

struct TrainCommand {
  Settings settings;
  training::TrainingOptions options;
  std::string bucket_bytes = "64K";
  std::string lr_schedule = "constant";
  std::string resume;
  CLI::Option* hidden_option = nullptr;
  CLI::Option* resume_option = nullptr;

  int Run();
  absl::Status Complete();
};

// Turns what the flags hold as text into options.
absl::Status TrainCommand::Complete() {
  const auto bytes = ParseByteSize(bucket_bytes);
  if (!bytes.ok()) return Annotate(bytes.status(), fmt::format("--bucket-bytes {}", bucket_bytes));
  options.bucket_bytes = *bytes;
  GW_ASSIGN_OR_RETURN(options.optimizer.schedule, ps::Schedule::Parse(lr_schedule));
  if (hidden_option->count() > 0 && options.model.kind != "mlp") {
    return InvalidArgument("--hidden is for --model mlp, not {}", options.model.kind);
  }
  if (resume_option->count() > 0) {
    options.resume = resume.empty() ? options.checkpoint : resume;
    if (options.resume.empty()) {
      return InvalidArgument("--resume needs a file or folder, or --checkpoint to look into");
    }
  }
  return training::Validate(options);
}

int TrainCommand::Run() {
  if (const absl::Status status = Complete(); !status.ok()) return ReportError(status);
  absl::StatusOr<Job> job = JoinJob(settings);
  if (!job.ok()) return ReportError(job.status());
  const int rank = job->world->rank();

  absl::Status status = training::RunTraining(*job->communicator, options).status();
  if (status.ok()) status = job->communicator->Barrier();
  const absl::Status left = job->world->Leave(status.ok() ? "" : Message(status));
  status.Update(left);
  return status.ok() ? kDone : ReportError(status, job->world->size() > 1 ? rank : -1);
}

void AddOptimizer(CLI::App& app, ps::OptimizerOptions& options, std::string& lr_schedule) {
  app.add_option("--optimizer", options.name, "sgd|momentum|nesterov|adam|adamw|lamb")
      ->capture_default_str();
  app.add_option("--lr", options.learning_rate,
                 "Learning rate; default by optimizer: 0.2, 0.05, 0.05, 0.002, 0.002, 0.01");
  app.add_option("--lr-schedule", lr_schedule,
                 "constant | step:N[:FACTOR] | cosine:N[:FLOOR] | linear:N[:FLOOR], in steps; each "
                 "with ,warmup:N")
      ->capture_default_str();
  app.add_option("--momentum", options.momentum, "Of momentum and nesterov")->capture_default_str();
  app.add_option("--beta1", options.beta1, "Decay of the mean: adam, adamw, lamb")
      ->capture_default_str();
  app.add_option("--beta2", options.beta2, "Decay of the mean square: adam, adamw, lamb")
      ->capture_default_str();
  app.add_option("--epsilon", options.epsilon, "Added to the divisor: adam, adamw, lamb")
      ->capture_default_str();
  app.add_option("--weight-decay", options.weight_decay,
                 "Pull towards zero: by the gradient, or apart from it in adamw and lamb")
      ->capture_default_str();
}

}  // namespace

void AddTrain(CLI::App& root, Action& action) {
  auto command = std::make_shared<TrainCommand>();
  training::TrainingOptions& options = command->options;
  CLI::App* app = root.add_subcommand("train", "Train a digit classifier across the job's ranks");
  app->footer(kFooter);

  app->add_option("--model", options.model.kind, "mlp|cnn")->capture_default_str();
  command->hidden_option =
      app->add_option("--hidden", options.model.hidden, "Sizes of the mlp's hidden layers")
          ->delimiter(',')
          ->capture_default_str();
  app->add_option("--data", options.data,
                  "digits (built in) or a folder with MNIST-format IDX files, plain or gzip")
      ->capture_default_str();
  app->add_option("--epochs", options.epochs, "Passes over the training set")
      ->capture_default_str();
  app->add_option("--batch", options.batch, "Samples per step, all ranks together")
      ->capture_default_str();
  AddOptimizer(*app, options.optimizer, command->lr_schedule);
  app->add_option("--clip-norm", options.clip.norm,
                  "Scale gradients down to this L2 norm; 0: no limit")
      ->capture_default_str();
  app->add_option("--clip-value", options.clip.value, "Cut each gradient to +- this; 0: no limit")
      ->capture_default_str();
  app->add_option("--seed", options.seed, "Of the initial weights and the order of the samples")
      ->capture_default_str();
  app->add_option("--target-accuracy", options.target_accuracy,
                  "End when the test accuracy reaches this (0..1); fail when it never does");
  app->add_option("--bucket-bytes", command->bucket_bytes,
                  "Gradients per all-reduce; K, M, G are binary")
      ->capture_default_str();
  app->add_flag("--check-checksums", options.check_checksums,
                "Compare all ranks' parameters after every step");
  app->add_option("--checkpoint", options.checkpoint,
                  "Folder for a safetensors file after each epoch");
  app->add_option("--keep-checkpoints", options.keep_checkpoints, "How many stay")
      ->capture_default_str();
  command->resume_option =
      app->add_option("--resume", command->resume,
                      "Continue from a checkpoint file or the newest of a folder; without a value: "
                      "that of --checkpoint")
          ->expected(0, 1);
  app->add_option("--summary", options.summary, "Write the results there as JSON");
  app->add_option("--metrics", options.metrics, "Write one JSON line per step and epoch there");
  AddSettings(*app, command->settings);
  app->callback([command, &action] { action = [command] { return command->Run(); }; });
}

}  // namespace gradwire::cli
