#include "examples/training/idx.h"

#include <algorithm>
#include <array>
#include <span>
#include <string>

#include "examples/training/dataset.h"
#include "transport/file_io.h"

namespace gradwire::training {
namespace {

constexpr uint64_t kMaxFileBytes = uint64_t{1} << 30;
constexpr uint32_t kMaxSide = 1024;  // pixels

uint32_t BigEndian32(std::span<const uint8_t> bytes, size_t offset) {
  return static_cast<uint32_t>(bytes[offset]) << 24 |
         static_cast<uint32_t>(bytes[offset + 1]) << 16 |
         static_cast<uint32_t>(bytes[offset + 2]) << 8 | bytes[offset + 3];
}

struct IdxFile {
  std::vector<uint8_t> bytes;
  std::vector<uint32_t> dimensions;
  size_t header_bytes = 0;
};

// Reads a file and checks its header against its real size.
absl::StatusOr<IdxFile> ReadIdx(const std::filesystem::path& path, size_t dimension_count) {
  const std::string name = path.string();
  IdxFile file;
  GW_ASSIGN_OR_RETURN(file.bytes, ReadFile(path, kMaxFileBytes));
  if (IsGzip(file.bytes)) {
    GW_ASSIGN_OR_RETURN(file.bytes, Gunzip(file.bytes, kMaxFileBytes, name));
  }
  file.header_bytes = 4 + 4 * dimension_count;
  if (file.bytes.size() < file.header_bytes) {
    return ProtocolError("{}: {} bytes are less than the IDX header of {}", name, file.bytes.size(),
                         file.header_bytes);
  }
  const uint32_t magic = BigEndian32(file.bytes, 0);
  const uint32_t expected = 0x0800u | static_cast<uint32_t>(dimension_count);
  if (magic != expected) {
    return ProtocolError("{}: magic number {:#010x} at offset 0, expected {:#010x} for IDX {}",
                         name, magic, expected, dimension_count == 1 ? "labels" : "images");
  }
  uint64_t elements = 1;
  for (size_t i = 0; i < dimension_count; ++i) {
    const size_t offset = 4 + 4 * i;
    const uint32_t dimension = BigEndian32(file.bytes, offset);
    const bool is_side = i > 0;
    if (dimension == 0) return ProtocolError("{}: dimension 0 at offset {}", name, offset);
    if (is_side && dimension > kMaxSide) {
      return ProtocolError("{}: image side of {} pixels at offset {} exceeds {}", name, dimension,
                           offset, kMaxSide);
    }
    elements *= dimension;  // below 2^52: one count of 32 bits, two sides of 10
    file.dimensions.push_back(dimension);
  }
  const uint64_t expected_bytes = file.header_bytes + elements;
  if (file.bytes.size() != expected_bytes) {
    return ProtocolError("{}: {} at offset {}: the header asks for {} bytes in all", name,
                         file.bytes.size() < expected_bytes ? "ends early" : "goes on",
                         std::min<uint64_t>(file.bytes.size(), expected_bytes), expected_bytes);
  }
  return file;
}

}  // namespace

absl::StatusOr<IdxImages> ReadIdxImages(const std::filesystem::path& path) {
  GW_ASSIGN_OR_RETURN(IdxFile file, ReadIdx(path, 3));
  IdxImages images;
  images.count = file.dimensions[0];
  images.height = static_cast<int>(file.dimensions[1]);
  images.width = static_cast<int>(file.dimensions[2]);
  images.pixels.assign(file.bytes.begin() + static_cast<ptrdiff_t>(file.header_bytes),
                       file.bytes.end());
  return images;
}

absl::StatusOr<std::vector<uint8_t>> ReadIdxLabels(const std::filesystem::path& path) {
  GW_ASSIGN_OR_RETURN(IdxFile file, ReadIdx(path, 1));
  const auto begin = file.bytes.begin() + static_cast<ptrdiff_t>(file.header_bytes);
  const auto bad =
      std::find_if(begin, file.bytes.end(), [](uint8_t label) { return label >= kClasses; });
  if (bad != file.bytes.end()) {
    return ProtocolError("{}: label {} at offset {} is not 0..9", path.string(), *bad,
                         bad - file.bytes.begin());
  }
  return std::vector<uint8_t>(begin, file.bytes.end());
}

}  // namespace gradwire::training
