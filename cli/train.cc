// gradwire train: a model on real data, data-parallel over the ranks of the job.
#include "cli/command.h"
#include "cli/usage.h"
#include "examples/training/ps_training.h"
#include "examples/training/training.h"

namespace gradwire::cli {
namespace {

constexpr const char* kTrainFooter = R"(Examples:
  gradwire train                                      alone, on built-in digits
  gradwire launch -n 4 -- gradwire train              four local ranks
  gradwire launch -n 2 -- gradwire train --model cnn --data ./mnist --epochs 3
  gradwire train --epochs 5 --checkpoint ckpt         ckpt/step-N.safetensors
  gradwire train --epochs 9 --checkpoint ckpt --resume     from the newest on
  gradwire launch -n 3 -- gradwire train --strategy ps
      two workers and a parameter server
  gradwire launch -n 6 --keep-going -- gradwire train --strategy ps \
      --servers 2 --consistency ssp --staleness 3
      four workers that may run ahead
  gradwire train --strategy ps --ps-servers node1:4000
      joins a server that stands there
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

  // --strategy ps
  std::string strategy = "allreduce";
  training::PsOptions ps;
  std::string consistency = "bsp";
  std::string on_loss = "fail";
  std::string ps_slice_bytes = "64K";
  std::string wire = "float32";
  std::vector<CLI::Option*> ps_options;         // for --strategy ps alone
  std::vector<CLI::Option*> allreduce_options;  // for --strategy allreduce alone
  std::vector<CLI::Option*> server_options;     // what standing servers have of their own
  CLI::Option* staleness_option = nullptr;
  CLI::Option* every_option = nullptr;

  int Run();
  int RunAllReduce();
  int RunPs();
  absl::Status Complete();
  absl::Status CompletePs();
};

// InvalidArgument when one of `options` was given.
absl::Status Refuse(const std::vector<CLI::Option*>& options, std::string_view why) {
  for (const CLI::Option* option : options) {
    if (option->count() > 0) return InvalidArgument("{} {}", option->get_name(), why);
  }
  return absl::OkStatus();
}

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
  if (strategy == "ps") return CompletePs();
  GW_RETURN_IF_ERROR(Refuse(ps_options, "is for --strategy ps"));
  return training::Validate(options);
}

absl::Status TrainCommand::CompletePs() {
  GW_RETURN_IF_ERROR(Refuse(allreduce_options, "is for --strategy allreduce, not ps"));
  if (!settings.telemetry.empty()) {
    return InvalidArgument("--telemetry records collectives, and --strategy ps has none");
  }
  if (!ps.standing.empty()) {
    GW_RETURN_IF_ERROR(
        Refuse(server_options, "is the servers' with --ps-servers: give it to gradwire ps serve"));
  }
  ps::ShardOptions& shard = ps.server.shard;
  GW_ASSIGN_OR_RETURN(shard.consistency, ps::ParseConsistency(consistency));
  GW_ASSIGN_OR_RETURN(shard.on_loss, ps::ParseOnLoss(on_loss));
  if (staleness_option->count() > 0 && shard.consistency != ps::Consistency::kSsp) {
    return InvalidArgument("--staleness is for --consistency ssp, not {}", consistency);
  }
  if (every_option->count() == 0 && options.checkpoint.empty()) shard.checkpoint_interval = 0;
  const auto bytes = ParseByteSize(ps_slice_bytes);
  if (!bytes.ok()) {
    return Annotate(bytes.status(), fmt::format("--ps-slice-bytes {}", ps_slice_bytes));
  }
  ps.server.slice_bytes = *bytes;
  const auto type = ParseDataType(wire);
  if (!type.ok() || (*type != DataType::kFloat32 && SizeOf(*type) != 2)) {
    return InvalidArgument("--wire {}: is none of float32, float16, bfloat16", wire);
  }
  ps.wire = *type;
  return training::Validate(options, ps);
}

int TrainCommand::Run() {
  if (const absl::Status status = Complete(); !status.ok()) return ReportError(status);
  return strategy == "ps" ? RunPs() : RunAllReduce();
}

int TrainCommand::RunPs() {
  absl::StatusOr<std::unique_ptr<World>> world = JoinJobWorld(settings);
  if (!world.ok()) return ReportError(world.status());
  const int rank = (*world)->rank();
  const absl::Status status = training::RunPsTraining(**world, options, ps, settings).status();
  // It has left by itself unless it failed before.
  if (!status.ok()) (*world)->Leave(Message(status)).IgnoreError();
  return status.ok() ? kDone : ReportError(status, (*world)->size() > 1 ? rank : -1);
}

int TrainCommand::RunAllReduce() {
  absl::StatusOr<Job> job = JoinJob(settings);
  if (!job.ok()) return ReportError(job.status());
  const int rank = job->world->rank();

  absl::Status status = training::RunTraining(*job->communicator, options).status();
  if (status.ok()) status = job->communicator->Barrier();
  const absl::Status left = job->world->Leave(status.ok() ? "" : Message(status));
  status.Update(left);
  return status.ok() ? kDone : ReportError(status, job->world->size() > 1 ? rank : -1);
}

// The flags of --strategy ps.
void AddPsFlags(CLI::App& app, TrainCommand& command) {
  ps::ServerOptions& server = command.ps.server;
  server.shard.checkpoint_interval = 100;
  const auto mine = [&](CLI::Option* option, bool servers_own) {
    option->group("Parameter server (--strategy ps)");
    command.ps_options.push_back(option);
    if (servers_own) command.server_options.push_back(option);
    return option;
  };
  mine(app.add_option("--servers", command.ps.servers,
                      "The job's last ranks that are servers, the others being workers")
           ->capture_default_str(),
       true);
  mine(app.add_option("--ps-servers", command.ps.standing,
                      "HOST:PORT of servers that stand elsewhere (gradwire ps serve), in the order "
                      "of their index; all ranks are workers then")
           ->delimiter(','),
       false);
  mine(app.add_option("--consistency", command.consistency,
                      "bsp: all workers step by step together; ssp: each may run ahead by "
                      "--staleness; asp: each as it likes")
           ->capture_default_str(),
       true);
  command.staleness_option =
      mine(app.add_option("--staleness", server.shard.staleness,
                          "ssp: steps that a worker may be ahead of the slowest")
               ->capture_default_str(),
           true);
  mine(app.add_option("--on-loss", command.on_loss,
                      "bsp: when a worker is lost, fail the job or shrink it to the others")
           ->capture_default_str(),
       true);
  mine(app.add_flag("--replica", server.replica,
                    "Each server keeps a copy of the previous one's shards"),
       true);
  mine(app.add_option("--ps-threads", server.threads, "Shards of a server, each with a thread")
           ->capture_default_str(),
       true);
  mine(app.add_option("--ps-slice-bytes", command.ps_slice_bytes,
                      "The unit of one write between workers and servers")
           ->capture_default_str(),
       true);
  mine(app.add_option("--ps-window", server.window, "Slots of a worker at a shard, 2..64")
           ->capture_default_str(),
       true);
  mine(app.add_option("--wire", command.wire,
                      "float32, or float16 or bfloat16 for half the bytes in both directions")
           ->capture_default_str(),
       false);
  command.every_option =
      mine(app.add_option("--checkpoint-every", server.shard.checkpoint_interval,
                          "Steps between the servers' checkpoints in --checkpoint")
               ->capture_default_str(),
           true);
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
  app->footer(kTrainFooter);

  app->add_option("--strategy", command->strategy,
                  "allreduce: every rank has the whole state; ps: parameter servers have it")
      ->check(CLI::IsMember({"allreduce", "ps"}))
      ->capture_default_str();
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
  for (const char* name : {"--optimizer", "--lr", "--lr-schedule", "--momentum", "--beta1",
                           "--beta2", "--epsilon", "--weight-decay", "--clip-value"}) {
    command->server_options.push_back(app->get_option(name));
  }
  app->add_option("--seed", options.seed, "Of the initial weights and the order of the samples")
      ->check(Unsigned())
      ->capture_default_str();
  app->add_option("--target-accuracy", options.target_accuracy,
                  "End when the test accuracy reaches this (0..1); fail when it never does");
  app->add_option("--bucket-bytes", command->bucket_bytes,
                  "Gradients per all-reduce or push; K, M, G are binary")
      ->capture_default_str();
  command->allreduce_options.push_back(
      app->add_flag("--check-checksums", options.check_checksums,
                    "Compare all ranks' parameters after every step"));
  command->server_options.push_back(
      app->add_option("--checkpoint", options.checkpoint,
                      "Folder for a safetensors file after each epoch; with --strategy ps for "
                      "folders that the servers write"));
  command->server_options.push_back(
      app->add_option("--keep-checkpoints", options.keep_checkpoints, "How many stay")
          ->capture_default_str());
  command->resume_option =
      app->add_option("--resume,--restore", command->resume,
                      "Continue from a checkpoint file or the newest of a folder; without a value: "
                      "that of --checkpoint")
          ->expected(0, 1);
  command->server_options.push_back(command->resume_option);
  AddPsFlags(*app, *command);
  app->add_option("--summary", options.summary, "Write the results there as JSON");
  app->add_option("--metrics", options.metrics, "Write one JSON line per step and epoch there");
  AddSettings(*app, command->settings);
  app->callback([command, &action] { action = [command] { return command->Run(); }; });
}

}  // namespace gradwire::cli
