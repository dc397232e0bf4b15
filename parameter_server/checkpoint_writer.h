// Writes snapshots of shards while training goes on.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "parameter_server/checkpoint.h"
#include "transport/status.h"
#include "transport/transport.h"

namespace gradwire::ps {

struct CheckpointWriterOptions {
  std::filesystem::path folder;  // made when missing
  int keep = 3;                  // complete checkpoints that stay, at least 1
  // The same for all shards of a run, another for the next one: files that an earlier run left for
  // the same step are told apart by it.
  std::string run;
  // How long shard 0 waits for the files of the other shards.
  std::chrono::milliseconds patience{60'000};
};

// A thread that writes what the shards of this process hand over. The process that has shard 0 also
// looks for the other shards' files, which processes on other hosts may write into the same folder,
// writes the manifest once all are there, and removes old checkpoints. A checkpoint that stays
// incomplete is named in a warning and removed once a later one is complete.
//
// An error (no space, no permission) is logged and kept in status(); the file that was being
// written is removed, checkpoints that were complete stay, and the next snapshot is tried anew.
//
// Threads. Everything public may be called from any thread.
class CheckpointWriter {
 public:
  // InvalidArgument for impossible options, FailedPrecondition for a folder that cannot be written.
  static absl::StatusOr<std::unique_ptr<CheckpointWriter>> Start(
      const CheckpointWriterOptions& options);
  // Ends after the file that is being written; what waits is dropped. Flush() first to keep it.
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  // Returns at once. A snapshot that still waits for the same shard gives way to this one.
  void Save(std::unique_ptr<ShardSnapshot> snapshot);

  struct Progress {
    // Of the last snapshot or manifest: OK, or why it could not be written. OK before the first.
    absl::Status status;
    int64_t written = 0;    // step of the newest shard file of this process
    int64_t complete = 0;   // step of the newest manifest of this process
    int64_t files = 0;      // shard files of this process, those of a step written anew too
    int64_t manifests = 0;  // likewise
    int64_t failed = 0;     // snapshots and manifests that could not be written
    int64_t dropped = 0;    // snapshots that gave way to a newer one
  };
  Progress progress() const;

  // Waits until nothing is left to write or to wait for; then the status of progress().
  // DeadlineExceeded when that takes longer.
  absl::Status Flush(Deadline deadline);

 private:
  class Impl;
  explicit CheckpointWriter(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace gradwire::ps
