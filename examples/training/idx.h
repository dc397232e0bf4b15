// IDX, the format in which MNIST is published (http://yann.lecun.com/exdb/mnist): a big-endian
// header (two zero bytes, element type 8 = unsigned byte, number of dimensions, then each dimension
// as 32 bits), then the elements row by row. Plain or gzip, told apart by content.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "transport/status.h"

namespace gradwire::training {

struct IdxImages {
  int64_t count = 0;
  int height = 0;               // 1..1024
  int width = 0;                // 1..1024
  std::vector<uint8_t> pixels;  // count * height * width
};

// Errors name the file, what was expected and the offset at which something else stood.
absl::StatusOr<IdxImages> ReadIdxImages(const std::filesystem::path& path);
// Labels 0..9.
absl::StatusOr<std::vector<uint8_t>> ReadIdxLabels(const std::filesystem::path& path);

}  // namespace gradwire::training
