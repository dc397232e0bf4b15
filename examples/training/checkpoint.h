// What training needs to continue, as files DIR/step-N.safetensors.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

#include "examples/training/model.h"
#include "parameter_server/optimizer.h"
#include "transport/status.h"

namespace gradwire::training {

// Where training stands: between epochs.
struct Position {
  int64_t step = 0;   // updates done
  int64_t epoch = 0;  // epochs done
};

// What must be equal for a resumed run to continue the same curve: "model", "optimizer", "data",
// "batch", "seed" and their values as text.
using RunIdentity = std::map<std::string, std::string>;

// Writes parameters under their names and optimizer state as "optimizer.STATE.NAME"; `identity`,
// step and epoch go into the metadata. Then removes all but the newest `keep` of the folder.
absl::Status SaveCheckpoint(const std::filesystem::path& folder, int keep, const Position& position,
                            const RunIdentity& identity, const Model<float>& model,
                            const ps::Optimizer& optimizer);

// Loads a file, or the newest of a folder. InvalidArgument, naming both values, when its identity
// is not this run's; NotFound without a checkpoint.
absl::StatusOr<Position> LoadCheckpoint(const std::filesystem::path& file_or_folder,
                                        const RunIdentity& identity, Model<float>& model,
                                        ps::Optimizer& optimizer);

}  // namespace gradwire::training
