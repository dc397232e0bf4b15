// A fitted model as a file, for `gradwire predict --from`.
#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

#include "analysis/result.h"
#include "transport/status.h"

namespace gradwire::analysis {

nlohmann::ordered_json ToJson(const Model& model);
// InvalidArgument names the member that is missing or makes no sense.
absl::StatusOr<Model> ModelFromJson(std::string_view text);

}  // namespace gradwire::analysis
