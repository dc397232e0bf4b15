// gradwire ps: a standing parameter server, and what people ask of one.
#include "cli/ps.h"

#include <fmt/core.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <thread>

#include "cli/standard_output.h"
#include "parameter_server/server.h"

namespace gradwire::cli {
namespace {

constexpr const char* kPsFooter = R"(Examples:
  gradwire ps serve --port 4000 --workers 4              one server, BSP
  gradwire ps serve --port 4000 --consistency ssp --staleness 3 --optimizer adam
  gradwire ps serve --index 0 --of 2 --port 4000         two servers, each
  gradwire ps serve --index 1 --of 2 --port 4001         started once
  gradwire ps serve --index 0 --of 2 --port 4000 --replica \
      --peers node1:4000,node2:4000                      each keeps a copy
  gradwire ps serve --port 4000 --checkpoint ckpt --checkpoint-every 100
  gradwire ps serve --port 4000 --restore ckpt           go on from the newest
Workers join with the servers' addresses in the order of the indices. The layout
of the parameters comes from the checkpoint or from who joins first. Ends on
SIGINT, SIGTERM and `gradwire ps stop`.
Exit code: 0 done, 1 the work failed, 2 wrong usage or configuration.)";

struct ServeCommand {
  Settings settings;
  ps::ServerOptions options;
  std::string consistency = "bsp";
  std::string on_loss = "fail";
  std::string schedule;
  std::string idle_timeout = "0";
  CLI::Option* staleness_option = nullptr;
  CLI::Option* slice_option = nullptr;

  absl::Status Complete();
  int Run();
};

// Turns what the flags hold as text into options.
absl::Status ServeCommand::Complete() {
  ps::ShardOptions& shard = options.shard;
  GW_ASSIGN_OR_RETURN(shard.consistency, ps::ParseConsistency(consistency));
  GW_ASSIGN_OR_RETURN(shard.on_loss, ps::ParseOnLoss(on_loss));
  if (staleness_option->count() > 0 && shard.consistency != ps::Consistency::kSsp) {
    return InvalidArgument("--staleness is for --consistency ssp, not {}", consistency);
  }
  if (!schedule.empty()) {
    GW_ASSIGN_OR_RETURN(shard.optimizer.schedule, ps::Schedule::Parse(schedule));
  }
  if (const double rate = shard.optimizer.learning_rate.value_or(1); !(rate > 0)) {
    return InvalidArgument("--lr {}: must be positive", rate);
  }
  // A server's slices are smaller than those of a ring unless somebody says so.
  if (slice_option->count() > 0 || std::getenv("GRADWIRE_SLICE_BYTES") != nullptr) {
    options.slice_bytes = settings.slice_bytes;
  }
  return ps::Validate(options);
}

int ServeCommand::Run() {
  if (const absl::Status status = Complete(); !status.ok()) return ReportError(status);
  const auto idle = ParseDuration(idle_timeout);
  if (!idle.ok()) return ReportError(Annotate(idle.status(), "--idle-timeout"));
  SetUpLogging(settings.log_level);
  std::signal(SIGPIPE, SIG_IGN);
  // Blocked before the server starts its threads, so that the signals are heard here alone.
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGINT);
  sigaddset(&ends, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &ends, nullptr);

  auto server = ps::Server::Start(options, settings);
  if (!server.ok()) return ReportError(server.status());
  PrintText("gradwire ps: {}\n", (*server)->description());
  std::atomic<bool> over = false;
  std::thread listener([&] {
    const timespec pause{.tv_sec = 0, .tv_nsec = 100'000'000};
    while (!over) {
      const int signal = sigtimedwait(&ends, nullptr, &pause);
      if (signal <= 0) continue;
      PrintText("gradwire ps: got signal {}, ending\n", signal);
      return (*server)->Stop();
    }
  });
  const absl::Status served = (*server)->Wait(*idle);
  over = true;
  listener.join();
  const absl::Status closed = (*server)->Close();
  if (!served.ok()) return ReportError(served);
  return closed.ok() ? kDone : ReportError(closed);
}

}  // namespace

void AddPsServe(CLI::App& ps, Action& action) {
  auto command = std::make_shared<ServeCommand>();
  ps::ServerOptions& options = command->options;
  ps::ShardOptions& shard = options.shard;
  ps::OptimizerOptions& optimizer = shard.optimizer;
  options.port = 29600;
  CLI::App* app = ps.add_subcommand("serve", "Keep parameters for workers that join and leave");
  app->footer(kPsFooter);

  app->add_option("--port", options.port, "Port to listen on, 0: any free one")
      ->capture_default_str();
  app->add_option("--address", options.address, "Numeric address to listen on; default: all");
  app->add_option("--index", options.server, "This server's number, from 0")->capture_default_str();
  app->add_option("--of", options.servers, "How many servers share the parameters")
      ->capture_default_str();
  app->add_option("--threads", options.threads, "Shards of this server, each with a thread")
      ->capture_default_str();
  app->add_option("--window", options.window, "Slots of a worker at a shard, 2..64")
      ->capture_default_str();

  app->add_option("--consistency", command->consistency,
                  "bsp: all workers step by step together; ssp: each may run ahead by --staleness; "
                  "asp: each as it likes")
      ->capture_default_str()
      ->group("Consistency");
  app->add_option("--workers", shard.workers, "bsp: how many take part")
      ->capture_default_str()
      ->group("Consistency");
  command->staleness_option =
      app->add_option("--staleness", shard.staleness,
                      "ssp: steps that a worker may be ahead of the slowest")
          ->capture_default_str()
          ->group("Consistency");
  app->add_option("--on-loss", command->on_loss,
                  "bsp: when a worker is lost, fail the job or shrink it to the others")
      ->capture_default_str()
      ->group("Consistency");

  app->add_option("--optimizer", optimizer.name, "sgd|momentum|nesterov|adam|adamw|lamb")
      ->capture_default_str()
      ->group("Optimizer");
  app->add_option("--lr", optimizer.learning_rate, "Learning rate; default: by optimizer")
      ->group("Optimizer");
  app->add_option("--lr-schedule", command->schedule,
                  "constant, step:N[:FACTOR], cosine:N[:FLOOR] or linear:N[:FLOOR], each with "
                  ",warmup:N behind it if wanted")
      ->group("Optimizer");
  app->add_option("--momentum", optimizer.momentum,
                  "momentum, nesterov: what stays of the velocity")
      ->capture_default_str()
      ->group("Optimizer");
  app->add_option("--beta1", optimizer.beta1, "adam, adamw, lamb: decay of the mean")
      ->capture_default_str()
      ->group("Optimizer");
  app->add_option("--beta2", optimizer.beta2, "adam, adamw, lamb: decay of the mean square")
      ->capture_default_str()
      ->group("Optimizer");
  app->add_option("--epsilon", optimizer.epsilon, "adam, adamw, lamb: keeps the divisor from zero")
      ->capture_default_str()
      ->group("Optimizer");
  app->add_option("--weight-decay", optimizer.weight_decay, "Pull of the parameters towards zero")
      ->capture_default_str()
      ->group("Optimizer");
  app->add_option("--clip-value", shard.clip_value,
                  "Each gradient to plus or minus this at most; 0: off")
      ->capture_default_str()
      ->group("Optimizer");

  app->add_flag("--replica", options.replica,
                "Keep a copy of the previous server's shards, and have the next keep ours: no "
                "acknowledged update is lost with one server")
      ->group("What lasts");
  app->add_option("--peers", options.peers,
                  "With --replica: HOST:PORT of all servers, in the order of their index")
      ->delimiter(',')
      ->group("What lasts");
  app->add_option("--checkpoint", options.checkpoint, "Folder to write checkpoints to")
      ->group("What lasts");
  app->add_option("--checkpoint-every", shard.checkpoint_interval,
                  "Steps between checkpoints; 0: only when asked for")
      ->capture_default_str()
      ->group("What lasts");
  app->add_option("--keep-checkpoints", options.keep_checkpoints, "How many stay")
      ->capture_default_str()
      ->group("What lasts");
  app->add_option("--restore", options.restore,
                  "Start from this checkpoint, or the newest of this folder; the number of servers "
                  "may be another")
      ->group("What lasts");
  app->add_option("--idle-timeout", command->idle_timeout,
                  "End when there has been no worker for so long; 0: never")
      ->capture_default_str()
      ->group("What lasts");
  AddSettings(*app, command->settings);
  command->slice_option = app->get_option("--slice-bytes");
  app->callback([command, &action] { action = [command] { return command->Run(); }; });
}

void AddPs(CLI::App& root, Action& action) {
  CLI::App* ps = root.add_subcommand("ps", "run a parameter server, or look after one");
  ps->require_subcommand(1);
  ps->footer(
      "Examples:\n"
      "  gradwire ps serve --port 4000 --workers 4     serve four workers\n"
      "  gradwire ps status node1:4000                 who is there, how far they are\n"
      "  gradwire ps stop node1:4000                   end it\n"
      "gradwire ps serve --help tells of several servers, replicas and checkpoints.\n");
  AddPsServe(*ps, action);
  AddPsSwarm(*ps, action);
  AddPsStatus(*ps, action);
  AddPsStop(*ps, action);
  AddPsCheckpoint(*ps, action);
  AddPsExport(*ps, action);
}

}  // namespace gradwire::cli
