// Labelled grey images of ten classes, in memory.
#pragma once

#include <Eigen/Core>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "transport/status.h"

namespace gradwire::training {

inline constexpr int kClasses = 10;

struct Split {
  std::vector<uint8_t> pixels;  // sample by sample, each row by row
  std::vector<uint8_t> labels;  // 0..9
  int64_t size() const { return static_cast<int64_t>(labels.size()); }
};

struct Dataset {
  std::string name;  // what it is, without where it lies: "digits", "IDX 28x28, 60000 + 10000"
  int height = 0;
  int width = 0;
  int max_pixel = 0;  // white; models see pixel / max_pixel
  Split train;
  Split test;

  int features() const { return height * width; }
};

// The 1,797 digits of 8x8 pixels that are part of this library (examples/data/README.md). A fifth,
// chosen by a shuffle with a fixed seed, is the test set: 1,438 to train, 359 to test.
absl::StatusOr<Dataset> LoadDigits();
// {train,t10k}-{images-idx3,labels-idx1}-ubyte in `folder`, plain or gzip, with or without ".gz",
// also spelt {train,t10k}-{images.idx3,labels.idx1}-ubyte.
absl::StatusOr<Dataset> LoadIdxFolder(const std::filesystem::path& folder);
// "digits" or a folder.
absl::StatusOr<Dataset> LoadDataset(std::string_view digits_or_folder);

// Copies samples into `inputs` (features x samples, 0..1) and `labels`.
void Gather(const Dataset& dataset, const Split& split, std::span<const uint32_t> samples,
            Eigen::MatrixXf& inputs, std::vector<uint8_t>& labels);

}  // namespace gradwire::training
