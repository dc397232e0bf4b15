// A fitted model as a file: `gradwire analyze` writes it, `gradwire predict --from` reads it.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>

#include "analysis/model.h"
#include "transport/status.h"

namespace gradwire::analysis {

nlohmann::ordered_json ToJson(const Model& model);
absl::Status WriteModel(const Model& model, const std::filesystem::path& path);
// The prices alone. InvalidArgument names the member that is missing or makes no sense.
absl::StatusOr<Costs> CostsFromJson(std::string_view text);

}  // namespace gradwire::analysis
