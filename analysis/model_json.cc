#include "analysis/model_json.h"

#include <cmath>
#include <string>

namespace gradwire::analysis {
namespace {

using Json = nlohmann::ordered_json;

absl::Status Read(const Json& from, const char* name, double& to) {
  if (!from.contains(name)) return InvalidArgument("{} is missing", name);
  const Json& value = from[name];
  if (!value.is_number()) return InvalidArgument("{} is no number", name);
  to = value.get<double>();
  if (!std::isfinite(to) || to < 0) return InvalidArgument("{} is below 0 or no number", name);
  return absl::OkStatus();
}

}  // namespace

Json ToJson(const Model& model) {
  Json points = Json::array();
  for (const Model::Point& point : model.points) {
    points.push_back({{"what", point.what},
                      {"bytes", point.bytes},
                      {"ranks", point.ranks},
                      {"measured_us", point.measured_us},
                      {"predicted_us", point.predicted_us}});
  }
  return {{"alpha_us", model.alpha_us},
          {"beta_us_per_mb", model.beta_us_per_mb},
          {"gamma_us_per_mb", model.gamma_us_per_mb},
          {"overlaps", model.overlaps},
          {"error", model.error},
          {"notes", model.notes},
          {"points", points}};
}

absl::StatusOr<Model> ModelFromJson(std::string_view text) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return InvalidArgument("this is no JSON object");
  Model model;
  GW_RETURN_IF_ERROR(Read(json, "alpha_us", model.alpha_us));
  GW_RETURN_IF_ERROR(Read(json, "beta_us_per_mb", model.beta_us_per_mb));
  GW_RETURN_IF_ERROR(Read(json, "gamma_us_per_mb", model.gamma_us_per_mb));
  GW_RETURN_IF_ERROR(Read(json, "error", model.error));
  if (!json.contains("overlaps") || !json["overlaps"].is_boolean()) {
    return InvalidArgument("overlaps is missing, or neither true nor false");
  }
  model.overlaps = json["overlaps"].get<bool>();
  if (json.contains("notes") && json["notes"].is_array()) {
    for (const Json& note : json["notes"]) {
      if (note.is_string()) model.notes.push_back(note.get<std::string>());
    }
  }
  if (!json.contains("points") || !json["points"].is_array()) return model;
  for (const Json& point : json["points"]) {
    if (!point.is_object() || !point.contains("what") || !point["what"].is_string()) {
      return InvalidArgument("a point has no what");
    }
    Model::Point& read = model.points.emplace_back();
    read.what = point["what"].get<std::string>();
    double bytes = 0, ranks = 0;
    GW_RETURN_IF_ERROR(Read(point, "bytes", bytes));
    GW_RETURN_IF_ERROR(Read(point, "ranks", ranks));
    if (bytes > 1e15 || ranks > 1e9) return InvalidArgument("point {} is too large", read.what);
    read.bytes = static_cast<uint64_t>(bytes);
    read.ranks = static_cast<int>(ranks);
    GW_RETURN_IF_ERROR(Read(point, "measured_us", read.measured_us));
    GW_RETURN_IF_ERROR(Read(point, "predicted_us", read.predicted_us));
  }
  return model;
}

}  // namespace gradwire::analysis
