#include "examples/training/ps_training.h"

#include <Eigen/Core>
#include <memory>
#include <sstream>
#include <utility>

#include "examples/training/checksum.h"
#include "examples/training/dataset.h"
#include "examples/training/ps_trainer.h"
#include "examples/training/report.h"
#include "parameter_server/worker.h"

namespace gradwire::training {
namespace {

// A server ends when it has been without workers for so long.
constexpr std::chrono::milliseconds kIdle{500};

int WorkersOf(const World& world, const PsOptions& ps) {
  return ps.standing.empty() ? world.size() - ps.servers : world.size();
}

// A numeric address and a port as one word.
std::string HostPort(const std::string& address, int port) {
  const bool ipv6 = address.find(':') != std::string::npos;
  return ipv6 ? fmt::format("[{}]:{}", address, port) : fmt::format("{}:{}", address, port);
}

// The addresses of the job's servers, by index; every rank calls it. Whoever brings no address is a
// worker.
absl::StatusOr<std::vector<std::string>> ShareAddresses(World& world, std::string own,
                                                        const PsOptions& ps,
                                                        const Settings& settings) {
  GW_ASSIGN_OR_RETURN(std::vector<std::string> addresses,
                      world.AllGather("ps addresses", std::move(own), {}, settings.join_timeout));
  addresses.erase(addresses.begin(), addresses.end() - ps.servers);
  return addresses;
}

absl::Status RunServer(World& world, const TrainingOptions& options, const PsOptions& ps,
                       const Settings& settings) {
  ps::ServerOptions server_options = ps.server;
  server_options.server = world.rank() - WorkersOf(world, ps);
  server_options.servers = ps.servers;
  server_options.peers_follow = true;
  server_options.address = world.local_address();
  server_options.port = 0;
  server_options.shard.workers = WorkersOf(world, ps);
  server_options.shard.optimizer = options.optimizer;
  server_options.shard.clip_value = options.clip.value;
  server_options.checkpoint = options.checkpoint;
  server_options.keep_checkpoints = options.keep_checkpoints;
  server_options.restore = options.resume;
  GW_ASSIGN_OR_RETURN(const auto server, ps::Server::Start(server_options, settings));
  GW_ASSIGN_OR_RETURN(
      const auto addresses,
      ShareAddresses(world, HostPort(server_options.address, server->port()), ps, settings));
  GW_RETURN_IF_ERROR(server->SetPeers(addresses));
  GW_RETURN_IF_ERROR(world.Barrier("ps servers", settings.join_timeout));
  GW_RETURN_IF_ERROR(world.Barrier("ps workers", settings.join_timeout));
  GW_RETURN_IF_ERROR(world.Leave(""));
  GW_RETURN_IF_ERROR(server->Wait(kIdle));
  // Workers that were refused have left by now, too.
  const std::string failure = server->Status().failure;
  if (!failure.empty()) return Unavailable("{}", failure);
  return server->Close();
}

// The servers' word on what the job is, where the flags do not say.
std::string Describe(const ps::Worker& worker, const TrainingOptions& options,
                     const PsOptions& ps) {
  std::string text = std::string(ps::NameOf(worker.consistency()));
  if (worker.consistency() == ps::Consistency::kSsp) text += fmt::format(" {}", worker.staleness());
  text += fmt::format(", global batch {}", options.batch);
  if (ps.wire != DataType::kFloat32) text += fmt::format(", {} on the wire", NameOf(ps.wire));
  if (!ps.standing.empty()) return text + ", optimizer by the servers";
  const ps::OptimizerOptions& rule = options.optimizer;
  text += fmt::format(", {}, lr {}", rule.name, *rule.learning_rate);
  if (rule.schedule != ps::Schedule()) text += fmt::format(" {}", rule.schedule.ToString());
  return text;
}

// A line, broken behind commas so that it fits a terminal behind "[0] ".
void TellWrapped(Report& report, std::string_view text) {
  constexpr size_t kColumns = 76;
  std::string indent;
  while (indent.size() + text.size() > kColumns) {
    const size_t comma = text.rfind(", ", kColumns - indent.size() - 1);
    if (comma == std::string_view::npos) break;
    report.Line(indent + std::string(text.substr(0, comma + 1)));
    text.remove_prefix(comma + 2);
    indent = "  ";
  }
  report.Line(indent + std::string(text));
}

void Tell(Report& report, const ps::Worker& worker, const Model<float>& model,
          const Dataset& dataset, const TrainingOptions& options, const PsOptions& ps,
          size_t servers) {
  const std::string description = worker.description();
  report.Line(description.substr(0, description.rfind(';')));
  TellWrapped(report, fmt::format("{}, {} parameters; {}: {} samples to train, {} to test",
                                  model.description(), worker.layout().elements(), dataset.name,
                                  dataset.train.size(), dataset.test.size()));
  TellWrapped(
      report,
      fmt::format("{}, {}: {}{}", Count(worker.members(), "worker"),
                  Count(static_cast<int64_t>(servers), "server"), Describe(worker, options, ps),
                  worker.step() == 0 ? "" : fmt::format("; from step {}", worker.step())));
  std::istringstream placement(worker.placement().Describe(worker.layout()));
  for (std::string line; std::getline(placement, line);) TellWrapped(report, line);
}

PsSummary Summarize(const ps::Worker& worker, size_t servers, int64_t workers) {
  const ps::WorkerStats stats = worker.stats();
  return {.servers = static_cast<int64_t>(servers),
          .workers = workers,
          .members = worker.members(),
          .consistency = std::string(ps::NameOf(worker.consistency())),
          .staleness = worker.staleness(),
          .max_staleness = stats.max_staleness,
          .held_up_seconds = std::chrono::duration<double>(stats.held_up).count(),
          .held_up_by = stats.held_up_by,
          .failovers = stats.failovers,
          .duplicates = stats.duplicates,
          .bytes_pushed = stats.bytes_pushed,
          .bytes_pulled = stats.bytes_pulled};
}

absl::StatusOr<TrainingSummary> Train(PsTrainer& trainer, const TrainingOptions& options,
                                      Report* report, TrainingSummary summary) {
  const auto on_step = [&](const StepResult& step) {
    if (report != nullptr) report->Step(step, options.epochs, trainer.steps_per_epoch());
  };
  const auto start = Clock::now();
  double training_seconds = 0;
  int64_t samples = 0;
  CommunicationTime communication;
  bool reached = false;
  while (trainer.position().epoch < options.epochs && !reached) {
    GW_ASSIGN_OR_RETURN(EpochResult epoch, trainer.RunEpoch(on_step));
    training_seconds += epoch.seconds;
    samples += epoch.samples;
    communication += epoch.communication;
    if (report != nullptr || options.target_accuracy) {
      // With a target each worker sees for itself when it may end.
      GW_ASSIGN_OR_RETURN(epoch.test_accuracy, trainer.Evaluate());
      reached = options.target_accuracy && epoch.test_accuracy >= *options.target_accuracy;
    }
    summary.history.push_back(epoch);
    if (report != nullptr) GW_RETURN_IF_ERROR(report->Epoch(epoch, options.epochs));
  }
  summary.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  summary.steps = trainer.position().step;
  summary.epochs = trainer.position().epoch;
  summary.train_loss = summary.history.back().train_loss;
  summary.test_accuracy = summary.history.back().test_accuracy;
  summary.samples_per_second =
      training_seconds > 0 ? static_cast<double>(samples) / training_seconds : 0;
  summary.comm_seconds = std::chrono::duration<double>(communication.busy).count();
  summary.exposed_comm_seconds = std::chrono::duration<double>(communication.exposed).count();
  summary.overlap_ratio = communication.OverlapRatio();
  return summary;
}

absl::StatusOr<TrainingSummary> RunWorker(World& world, const TrainingOptions& options,
                                          const PsOptions& ps, const Settings& settings) {
  const bool leader = world.rank() == 0;
  std::unique_ptr<Report> report;
  if (leader) {
    GW_ASSIGN_OR_RETURN(report, Report::Open(options));
  }
  GW_ASSIGN_OR_RETURN(const Dataset dataset, LoadDataset(options.data));
  GW_RETURN_IF_ERROR(CheckBatch(options.batch, dataset));
  GW_ASSIGN_OR_RETURN(const auto model,
                      MakeModel<float>(options.model, dataset.height, dataset.width, kClasses));
  model->Initialize(options.seed);
  GW_ASSIGN_OR_RETURN(const ps::Layout layout, LayoutOf(*model));

  std::vector<std::string> servers = ps.standing;
  ps::WorkerOptions worker_options = {.wire = ps.wire, .clip_norm = options.clip.norm};
  if (servers.empty()) {
    worker_options.worker = world.rank();
    GW_ASSIGN_OR_RETURN(servers, ShareAddresses(world, "", ps, settings));
    GW_RETURN_IF_ERROR(world.Barrier("ps servers", settings.join_timeout));
  }
  GW_ASSIGN_OR_RETURN(const auto worker,
                      ps::Worker::Join(servers, layout, worker_options, settings));
  GW_RETURN_IF_ERROR(world.Barrier("ps workers", settings.join_timeout));
  GW_RETURN_IF_ERROR(world.Leave(""));

  const PsTrainerOptions trainer_options = {
      .batch = options.batch,
      .seed = options.seed,
      .bucket_bytes = options.bucket_bytes,
      .whole_pushes = options.clip.norm > 0,
      .learning_rate = ps.standing.empty() ? *options.optimizer.learning_rate : 0,
      .schedule = options.optimizer.schedule};
  GW_ASSIGN_OR_RETURN(const auto trainer,
                      PsTrainer::Create(*worker, dataset, *model, trainer_options));
  GW_RETURN_IF_ERROR(trainer->Start());
  if (trainer->position().epoch >= options.epochs) {
    return InvalidArgument("--epochs {}: the servers have {} behind them, nothing is left to do",
                           options.epochs, trainer->position().epoch);
  }
  const int64_t workers = worker->members();
  if (leader) Tell(*report, *worker, *model, dataset, options, ps, servers.size());

  GW_ASSIGN_OR_RETURN(TrainingSummary summary,
                      Train(*trainer, options, report.get(),
                            {.strategy = "ps",
                             .model = model->description(),
                             .data = dataset.name,
                             .optimizer = ps.standing.empty() ? options.optimizer.name : "",
                             .learning_rate = trainer_options.learning_rate,
                             .lr_schedule = options.optimizer.schedule.ToString(),
                             .batch = options.batch,
                             .seed = options.seed,
                             .world_size = world.size(),
                             .transport = worker->transport(),
                             .device = worker->description()}));
  summary.parameters_checksum = Hex(ParametersChecksum(*model));
  summary.ps = Summarize(*worker, servers.size(), workers);
  summary.bytes_sent = summary.ps->bytes_pushed;
  GW_RETURN_IF_ERROR(worker->Leave());
  if (!leader) return summary;
  GW_RETURN_IF_ERROR(report->Finish(summary));
  if (options.target_accuracy && summary.test_accuracy < *options.target_accuracy) {
    return FailedPrecondition("test accuracy {:.4f} after {} is below --target-accuracy {}",
                              summary.test_accuracy, Count(summary.epochs, "epoch"),
                              *options.target_accuracy);
  }
  return summary;
}

}  // namespace

absl::Status Validate(const TrainingOptions& options, const PsOptions& ps) {
  GW_RETURN_IF_ERROR(Validate(options));
  if (options.check_checksums) {
    return InvalidArgument("--check-checksums is for --strategy allreduce, not ps");
  }
  if (!ps.standing.empty()) return absl::OkStatus();  // the servers have their own options
  if (ps.servers < 1) return InvalidArgument("--servers {}: must be positive", ps.servers);
  const bool bsp = ps.server.shard.consistency == ps::Consistency::kBsp;
  if (options.optimizer.name == "lamb" && !bsp) {
    return InvalidArgument(
        "--optimizer lamb: updates whole tensors, which needs --consistency bsp");
  }
  if (options.clip.norm > 0 && ps.server.replica && bsp) {
    return InvalidArgument(
        "--clip-norm with --replica: under bsp, replicas do not keep the sums "
        "that it needs; use --clip-value");
  }
  if (ps.server.replica && ps.servers < 2) {
    return InvalidArgument(
        "--replica needs another server to keep the copies: --servers 2 or more");
  }
  const auto in_range = [](std::string_view flag, int64_t value, int64_t low, int64_t high) {
    return value >= low && value <= high
               ? absl::OkStatus()
               : InvalidArgument("{} {}: must be in {}..{}", flag, value, low, high);
  };
  GW_RETURN_IF_ERROR(in_range("--ps-threads", ps.server.threads, 1, 64));
  GW_RETURN_IF_ERROR(in_range("--ps-window", ps.server.window, 2, 64));
  ps::ServerOptions server = ps.server;
  server.servers = ps.servers;
  server.peers_follow = true;
  server.checkpoint = options.checkpoint;
  server.keep_checkpoints = options.keep_checkpoints;
  return ps::Validate(server);
}

absl::StatusOr<TrainingSummary> RunPsTraining(World& world, const TrainingOptions& options,
                                              const PsOptions& ps, const Settings& settings) {
  GW_RETURN_IF_ERROR(Validate(options, ps));
  if (ps.standing.empty() && world.size() <= ps.servers) {
    return InvalidArgument(
        "--servers {}: the job has {} and needs a worker besides: gradwire launch -n {} -- "
        "gradwire train --strategy ps ...",
        ps.servers, Count(world.size(), "rank"), ps.servers + 2);
  }
  // As in RunTraining(): one thread per rank computes.
  [[maybe_unused]] static const bool once = (Eigen::setNbThreads(1), true);
  TrainingOptions complete = options;
  if (!complete.optimizer.learning_rate) {
    complete.optimizer.learning_rate = ps::DefaultLearningRate(options.optimizer.name);
  }
  if (world.rank() < WorkersOf(world, ps)) return RunWorker(world, complete, ps, settings);
  GW_RETURN_IF_ERROR(RunServer(world, complete, ps, settings));
  return TrainingSummary{.strategy = "ps"};
}

}  // namespace gradwire::training
