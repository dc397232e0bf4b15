#include "parameter_server/checkpoint.h"

#include <fmt/ranges.h>
#include <zlib.h>

#include <algorithm>
#include <utility>

#include "parameter_server/checkpoint_internal.h"
#include "parameter_server/safetensors.h"

namespace gradwire::ps {
namespace {

using internal::ShardFile;

// A checkpoint whose headers have been checked, with its files open.
struct OpenCheckpoint {
  CheckpointInfo info;
  std::vector<ShardFile> files;
};

absl::StatusOr<std::filesystem::path> FindFolder(const std::filesystem::path& path) {
  std::error_code error;
  if (std::filesystem::exists(path / internal::kManifestName, error)) return path;
  GW_ASSIGN_OR_RETURN(const auto steps, internal::ListSteps(path));
  for (const auto& [step, folder] : steps) {
    if (std::filesystem::exists(folder / internal::kManifestName, error)) return folder;
  }
  return MakeError(absl::StatusCode::kNotFound, "{}: no checkpoint, a folder with {}, is there{}",
                   path.string(), internal::kManifestName,
                   steps.empty() ? "" : "; what was begun was not completed");
}

absl::StatusOr<OpenCheckpoint> Open(const std::filesystem::path& path) {
  GW_ASSIGN_OR_RETURN(const auto folder, FindFolder(path));
  OpenCheckpoint checkpoint;
  GW_ASSIGN_OR_RETURN(checkpoint.info, internal::ReadManifest(folder));
  CheckpointInfo& info = checkpoint.info;
  for (const CheckpointInfo::File& expected : info.files) {
    const std::filesystem::path name = folder / expected.name;
    auto file = internal::OpenShardFile(name);
    if (absl::IsNotFound(file.status())) {
      return ProtocolError("{}: is missing, though the manifest lists it", name.string());
    }
    GW_RETURN_IF_ERROR(file.status());
    if (file->file.size() != expected.bytes) {
      return ProtocolError("{}: {} bytes, the manifest says {}", name.string(), file->file.size(),
                           expected.bytes);
    }
    if (file->file.header_crc32() != expected.header_crc32) {
      return ProtocolError("{}: its header is not the one that the manifest was written for",
                           name.string());
    }
    checkpoint.files.push_back(*std::move(file));
  }
  GW_ASSIGN_OR_RETURN(const CheckpointInfo found, internal::Combine(folder, checkpoint.files));
  if (found.step != info.step || found.run != info.run || found.states != info.states ||
      !found.layout.Matches(info.layout).ok()) {
    return ProtocolError("{}: the manifest is of another step, run or layout than its files",
                         folder.string());
  }
  info.updates = found.updates;
  return checkpoint;
}

// A wanted range and where its values go.
struct Target {
  const Piece* piece;
  size_t offset;  // in LoadedPieces' arrays
};

// Reads one entry whole, checks its CRC-32 and copies what overlaps the targets into `out`.
absl::Status LoadEntry(const ShardFile& file, const Piece& piece, const std::string* state,
                       uint32_t crc32, std::span<const Target> targets, std::vector<float>& out,
                       std::vector<float>& buffer) {
  const std::string name = internal::EntryName(piece, state);
  uLong crc = 0;
  for (int64_t at = piece.begin; at < piece.end;) {
    const int64_t end = std::min(piece.end, at + static_cast<int64_t>(buffer.size()));
    const auto chunk = std::span(buffer).first(static_cast<size_t>(end - at));
    GW_RETURN_IF_ERROR(file.file.LoadRange(name, at - piece.begin, chunk));
    crc = crc32_z(crc, reinterpret_cast<const Bytef*>(chunk.data()), chunk.size_bytes());
    for (const Target& target : targets) {
      const int64_t first = std::max(at, target.piece->begin);
      const int64_t last = std::min(end, target.piece->end);
      if (first >= last) continue;
      std::copy(chunk.begin() + (first - at), chunk.begin() + (last - at),
                out.begin() + static_cast<int64_t>(target.offset) + (first - target.piece->begin));
    }
    at = end;
  }
  if (crc == crc32) return absl::OkStatus();
  return ProtocolError("{}: the values of '{}' are damaged: CRC-32 {:08x}, saved with {:08x}",
                       file.file.path(), name, crc, crc32);
}

}  // namespace

std::vector<Piece> PiecesOf(const Layout& layout, const Placement& placement, int shard) {
  const int64_t begin = placement.begin(shard), end = placement.end(shard);
  const bool last = end == layout.elements() && (shard == 0 || begin < end);
  std::vector<Piece> pieces;
  for (int i = 0; i < layout.size(); ++i) {
    const int64_t offset = layout.offset(i), count = layout.tensor(i).count();
    const int64_t from = std::max(begin, offset), to = std::min(end, offset + count);
    const bool empty_here =
        count == 0 && offset >= begin && (offset < end || (last && offset == end));
    if (from >= to && !empty_here) continue;
    pieces.push_back({.tensor = layout.tensor(i).name,
                      .shape = layout.tensor(i).shape,
                      .begin = empty_here ? 0 : from - offset,
                      .end = empty_here ? 0 : to - offset});
  }
  return pieces;
}

std::vector<WorkerClock> CheckpointInfo::clocks() const {
  std::map<int64_t, std::pair<WorkerClock, size_t>> least;  // and how many shards know the worker
  for (const File& file : files) {
    for (const WorkerClock& clock : file.clocks) {
      const auto [found, is_new] = least.try_emplace(clock.worker, clock, 0);
      auto& [known, shards] = found->second;
      ++shards;
      if (!is_new && clock.step != known.step) {
        known.step = std::min(known.step, clock.step);
        known.slices = 0;
      } else if (clock.slices != known.slices) {
        known.slices = 0;
      }
    }
  }
  std::vector<WorkerClock> clocks;
  for (const auto& [worker, known] : least) {
    if (known.second == files.size()) clocks.push_back(known.first);
  }
  return clocks;
}

absl::StatusOr<CheckpointInfo> ReadCheckpoint(const std::filesystem::path& path) {
  GW_ASSIGN_OR_RETURN(OpenCheckpoint checkpoint, Open(path));
  return std::move(checkpoint.info);
}

absl::StatusOr<LoadedPieces> LoadPieces(const std::filesystem::path& path,
                                        std::span<const Piece> wanted) {
  GW_ASSIGN_OR_RETURN(OpenCheckpoint checkpoint, Open(path));
  LoadedPieces loaded{.info = std::move(checkpoint.info)};
  const std::string folder = loaded.info.folder.string();

  std::map<std::string, std::vector<Target>> targets;  // by tensor
  size_t total = 0;
  for (const Piece& piece : wanted) {
    const auto tensor = loaded.info.layout.Find(piece.tensor);
    if (!tensor.ok()) return Annotate(tensor.status(), folder);
    const TensorSpec& saved = loaded.info.layout.tensor(*tensor);
    if (saved.shape != piece.shape) {
      return FailedPrecondition("{}: tensor '{}' was saved with shape [{}], not [{}]", folder,
                                piece.tensor, fmt::join(saved.shape, ", "),
                                fmt::join(piece.shape, ", "));
    }
    if (piece.begin < 0 || piece.begin > piece.end || piece.end > saved.count()) {
      return InvalidArgument("{}: [{}, {}) leaves tensor '{}' of {} elements", folder, piece.begin,
                             piece.end, piece.tensor, saved.count());
    }
    targets[piece.tensor].push_back({&piece, total});
    total += static_cast<size_t>(piece.size());
  }
  loaded.parameters.resize(total);
  for (const std::string& state : loaded.info.states) {
    loaded.states.push_back({state, std::vector<float>(total)});
  }

  constexpr int64_t kChunk = 256 << 10;  // elements
  std::vector<float> buffer(
      static_cast<size_t>(std::clamp<int64_t>(loaded.info.layout.elements(), 1, kChunk)));
  for (const ShardFile& file : checkpoint.files) {
    for (size_t i = 0; i < file.pieces.size(); ++i) {
      const Piece& piece = file.pieces[i];
      const auto found = targets.find(piece.tensor);
      if (found == targets.end() || std::ranges::none_of(found->second, [&](const Target& target) {
            return target.piece->begin < piece.end && piece.begin < target.piece->end;
          })) {
        continue;
      }
      GW_RETURN_IF_ERROR(LoadEntry(file, piece, nullptr, file.crc32[i][0], found->second,
                                   loaded.parameters, buffer));
      for (size_t k = 0; k < loaded.states.size(); ++k) {
        GW_RETURN_IF_ERROR(LoadEntry(file, piece, &loaded.states[k].name, file.crc32[i][1 + k],
                                     found->second, loaded.states[k].values, buffer));
      }
    }
  }
  return loaded;
}

absl::Status ExportCheckpoint(const std::filesystem::path& path,
                              const std::filesystem::path& file) {
  GW_ASSIGN_OR_RETURN(const CheckpointInfo info, ReadCheckpoint(path));
  std::vector<Piece> whole;
  for (const TensorSpec& tensor : info.layout.tensors()) {
    whole.push_back({tensor.name, tensor.shape, 0, tensor.count()});
  }
  GW_ASSIGN_OR_RETURN(const LoadedPieces loaded, LoadPieces(info.folder, whole));
  std::vector<TensorToSave> tensors;
  const auto add = [&](const std::string* state, std::span<const float> values) {
    for (const Piece& piece : whole) {
      const auto size = static_cast<size_t>(piece.size());
      tensors.push_back({internal::EntryName(piece, state), piece.shape, values.first(size)});
      values = values.subspan(size);
    }
  };
  add(nullptr, loaded.parameters);
  for (const SavedState& state : loaded.states) add(&state.name, state.values);
  std::map<std::string, std::string> metadata = info.metadata;
  metadata["format"] = "gradwire";
  metadata["step"] = fmt::format("{}", info.step);
  return WriteSafetensors(file, tensors, metadata);
}

}  // namespace gradwire::ps
