// The state of a sharded job on disk.
//
// A checkpoint is a folder DIR/step-000123/ with one safetensors file per shard and, written last,
// checkpoint.json, the manifest; without a valid manifest there is no checkpoint. A shard's file
// holds its pieces of the tensors ("NAME", or "NAME[begin:end]" when it is cut: a range of the
// row-major elements), the optimizer's state for each ("optimizer.STATE.NAME...") and, as metadata,
// step, shard, clocks and a CRC-32 of every entry; the manifest holds the layout and a CRC-32 of
// each file's header. So whatever is read has been checked, and nothing else need be read.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "parameter_server/layout.h"
#include "transport/status.h"

namespace gradwire::ps {

// A range of a tensor's elements, row-major.
struct Piece {
  std::string tensor;
  std::vector<int64_t> shape;  // of the whole tensor
  int64_t begin = 0;
  int64_t end = 0;

  int64_t size() const { return end - begin; }
};

// What a shard keeps, in the order of the layout. A tensor without elements belongs to the shard
// that it would begin in.
std::vector<Piece> PiecesOf(const Layout& layout, const Placement& placement, int shard);

// How far a worker's pushes had been applied.
struct WorkerClock {
  int64_t worker = 0;
  int64_t step = 0;    // last one applied whole
  int64_t slices = 0;  // of step + 1, applied already

  friend bool operator==(const WorkerClock&, const WorkerClock&) = default;
};

// An optimizer's state: an array with one number per parameter.
struct SavedState {
  std::string name;  // Optimizer::State::name
  std::vector<float> values;
};

// What one shard saves.
struct ShardSnapshot {
  int64_t step = 0;
  int shard = 0;
  int shards = 1;
  // In the order of the layout. No tensor's name contains '[' or begins with "optimizer.".
  std::vector<Piece> pieces;
  std::vector<float> parameters;   // the pieces one after another
  std::vector<SavedState> states;  // likewise, each
  std::vector<WorkerClock> clocks;
  // Most updates that a slice has had, which is what the optimizer counts; 0: one each step (BSP).
  int64_t updates = 0;
  // Optimizer, its options and what else a reader should know; the manifest holds shard 0's.
  std::map<std::string, std::string> metadata;
};

// What a manifest says.
struct CheckpointInfo {
  struct File {
    std::string name;
    uint64_t bytes = 0;
    uint32_t header_crc32 = 0;
    std::vector<WorkerClock> clocks;
  };

  std::filesystem::path folder;  // DIR/step-N
  int64_t step = 0;
  std::string run;                  // CheckpointWriterOptions::run
  Layout layout;                    // in the order of the job that wrote it
  std::vector<std::string> states;  // names
  std::vector<File> files;          // by shard
  // Of the shards' files, the most. Slices that some worker's push had not reached yet have fewer,
  // which is passed over: one number fits however a later job cuts its shards, and an optimizer
  // that has counted too far takes a slightly smaller step, not a larger one.
  int64_t updates = 0;
  std::map<std::string, std::string> metadata;

  int shards() const { return static_cast<int>(files.size()); }
  // By worker, the least of all shards' clocks: what every shard has. A worker that some shard does
  // not know is left out; `slices` is 0 unless all shards agree.
  std::vector<WorkerClock> clocks() const;
};

// Pieces of a checkpoint in memory.
struct LoadedPieces {
  CheckpointInfo info;
  std::vector<float> parameters;   // the wanted pieces one after another
  std::vector<SavedState> states;  // likewise, each; as many as were saved
};

// `path` is a checkpoint or a folder of them, of which the newest counts; those without a manifest
// do not. NotFound when there is none; DataLoss, naming the file and what is wrong with it, for a
// manifest that is damaged or that its files do not fit: missing, of another size, run, step or
// shard, with another header, or whose pieces leave gaps or overlap.
absl::StatusOr<CheckpointInfo> ReadCheckpoint(const std::filesystem::path& path);

// Reads the ranges `wanted`, cut however the checkpoint's shards were, after the checks of
// ReadCheckpoint(). NotFound for a tensor that is not there, FailedPrecondition for another shape,
// DataLoss for an entry whose CRC-32 is wrong.
absl::StatusOr<LoadedPieces> LoadPieces(const std::filesystem::path& path,
                                        std::span<const Piece> wanted);

// Writes all tensors whole, and the optimizer's state, into one safetensors file, under the names
// that `gradwire train --checkpoint` uses. All of it is in memory for a moment.
absl::Status ExportCheckpoint(const std::filesystem::path& path, const std::filesystem::path& file);

}  // namespace gradwire::ps
