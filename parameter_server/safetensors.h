// The safetensors format (https://github.com/huggingface/safetensors, "Format"): 8 bytes with the
// little-endian length of a JSON header, the header ({name: {dtype, shape, data_offsets}} and
// "__metadata__" of strings), then the tensors, row-major and little-endian, without gaps.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "transport/status.h"

namespace gradwire::ps {

// A float32 tensor to write.
struct TensorToSave {
  std::string name;
  std::vector<int64_t> shape;
  std::span<const float> values;
};

// Writes atomically. The header is padded with spaces so that the tensors start at a multiple of 8.
absl::Status WriteSafetensors(const std::filesystem::path& path,
                              const std::vector<TensorToSave>& tensors,
                              const std::map<std::string, std::string>& metadata);

// A whole file in memory, every length and offset of it checked.
class SafetensorsFile {
 public:
  // NotFound without the file; DataLoss, with what and where, unless the header is valid JSON with
  // unique names, known types, shapes that match their bytes, and tensors that fill the data
  // exactly, none overlapping another.
  static absl::StatusOr<SafetensorsFile> Read(const std::filesystem::path& path);

  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  std::vector<std::string> names() const;
  // Copies a float32 tensor. NotFound without it; FailedPrecondition for another type or shape.
  absl::Status Load(const std::string& name, const std::vector<int64_t>& shape,
                    std::span<float> values) const;

 private:
  struct Tensor {
    std::string dtype;
    std::vector<int64_t> shape;
    uint64_t begin = 0;  // bytes from the start of the data
    uint64_t end = 0;
  };
  absl::Status ParseHeader(std::string_view header);
  absl::Status CheckLayout() const;

  std::string path_;
  std::vector<uint8_t> bytes_;
  uint64_t data_begin_ = 0;
  std::map<std::string, std::string> metadata_;
  std::map<std::string, Tensor> tensors_;
};

}  // namespace gradwire::ps
