#include "parameter_server/safetensors.h"

#include <fmt/ranges.h>
#include <zlib.h>

#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "transport/file_io.h"

namespace gradwire::ps {
namespace {

static_assert(std::endian::native == std::endian::little, "tensors are written as they lie");

using Json = nlohmann::ordered_json;

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own bound
constexpr uint64_t kLengthBytes = 8;
constexpr std::string_view kMetadata = "__metadata__";

// Bytes of one element, 0 for an unknown type.
uint64_t ElementBytes(std::string_view dtype) {
  static const std::map<std::string_view, uint64_t> kSizes = {
      {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1},
      {"I16", 2},  {"U16", 2}, {"F16", 2}, {"BF16", 2},    {"I32", 4},
      {"U32", 4},  {"F32", 4}, {"F64", 8}, {"I64", 8},     {"U64", 8}};
  const auto found = kSizes.find(dtype);
  return found == kSizes.end() ? 0 : found->second;
}

// Reads an array of whole numbers that fit in 63 bits; false when it is not one.
bool ReadNumbers(const Json& json, std::vector<int64_t>& numbers) {
  if (!json.is_array()) return false;
  for (const Json& item : json) {
    if (!item.is_number_unsigned()) return false;
    const auto value = item.get<uint64_t>();
    if (value > INT64_MAX) return false;
    numbers.push_back(static_cast<int64_t>(value));
  }
  return true;
}

}  // namespace

absl::Status WriteSafetensors(const std::filesystem::path& path,
                              const std::vector<TensorToSave>& tensors,
                              const std::map<std::string, std::string>& metadata) {
  Json header = Json::object();
  header[std::string(kMetadata)] = metadata;
  uint64_t offset = 0;
  for (const TensorToSave& tensor : tensors) {
    const uint64_t end = offset + tensor.values.size_bytes();
    header[tensor.name] = {
        {"dtype", "F32"}, {"shape", tensor.shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump(-1, ' ', false, Json::error_handler_t::replace);
  text.resize((text.size() + 7) / 8 * 8, ' ');

  GW_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(path));
  const uint64_t length = text.size();
  GW_RETURN_IF_ERROR(file.Append(std::as_bytes(std::span(&length, 1))));
  GW_RETURN_IF_ERROR(file.Append(text));
  for (const TensorToSave& tensor : tensors) {
    GW_RETURN_IF_ERROR(file.Append(std::as_bytes(tensor.values)));
  }
  return file.Commit();
}

absl::StatusOr<SafetensorsFile> SafetensorsFile::Read(const std::filesystem::path& path) {
  GW_ASSIGN_OR_RETURN(InputFile input, InputFile::Open(path));
  SafetensorsFile file(std::move(input));
  const uint64_t size = file.size();
  if (size < kLengthBytes) {
    return ProtocolError("{}: {} bytes are too few for a safetensors file", file.path(), size);
  }
  uint64_t length = 0;
  GW_RETURN_IF_ERROR(file.file_.Read(0, std::as_writable_bytes(std::span(&length, 1))));
  if (length > kMaxHeaderBytes || length > size - kLengthBytes) {
    return ProtocolError("{}: header of {} bytes at offset 0 in a file of {}", file.path(), length,
                         size);
  }
  file.data_begin_ = kLengthBytes + length;
  std::string header(length, '\0');
  GW_RETURN_IF_ERROR(file.file_.Read(kLengthBytes, std::as_writable_bytes(std::span(header))));
  const uLong crc = crc32_z(0, reinterpret_cast<const Bytef*>(&length), kLengthBytes);
  file.header_crc32_ = static_cast<uint32_t>(
      crc32_z(crc, reinterpret_cast<const Bytef*>(header.data()), header.size()));
  GW_RETURN_IF_ERROR(file.ParseHeader(header));
  GW_RETURN_IF_ERROR(file.CheckLayout());
  return file;
}

absl::Status SafetensorsFile::ParseHeader(std::string_view header) {
  std::set<std::string> seen;
  std::string twice;
  const auto remember_names = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::key && depth == 1) {
      const auto name = parsed.get<std::string>();
      if (!seen.insert(name).second) twice = name;
    }
    return true;
  };
  const Json json = Json::parse(header, remember_names, /*allow_exceptions=*/false);
  if (!header.starts_with('{') || json.is_discarded() || !json.is_object()) {
    return ProtocolError("{}: the header at offset {} is not a JSON object", path(), kLengthBytes);
  }
  if (!twice.empty()) return ProtocolError("{}: tensor '{}' appears twice", path(), twice);

  for (const auto& [name, entry] : json.items()) {
    if (!entry.is_object()) return ProtocolError("{}: '{}' is not an object", path(), name);
    if (name == kMetadata) {
      for (const auto& [key, value] : entry.items()) {
        if (!value.is_string()) {
          return ProtocolError("{}: metadata '{}' is not a string", path(), key);
        }
        metadata_[key] = value.get<std::string>();
      }
      continue;
    }
    Tensor tensor;
    std::vector<int64_t> offsets;
    const auto dtype = entry.find("dtype");
    const auto shape = entry.find("shape");
    const auto data_offsets = entry.find("data_offsets");
    if (dtype == entry.end() || !dtype->is_string() || shape == entry.end() ||
        !ReadNumbers(*shape, tensor.shape) || data_offsets == entry.end() ||
        !ReadNumbers(*data_offsets, offsets) || offsets.size() != 2) {
      return ProtocolError("{}: tensor '{}' lacks a proper dtype, shape or data_offsets", path(),
                           name);
    }
    tensor.dtype = dtype->get<std::string>();
    tensor.begin = static_cast<uint64_t>(offsets[0]);
    tensor.end = static_cast<uint64_t>(offsets[1]);
    tensors_.emplace(name, std::move(tensor));
  }
  return absl::OkStatus();
}

absl::Status SafetensorsFile::CheckLayout() const {
  const uint64_t data_bytes = size() - data_begin_;
  std::vector<std::pair<const std::string*, const Tensor*>> by_offset;
  for (const auto& [name, tensor] : tensors_) {
    uint64_t expected = ElementBytes(tensor.dtype);
    if (expected == 0) {
      return ProtocolError("{}: tensor '{}' has the unknown type {}", path(), name, tensor.dtype);
    }
    for (const int64_t side : tensor.shape) {
      if (__builtin_mul_overflow(expected, static_cast<uint64_t>(side), &expected)) {
        return ProtocolError("{}: the shape of tensor '{}' overflows", path(), name);
      }
    }
    if (tensor.begin > tensor.end || tensor.end > data_bytes) {
      return ProtocolError("{}: tensor '{}' at [{}, {}) leaves the {} bytes of data", path(), name,
                           tensor.begin, tensor.end, data_bytes);
    }
    if (tensor.end - tensor.begin != expected) {
      return ProtocolError("{}: tensor '{}' has {} bytes, its shape [{}] of {} needs {}", path(),
                           name, tensor.end - tensor.begin, fmt::join(tensor.shape, ", "),
                           tensor.dtype, expected);
    }
    by_offset.emplace_back(&name, &tensor);
  }
  std::ranges::sort(by_offset, {}, [](const auto& item) {
    return std::pair(item.second->begin, item.second->end);
  });
  uint64_t filled = 0;
  for (const auto& [name, tensor] : by_offset) {
    if (tensor->begin != filled) {
      return ProtocolError("{}: tensor '{}' {} at offset {} of the data", path(), *name,
                           tensor->begin < filled ? "overlaps another" : "leaves a gap", filled);
    }
    filled = tensor->end;
  }
  if (filled != data_bytes) {
    return ProtocolError("{}: {} bytes of data, the tensors fill {}", path(), data_bytes, filled);
  }
  return absl::OkStatus();
}

std::vector<std::string> SafetensorsFile::names() const {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : tensors_) names.push_back(name);
  return names;
}

absl::Status SafetensorsFile::Check(const std::string& name,
                                    const std::vector<int64_t>& shape) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    return MakeError(absl::StatusCode::kNotFound, "{}: no tensor '{}'", path(), name);
  }
  const Tensor& tensor = found->second;
  if (tensor.dtype != "F32" || tensor.shape != shape) {
    return FailedPrecondition("{}: tensor '{}' is {} [{}], wanted F32 [{}]", path(), name,
                              tensor.dtype, fmt::join(tensor.shape, ", "), fmt::join(shape, ", "));
  }
  return absl::OkStatus();
}

absl::Status SafetensorsFile::Load(const std::string& name, const std::vector<int64_t>& shape,
                                   std::span<float> values) const {
  GW_RETURN_IF_ERROR(Check(name, shape));
  const Tensor& tensor = tensors_.at(name);
  if (tensor.end - tensor.begin != values.size_bytes()) {
    return InvalidArgument("{}: tensor '{}' has {} bytes, {} are wanted", path(), name,
                           tensor.end - tensor.begin, values.size_bytes());
  }
  return LoadRange(name, 0, values);
}

absl::Status SafetensorsFile::LoadRange(const std::string& name, int64_t begin,
                                        std::span<float> values) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    return MakeError(absl::StatusCode::kNotFound, "{}: no tensor '{}'", path(), name);
  }
  const uint64_t elements = (found->second.end - found->second.begin) / sizeof(float);
  const auto first = static_cast<uint64_t>(begin);
  if (begin < 0 || first > elements || values.size() > elements - first) {
    return MakeError(absl::StatusCode::kOutOfRange, "{}: [{}, {}) leaves the {} of tensor '{}'",
                     path(), begin, first + values.size(), elements, name);
  }
  return file_.Read(data_begin_ + found->second.begin + first * sizeof(float),
                    std::as_writable_bytes(values));
}

}  // namespace gradwire::ps
