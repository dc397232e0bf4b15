// The files of a checkpoint, one by one.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "parameter_server/checkpoint.h"
#include "parameter_server/safetensors.h"
#include "transport/status.h"

namespace gradwire::ps::internal {

inline constexpr std::string_view kManifestName = "checkpoint.json";
inline constexpr std::string_view kShardPrefix = "shard-";

std::string StepFolderName(int64_t step);          // "step-000123"
std::string ShardFileName(int shard, int shards);  // "shard-0-of-2.safetensors"
// The step folders in a folder, newest first.
absl::StatusOr<std::vector<std::pair<int64_t, std::filesystem::path>>> ListSteps(
    const std::filesystem::path& folder);

// "NAME" or, when it is cut, "NAME[begin:end]"; with a state, "optimizer.STATE." before it.
std::string EntryName(const Piece& piece, const std::string* state);

// A shard's file with all that its header says; the values are still in the file.
struct ShardFile {
  SafetensorsFile file;
  int64_t step = 0;
  int shard = 0;
  int shards = 0;
  std::string run;
  std::vector<Piece> pieces;
  std::vector<std::string> states;
  // By piece: of the parameters, then of each state.
  std::vector<std::vector<uint32_t>> crc32;
  std::vector<WorkerClock> clocks;
  int64_t updates = 0;                          // ShardSnapshot::updates
  std::map<std::string, std::string> metadata;  // ShardSnapshot::metadata
};

// Writes atomically. InvalidArgument for a snapshot that contradicts itself.
absl::Status WriteShardFile(const std::filesystem::path& folder, const std::string& run,
                            const ShardSnapshot& snapshot);
// NotFound without the file, DataLoss when its header is not that of a shard.
absl::StatusOr<ShardFile> OpenShardFile(const std::filesystem::path& path);

// What the files of a step, in the order of their shards, make together; the layout lists tensors
// in the order in which they appear. DataLoss, naming the file, unless they belong together and
// hold every element once.
absl::StatusOr<CheckpointInfo> Combine(const std::filesystem::path& folder,
                                       const std::vector<ShardFile>& files);

absl::Status WriteManifest(const CheckpointInfo& info);
// DataLoss when a byte of it is wrong. The files it names are not looked at.
absl::StatusOr<CheckpointInfo> ReadManifest(const std::filesystem::path& folder);

// The manifest first, so that what is half removed does not count. Leaves files of others alone.
absl::Status RemoveCheckpoint(const std::filesystem::path& folder);

}  // namespace gradwire::ps::internal
