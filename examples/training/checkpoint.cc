#include "examples/training/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "parameter_server/safetensors.h"
#include "transport/settings.h"

namespace gradwire::training {
namespace {

constexpr std::string_view kPrefix = "step-";
constexpr std::string_view kSuffix = ".safetensors";

// N of "step-N.safetensors".
std::optional<int64_t> StepOf(const std::string& name) {
  if (!name.starts_with(kPrefix) || !name.ends_with(kSuffix)) return std::nullopt;
  const std::string_view digits(name.data() + kPrefix.size(),
                                name.size() - kPrefix.size() - kSuffix.size());
  int64_t step = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), step);
  if (error != std::errc() || end != digits.data() + digits.size() || step < 0) return std::nullopt;
  return step;
}

using Checkpoint = std::pair<int64_t, std::filesystem::path>;

// The checkpoints of a folder, newest first.
absl::StatusOr<std::vector<Checkpoint>> List(const std::filesystem::path& folder) {
  std::vector<Checkpoint> found;
  std::error_code error;
  for (std::filesystem::directory_iterator at(folder, error), end; !error && at != end;
       at.increment(error)) {
    if (const auto step = StepOf(at->path().filename().string())) {
      found.emplace_back(*step, at->path());
    }
  }
  if (error) return ErrnoError(error.value(), "{}: cannot list the folder", folder.string());
  std::ranges::sort(found, std::greater<>());
  return found;
}

std::string StateName(const ps::Optimizer::State& state, const Parameter<float>& parameter) {
  return fmt::format("optimizer.{}.{}", state.name, parameter.name);
}

absl::StatusOr<int64_t> Number(const ps::SafetensorsFile& file, const std::string& path,
                               const std::string& key) {
  const auto found = file.metadata().find(key);
  const auto number =
      found == file.metadata().end() ? InvalidArgument("missing") : ParseInt(found->second);
  if (!number.ok() || *number < 0) {
    return ProtocolError("{}: metadata '{}' is not a whole number", path, key);
  }
  return *number;
}

}  // namespace

absl::Status SaveCheckpoint(const std::filesystem::path& folder, int keep, const Position& position,
                            const RunIdentity& identity, const Model<float>& model,
                            const ps::Optimizer& optimizer) {
  std::map<std::string, std::string> metadata = identity;
  metadata["format"] = "gradwire";
  metadata["step"] = fmt::format("{}", position.step);
  metadata["epoch"] = fmt::format("{}", position.epoch);

  std::vector<ps::TensorToSave> tensors;
  for (const Parameter<float>* parameter : model.parameters()) {
    const auto size = static_cast<size_t>(parameter->size);
    tensors.push_back({parameter->name, parameter->shape, {parameter->value, size}});
  }
  for (const ps::Optimizer::State& state : optimizer.states()) {
    for (const Parameter<float>* parameter : model.parameters()) {
      const auto size = static_cast<size_t>(parameter->size);
      tensors.push_back({StateName(state, *parameter),
                         parameter->shape,
                         {state.values.data() + parameter->offset, size}});
    }
  }
  const auto path = folder / fmt::format("{}{}{}", kPrefix, position.step, kSuffix);
  GW_RETURN_IF_ERROR(ps::WriteSafetensors(path, tensors, metadata));

  GW_ASSIGN_OR_RETURN(const auto checkpoints, List(folder));
  for (size_t i = static_cast<size_t>(keep); i < checkpoints.size(); ++i) {
    std::error_code error;
    // A checkpoint of a longer earlier run may be newer than the one just written; that one stays.
    if (checkpoints[i].first == position.step) continue;
    if (!std::filesystem::remove(checkpoints[i].second, error) && error) {
      return ErrnoError(error.value(), "{}: cannot remove", checkpoints[i].second.string());
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Position> LoadCheckpoint(const std::filesystem::path& file_or_folder,
                                        const RunIdentity& identity, Model<float>& model,
                                        ps::Optimizer& optimizer) {
  std::filesystem::path path = file_or_folder;
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    GW_ASSIGN_OR_RETURN(const auto checkpoints, List(path));
    if (checkpoints.empty()) {
      return MakeError(absl::StatusCode::kNotFound, "{}: no {}N{} to resume from", path.string(),
                       kPrefix, kSuffix);
    }
    path = checkpoints.front().second;
  }
  GW_ASSIGN_OR_RETURN(const auto file, ps::SafetensorsFile::Read(path));
  for (const auto& [key, wanted] : identity) {
    const auto found = file.metadata().find(key);
    const std::string saved = found == file.metadata().end() ? "" : found->second;
    if (saved != wanted) {
      return InvalidArgument("{}: saved with {} '{}', this run has '{}'", path.string(), key, saved,
                             wanted);
    }
  }
  Position position;
  GW_ASSIGN_OR_RETURN(position.step, Number(file, path.string(), "step"));
  GW_ASSIGN_OR_RETURN(position.epoch, Number(file, path.string(), "epoch"));
  for (const Parameter<float>* parameter : model.parameters()) {
    const auto size = static_cast<size_t>(parameter->size);
    GW_RETURN_IF_ERROR(file.Load(parameter->name, parameter->shape, {parameter->value, size}));
    for (ps::Optimizer::State& state : optimizer.states()) {
      GW_RETURN_IF_ERROR(file.Load(StateName(state, *parameter), parameter->shape,
                                   {state.values.data() + parameter->offset, size}));
    }
  }
  return position;
}

}  // namespace gradwire::training
