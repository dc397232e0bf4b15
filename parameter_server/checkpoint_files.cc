#include <zlib.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <set>

#include "parameter_server/checkpoint_internal.h"
#include "parameter_server/protocol.h"
#include "transport/file_io.h"
#include "transport/settings.h"

namespace gradwire::ps::internal {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kStepPrefix = "step-";
constexpr std::string_view kStatePrefix = "optimizer.";
constexpr std::string_view kShardFormat = "gradwire.shard.1";
constexpr std::string_view kManifestFormat = "gradwire.checkpoint.1";
constexpr uint64_t kMaxManifestBytes = uint64_t{256} << 20;

// Keys of a shard file's metadata that are ours.
const std::set<std::string, std::less<>>& Reserved() {
  static const std::set<std::string, std::less<>> keys = {
      "format", "step", "shard", "shards", "run", "pieces", "states", "clocks", "updates"};
  return keys;
}

uint32_t Crc32(const void* data, size_t bytes) {
  return static_cast<uint32_t>(crc32_z(0, static_cast<const Bytef*>(data), bytes));
}

Json ToJson(const std::vector<WorkerClock>& clocks) {
  Json json = Json::array();
  for (const WorkerClock& clock : clocks) {
    json.push_back({{"worker", clock.worker}, {"step", clock.step}, {"slices", clock.slices}});
  }
  return json;
}

std::string Dump(const Json& json, int indent = -1) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

// --- Reading JSON that may hold anything; the first thing that is not as it must be is kept ---
class JsonReader {
 public:
  explicit JsonReader(std::string where) : where_(std::move(where)) {}
  const absl::Status& status() const { return status_; }

  // Null, which every other call refuses too, when there is none.
  const Json& At(const Json& object, const char* key) {
    static const Json kNull;
    const auto found = object.is_object() ? object.find(key) : object.end();
    if (!object.is_object() || found == object.end()) {
      Fail(key);
      return kNull;
    }
    return *found;
  }
  int64_t Int(const Json& object, const char* key) {
    const Json& value = At(object, key);
    if (!value.is_number_integer() || value.get<int64_t>() < 0) return Fail(key), 0;
    return value.get<int64_t>();
  }
  std::string Text(const Json& object, const char* key) {
    const Json& value = At(object, key);
    return value.is_string() ? value.get<std::string>() : (Fail(key), "");
  }
  const Json& List(const Json& object, const char* key) {
    static const Json kEmpty = Json::array();
    const Json& value = At(object, key);
    if (!value.is_array()) Fail(key);
    return value.is_array() ? value : kEmpty;
  }
  template <typename Number>
  std::vector<Number> Numbers(const Json& object, const char* key) {
    std::vector<Number> numbers;
    for (const Json& item : List(object, key)) {
      if (!item.is_number_unsigned() ||
          item.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<Number>::max())) {
        Fail(key);
        break;
      }
      numbers.push_back(item.get<Number>());
    }
    return numbers;
  }
  std::vector<std::string> Texts(const Json& object, const char* key) {
    std::vector<std::string> texts;
    for (const Json& item : List(object, key)) {
      if (!item.is_string()) Fail(key);
      texts.push_back(item.is_string() ? item.get<std::string>() : "");
    }
    return texts;
  }
  std::vector<WorkerClock> Clocks(const Json& object, const char* key) {
    std::vector<WorkerClock> clocks;
    for (const Json& item : List(object, key)) {
      clocks.push_back({Int(item, "worker"), Int(item, "step"), Int(item, "slices")});
    }
    return clocks;
  }
  void Fail(std::string_view key) {
    if (status_.ok()) status_ = ProtocolError("{}: '{}' is missing or malformed", where_, key);
  }

 private:
  std::string where_;
  absl::Status status_;
};

// The elements of a shape; -1 for one that cannot be.
int64_t Count(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t side : shape) {
    if (side < 0 || __builtin_mul_overflow(count, side, &count)) return -1;
  }
  return count;
}

bool IsCut(const Piece& piece) { return piece.begin != 0 || piece.end != Count(piece.shape); }

// Why a piece cannot be; empty when it can.
std::string Flaw(const Piece& piece) {
  const int64_t count = Count(piece.shape);
  if (piece.tensor.empty() || piece.tensor.find('[') != std::string::npos ||
      piece.tensor.starts_with(kStatePrefix)) {
    return fmt::format("'{}' cannot name a tensor", piece.tensor);
  }
  if (count < 0 || piece.begin < 0 || piece.begin > piece.end || piece.end > count) {
    return fmt::format("[{}, {}) leaves tensor '{}' of {} elements", piece.begin, piece.end,
                       piece.tensor, count);
  }
  return "";
}

std::vector<int64_t> EntryShape(const Piece& piece) {
  return IsCut(piece) ? std::vector<int64_t>{piece.size()} : piece.shape;
}

}  // namespace

std::string StepFolderName(int64_t step) { return fmt::format("{}{:06}", kStepPrefix, step); }

std::string ShardFileName(int shard, int shards) {
  return fmt::format("{}{}-of-{}.safetensors", kShardPrefix, shard, shards);
}

absl::StatusOr<std::vector<std::pair<int64_t, std::filesystem::path>>> ListSteps(
    const std::filesystem::path& folder) {
  std::vector<std::pair<int64_t, std::filesystem::path>> steps;
  std::error_code error;
  for (std::filesystem::directory_iterator at(folder, error), end; !error && at != end;
       at.increment(error)) {
    const std::string name = at->path().filename().string();
    std::error_code ignored;
    if (!name.starts_with(kStepPrefix) || !at->is_directory(ignored)) continue;
    int64_t step = 0;
    std::from_chars(name.data() + kStepPrefix.size(), name.data() + name.size(), step);
    if (name == StepFolderName(step)) steps.emplace_back(step, at->path());
  }
  if (error) return ErrnoError(error.value(), "{}: cannot list the folder", folder.string());
  std::ranges::sort(steps, std::greater<>());
  return steps;
}

std::string EntryName(const Piece& piece, const std::string* state) {
  std::string name = state == nullptr ? "" : fmt::format("{}{}.", kStatePrefix, *state);
  name += piece.tensor;
  if (IsCut(piece)) name += fmt::format("[{}:{}]", piece.begin, piece.end);
  return name;
}

absl::Status WriteShardFile(const std::filesystem::path& folder, const std::string& run,
                            const ShardSnapshot& snapshot) {
  const std::string name = ShardFileName(snapshot.shard, snapshot.shards);
  if (snapshot.step < 0 || snapshot.shard < 0 || snapshot.shard >= snapshot.shards) {
    return InvalidArgument("snapshot of step {}: shard {} of {}", snapshot.step, snapshot.shard,
                           snapshot.shards);
  }
  for (const auto& [key, value] : snapshot.metadata) {
    if (Reserved().contains(key)) return InvalidArgument("{}: metadata '{}' is taken", name, key);
  }
  size_t total = 0;
  std::set<std::string> seen;
  for (const Piece& piece : snapshot.pieces) {
    if (const std::string flaw = Flaw(piece); !flaw.empty()) {
      return InvalidArgument("{}: {}", name, flaw);
    }
    if (!seen.insert(EntryName(piece, nullptr)).second) {
      return InvalidArgument("{}: {} twice", name, EntryName(piece, nullptr));
    }
    total += static_cast<size_t>(piece.size());
  }
  Json states = Json::array();
  std::vector<std::pair<const std::string*, const std::vector<float>*>> arrays = {
      {nullptr, &snapshot.parameters}};
  for (const SavedState& state : snapshot.states) {
    states.push_back(state.name);
    arrays.emplace_back(&state.name, &state.values);
  }
  for (const auto& [state, values] : arrays) {
    if (values->size() != total) {
      return InvalidArgument("{}: {} numbers of {} for pieces of {}", name, values->size(),
                             state == nullptr ? "parameters" : *state, total);
    }
  }

  std::vector<TensorToSave> tensors;
  Json pieces = Json::array();
  size_t offset = 0;
  for (const Piece& piece : snapshot.pieces) {
    const auto size = static_cast<size_t>(piece.size());
    Json checksums = Json::array();
    for (const auto& [state, values] : arrays) {
      const std::span<const float> part = std::span(*values).subspan(offset, size);
      checksums.push_back(Crc32(part.data(), part.size_bytes()));
      tensors.push_back({EntryName(piece, state), EntryShape(piece), part});
    }
    pieces.push_back({{"tensor", piece.tensor},
                      {"shape", piece.shape},
                      {"begin", piece.begin},
                      {"end", piece.end},
                      {"crc32", std::move(checksums)}});
    offset += size;
  }
  std::map<std::string, std::string> metadata = snapshot.metadata;
  metadata["format"] = kShardFormat;
  metadata["step"] = fmt::format("{}", snapshot.step);
  metadata["shard"] = fmt::format("{}", snapshot.shard);
  metadata["shards"] = fmt::format("{}", snapshot.shards);
  metadata["run"] = run;
  metadata["pieces"] = Dump(pieces);
  metadata["states"] = Dump(states);
  metadata["clocks"] = Dump(ToJson(snapshot.clocks));
  if (snapshot.updates > 0) metadata["updates"] = fmt::format("{}", snapshot.updates);
  return WriteSafetensors(folder / name, tensors, metadata);
}

absl::StatusOr<ShardFile> OpenShardFile(const std::filesystem::path& path) {
  GW_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Read(path));
  ShardFile shard{.file = std::move(file)};
  // The metadata as one JSON object: what others wrote as text stays text.
  Json json = Json::object();
  for (const auto& [key, value] : shard.file.metadata()) {
    if (!Reserved().contains(key)) {
      shard.metadata[key] = value;
    } else if (key == "run" || key == "format") {
      json[key] = value;
    } else {
      json[key] = Json::parse(value, nullptr, /*allow_exceptions=*/false);
    }
  }
  JsonReader reader(path.string());
  if (reader.Text(json, "format") != kShardFormat) reader.Fail("format");
  shard.step = reader.Int(json, "step");
  const int64_t number = reader.Int(json, "shard");
  const int64_t count = reader.Int(json, "shards");
  if (number >= count || count > std::numeric_limits<int>::max()) reader.Fail("shard");
  shard.shard = static_cast<int>(number);
  shard.shards = static_cast<int>(count);
  shard.run = reader.Text(json, "run");
  shard.states = reader.Texts(json, "states");
  shard.clocks = reader.Clocks(json, "clocks");
  if (json.contains("updates")) shard.updates = reader.Int(json, "updates");
  if (shard.updates > kMaxStep) reader.Fail("updates");
  for (const Json& item : reader.List(json, "pieces")) {
    shard.pieces.push_back({.tensor = reader.Text(item, "tensor"),
                            .shape = reader.Numbers<int64_t>(item, "shape"),
                            .begin = reader.Int(item, "begin"),
                            .end = reader.Int(item, "end")});
    shard.crc32.push_back(reader.Numbers<uint32_t>(item, "crc32"));
    if (shard.crc32.back().size() != 1 + shard.states.size()) reader.Fail("crc32");
  }
  GW_RETURN_IF_ERROR(reader.status());

  for (const Piece& piece : shard.pieces) {
    if (const std::string flaw = Flaw(piece); !flaw.empty()) {
      return ProtocolError("{}: {}", path.string(), flaw);
    }
    GW_RETURN_IF_ERROR(shard.file.Check(EntryName(piece, nullptr), EntryShape(piece)));
    for (const std::string& state : shard.states) {
      GW_RETURN_IF_ERROR(shard.file.Check(EntryName(piece, &state), EntryShape(piece)));
    }
  }
  if (shard.file.names().size() != shard.pieces.size() * (1 + shard.states.size())) {
    return ProtocolError("{}: holds other tensors than it lists", path.string());
  }
  return shard;
}

absl::StatusOr<CheckpointInfo> Combine(const std::filesystem::path& folder,
                                       const std::vector<ShardFile>& files) {
  CheckpointInfo info = {.folder = folder,
                         .step = files[0].step,
                         .run = files[0].run,
                         .states = files[0].states,
                         .metadata = files[0].metadata};
  std::vector<TensorSpec> tensors;
  // By tensor: its ranges and the files that hold them.
  std::map<std::string, std::vector<std::pair<const Piece*, const ShardFile*>>> ranges;
  for (size_t i = 0; i < files.size(); ++i) {
    const ShardFile& file = files[i];
    const std::string& path = file.file.path();
    if (file.step != info.step || file.run != info.run || file.states != info.states ||
        file.shard != static_cast<int>(i) || file.shards != static_cast<int>(files.size())) {
      return ProtocolError(
          "{}: step {}, shard {} of {}, run '{}', states {} do not fit step {}, run '{}', states "
          "{}",
          path, file.step, file.shard, file.shards, file.run, Dump(file.states), info.step,
          info.run, Dump(info.states));
    }
    info.updates = std::max(info.updates, file.updates);
    for (const Piece& piece : file.pieces) {
      auto& found = ranges[piece.tensor];
      if (found.empty()) {
        tensors.push_back({piece.tensor, piece.shape});
      } else if (found.front().first->shape != piece.shape) {
        return ProtocolError("{}: tensor '{}' has another shape than in {}", path, piece.tensor,
                             found.front().second->file.path());
      }
      found.emplace_back(&piece, &file);
    }
    info.files.push_back({.name = ShardFileName(file.shard, file.shards),
                          .bytes = file.file.size(),
                          .header_crc32 = file.file.header_crc32(),
                          .clocks = file.clocks});
  }
  for (auto& [tensor, parts] : ranges) {
    std::ranges::sort(
        parts, {}, [](const auto& part) { return std::pair(part.first->begin, part.first->end); });
    int64_t filled = 0;
    for (const auto& [piece, file] : parts) {
      if (piece->begin != filled) {
        return ProtocolError("{}: tensor '{}' {} at element {}", file->file.path(), tensor,
                             piece->begin < filled ? "overlaps another file" : "leaves a gap",
                             filled);
      }
      filled = piece->end;
    }
    if (const int64_t count = Count(parts.front().first->shape); filled != count) {
      return ProtocolError("{}: only {} of {} elements of tensor '{}' are there", folder.string(),
                           filled, count, tensor);
    }
  }
  auto layout = Layout::Make(std::move(tensors));
  if (!layout.ok()) return ProtocolError("{}: {}", folder.string(), Message(layout.status()));
  info.layout = *std::move(layout);
  return info;
}

absl::Status WriteManifest(const CheckpointInfo& info) {
  Json json = {{"format", kManifestFormat}, {"step", info.step},         {"run", info.run},
               {"states", info.states},     {"metadata", info.metadata}, {"tensors", Json::array()},
               {"files", Json::array()}};
  for (const TensorSpec& tensor : info.layout.tensors()) {
    json["tensors"].push_back({{"name", tensor.name}, {"dtype", "F32"}, {"shape", tensor.shape}});
  }
  for (const CheckpointInfo::File& file : info.files) {
    json["files"].push_back({{"name", file.name},
                             {"bytes", file.bytes},
                             {"header_crc32", file.header_crc32},
                             {"clocks", ToJson(file.clocks)}});
  }
  // The last line is the CRC of all before it.
  std::string text = Dump(json, 1);
  text.resize(text.find_last_not_of("}\n") + 1);
  text += ",\n";
  GW_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(info.folder / kManifestName));
  GW_RETURN_IF_ERROR(file.Append(text));
  GW_RETURN_IF_ERROR(
      file.Append(fmt::format(" \"crc32\": {}\n}}\n", Crc32(text.data(), text.size()))));
  return file.Commit();
}

absl::StatusOr<CheckpointInfo> ReadManifest(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / kManifestName;
  GW_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes, ReadFile(path, kMaxManifestBytes));
  const std::string text(bytes.begin(), bytes.end());
  const size_t last = text.rfind(" \"crc32\": ");
  if (last == std::string::npos ||
      text.substr(last) != fmt::format(" \"crc32\": {}\n}}\n", Crc32(text.data(), last))) {
    return ProtocolError("{}: damaged: its CRC-32 is wrong or missing", path.string());
  }
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  JsonReader reader(path.string());
  if (reader.Text(json, "format") != kManifestFormat) reader.Fail("format");
  CheckpointInfo info = {.folder = folder,
                         .step = reader.Int(json, "step"),
                         .run = reader.Text(json, "run"),
                         .states = reader.Texts(json, "states")};
  const Json& metadata = reader.At(json, "metadata");
  if (!metadata.is_object()) reader.Fail("metadata");
  for (const auto& [key, value] : metadata.items()) {
    if (value.is_string()) info.metadata[key] = value.get<std::string>();
  }
  std::vector<TensorSpec> tensors;
  for (const Json& item : reader.List(json, "tensors")) {
    if (reader.Text(item, "dtype") != "F32") reader.Fail("dtype");
    tensors.push_back({reader.Text(item, "name"), reader.Numbers<int64_t>(item, "shape")});
  }
  for (const Json& item : reader.List(json, "files")) {
    const int64_t crc = reader.Int(item, "header_crc32");
    if (crc > std::numeric_limits<uint32_t>::max()) reader.Fail("header_crc32");
    info.files.push_back({.name = reader.Text(item, "name"),
                          .bytes = static_cast<uint64_t>(reader.Int(item, "bytes")),
                          .header_crc32 = static_cast<uint32_t>(crc),
                          .clocks = reader.Clocks(item, "clocks")});
  }
  for (size_t i = 0; i < info.files.size(); ++i) {
    const auto expected = ShardFileName(static_cast<int>(i), static_cast<int>(info.files.size()));
    if (info.files[i].name != expected) reader.Fail("name");
  }
  if (info.files.empty()) reader.Fail("files");
  GW_RETURN_IF_ERROR(reader.status());
  auto layout = Layout::Make(std::move(tensors));
  if (!layout.ok()) return ProtocolError("{}: {}", path.string(), Message(layout.status()));
  info.layout = *std::move(layout);
  return info;
}

absl::Status RemoveCheckpoint(const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::remove(folder / kManifestName, error);
  if (error) return ErrnoError(error.value(), "{}: cannot remove", folder.string());
  std::vector<std::filesystem::path> ours;
  for (std::filesystem::directory_iterator at(folder, error), end; !error && at != end;
       at.increment(error)) {
    const std::string name = at->path().filename().string();
    if (name.starts_with(kShardPrefix) || name.starts_with(kManifestName)) {
      ours.push_back(at->path());
    }
  }
  for (const auto& path : ours) {
    if (!error) std::filesystem::remove(path, error);
  }
  if (error) return ErrnoError(error.value(), "{}: cannot remove its files", folder.string());
  std::filesystem::remove(folder, error);  // fails, rightly, while something else is in it
  return absl::OkStatus();
}

}  // namespace gradwire::ps::internal
