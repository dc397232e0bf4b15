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

#include "transport/file_io.h"
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

// A file of which the header is in memory, every length and offset of it checked; tensors are read
// when asked for.
class SafetensorsFile {
 public:
  // NotFound without the file; DataLoss, with what and where, unless the header is valid JSON with
  // unique names, known types, shapes that match their bytes, and tensors that fill the data
  // exactly, none overlapping another.
  static absl::StatusOr<SafetensorsFile> Read(const std::filesystem::path& path);

  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::string& path() const { return file_.path(); }
  uint64_t size() const { return file_.size(); }  // bytes
  // Of everything before the tensors.
  uint32_t header_crc32() const { return header_crc32_; }
  std::vector<std::string> names() const;
  // Copies a float32 tensor. NotFound without it; FailedPrecondition for another type or shape.
  absl::Status Load(const std::string& name, const std::vector<int64_t>& shape,
                    std::span<float> values) const;
  // Like Load(), for elements from `begin` on of a tensor that was found to be float32.
  absl::Status LoadRange(const std::string& name, int64_t begin, std::span<float> values) const;
  // OK for a float32 tensor of this shape, else as Load().
  absl::Status Check(const std::string& name, const std::vector<int64_t>& shape) const;

 private:
  explicit SafetensorsFile(InputFile file) : file_(std::move(file)) {}
  struct Tensor {
    std::string dtype;
    std::vector<int64_t> shape;
    uint64_t begin = 0;  // bytes from the start of the data
    uint64_t end = 0;
  };
  absl::Status ParseHeader(std::string_view header);
  absl::Status CheckLayout() const;

  InputFile file_;
  uint32_t header_crc32_ = 0;
  uint64_t data_begin_ = 0;
  std::map<std::string, std::string> metadata_;
  std::map<std::string, Tensor> tensors_;
};

}  // namespace gradwire::ps
