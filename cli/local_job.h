// Ranks started on this machine: `gradwire launch`, and the programs that bring their own ranks.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "transport/status.h"

namespace gradwire::cli {

inline constexpr int kMaxLocalRanks = 1024;

struct LocalJob {
  enum class Binding { kNone, kCore };

  int ranks = 1;                     // on this node, 1..kMaxLocalRanks
  std::vector<std::string> command;  // program and its arguments
  // Rank 0 keeps this process's own stdout and stderr instead of lines behind "[0] ".
  bool plain_rank0 = false;
  // kCore: rank r runs on the r-th core this process may use, counted round.
  Binding binding = Binding::kNone;
  // The failure of a rank is told, and does not end the others.
  bool keep_going = false;

  // A job over several nodes: each runs this with its own node_rank and the same rest. With more
  // than one node, address and port must be given.
  int nodes = 1;
  int node_rank = 0;
  std::string master_address = "127.0.0.1";
  int master_port = 0;  // 0: a free one, kept for this job while it runs

  // After the first failure the other ranks are left alone for `settle`, so that each can name the
  // rank that died and end by itself; then SIGTERM, and SIGKILL after `grace`.
  std::chrono::milliseconds settle{5'000};
  std::chrono::milliseconds grace{5'000};
};

// Starts the ranks with torchrun's variables and waits for all. Each rank is a process group and
// dies with this process. Output is passed on by whole lines behind "[rank] ", stdout and stderr
// apart. SIGINT, SIGTERM and SIGHUP are handed on to the ranks and end the job.
//
// Returns the exit code of the first rank that failed (128 + signal when a signal ended it or the
// job; of one that is killed within a second of a failure, since the others end for its sake), or
// 0; with keep_going that of rank 0 where it is one of these. InvalidArgument for a job that makes
// no sense, NotFound when there is no such program. To be called by one thread of the process, with
// no other child of the process running.
absl::StatusOr<int> RunLocalJob(const LocalJob& job);

// Where `program` is: as it stands when it has a slash, else from PATH; "gradwire" that PATH does
// not have is this very program. NotFound otherwise.
absl::StatusOr<std::string> FindProgram(const std::string& program);

}  // namespace gradwire::cli
