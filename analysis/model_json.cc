#include "analysis/model_json.h"

#include <cmath>
#include <string>

#include "transport/file_io.h"

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
  const auto or_null = [](const std::optional<double>& value) {
    return value ? Json(*value) : Json(nullptr);
  };
  Json points = Json::array(), predictions = Json::array();
  for (const Model::Point& point : model.points) {
    points.push_back({{"what", point.what},
                      {"algorithm", point.algorithm},
                      {"bytes", point.bytes},
                      {"ranks", point.ranks},
                      {"measured_us", point.measured_us},
                      {"predicted_us", point.predicted_us},
                      {"unseen_us", or_null(point.unseen_us)}});
  }
  for (const Model::Prediction& prediction : model.predictions) {
    predictions.push_back({{"algorithm", prediction.algorithm},
                           {"ranks", prediction.ranks},
                           {"bytes", prediction.bytes},
                           {"slice_bytes", prediction.slice_bytes},
                           {"predicted_us", prediction.predicted_us}});
  }
  return {{"alpha_us", model.alpha_us},
          {"beta_us_per_mb", model.beta_us_per_mb},
          {"gamma_us_per_mb", model.gamma_us_per_mb},
          {"overlaps", model.overlaps},
          {"error", model.error},
          {"unseen_error", or_null(model.unseen_error)},
          {"notes", model.notes},
          {"points", points},
          {"predictions", predictions}};
}

absl::Status WriteModel(const Model& model, const std::filesystem::path& path) {
  GW_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(path));
  GW_RETURN_IF_ERROR(
      file.Append(ToJson(model).dump(2, ' ', false, Json::error_handler_t::replace) + "\n"));
  return file.Commit();
}

absl::StatusOr<Costs> CostsFromJson(std::string_view text) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return InvalidArgument("this is no JSON object");
  Costs costs;
  GW_RETURN_IF_ERROR(Read(json, "alpha_us", costs.alpha_us));
  GW_RETURN_IF_ERROR(Read(json, "beta_us_per_mb", costs.beta_us_per_mb));
  GW_RETURN_IF_ERROR(Read(json, "gamma_us_per_mb", costs.gamma_us_per_mb));
  if (!json.contains("overlaps") || !json["overlaps"].is_boolean()) {
    return InvalidArgument("overlaps is missing, or neither true nor false");
  }
  costs.overlaps = json["overlaps"].get<bool>();
  return costs;
}

}  // namespace gradwire::analysis
