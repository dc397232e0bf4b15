#include "examples/training/dataset.h"

#include <algorithm>
#include <charconv>
#include <numeric>

#include "examples/training/idx.h"
#include "examples/training/random.h"
#include "transport/file_io.h"

// The data set as it stands in the repository, gzip-compressed CSV, between two symbols.
asm(R"(
  .pushsection .rodata
  .global gradwire_digits_begin
  .hidden gradwire_digits_begin
gradwire_digits_begin:
  .incbin ")" GRADWIRE_DIGITS_FILE R"("
  .global gradwire_digits_end
  .hidden gradwire_digits_end
gradwire_digits_end:
  .popsection
)");
extern "C" const uint8_t gradwire_digits_begin[];
extern "C" const uint8_t gradwire_digits_end[];

namespace gradwire::training {
namespace {

constexpr int kDigitSide = 8;
constexpr int kDigitMaxPixel = 16;
constexpr uint64_t kDigitsMaxBytes = 1 << 20;
// One draw of many, independent of --seed; docs/training.md says how much the draw matters.
constexpr uint64_t kSplitSeed = 42;

// Appends one line "p,p,...,p,label" to `split`; false when it is not one.
bool ParseDigit(std::string_view line, Split& split) {
  constexpr int kFields = kDigitSide * kDigitSide + 1;
  const char* at = line.data();
  const char* const end = at + line.size();
  for (int field = 0; field < kFields; ++field) {
    int value = -1;
    const auto [next, error] = std::from_chars(at, end, value);
    const bool is_label = field == kFields - 1;
    if (error != std::errc() || value < 0 || value > (is_label ? kClasses - 1 : kDigitMaxPixel) ||
        (next == end) != is_label || (!is_label && *next != ',')) {
      return false;
    }
    (is_label ? split.labels : split.pixels).push_back(static_cast<uint8_t>(value));
    at = next + 1;
  }
  return true;
}

void AppendSample(const Split& from, uint32_t sample, size_t features, Split& to) {
  const auto pixels = from.pixels.begin() + static_cast<ptrdiff_t>(sample * features);
  to.pixels.insert(to.pixels.end(), pixels, pixels + static_cast<ptrdiff_t>(features));
  to.labels.push_back(from.labels[sample]);
}

// The file of `part` ("train", "t10k") and `kind` ("images", "labels") under any of its names.
absl::StatusOr<std::filesystem::path> FindIdxFile(const std::filesystem::path& folder,
                                                  std::string_view part, std::string_view kind) {
  const int dimensions = kind == "images" ? 3 : 1;
  for (const char separator : {'-', '.'}) {
    for (const std::string_view suffix : {"", ".gz"}) {
      std::error_code error;
      const auto path =
          folder / fmt::format("{}-{}{}idx{}-ubyte{}", part, kind, separator, dimensions, suffix);
      if (std::filesystem::is_regular_file(path, error)) return path;
    }
  }
  return MakeError(
      absl::StatusCode::kNotFound,
      "{}: no file {}-{}-idx{}-ubyte, plain or .gz; examples/fetch_mnist.sh gets MNIST",
      folder.string(), part, kind, dimensions);
}

absl::Status LoadIdxSplit(const std::filesystem::path& folder, std::string_view part,
                          Dataset& dataset, Split& split) {
  GW_ASSIGN_OR_RETURN(const auto images_path, FindIdxFile(folder, part, "images"));
  GW_ASSIGN_OR_RETURN(const auto labels_path, FindIdxFile(folder, part, "labels"));
  GW_ASSIGN_OR_RETURN(IdxImages images, ReadIdxImages(images_path));
  GW_ASSIGN_OR_RETURN(split.labels, ReadIdxLabels(labels_path));
  if (images.count != split.size()) {
    return ProtocolError("{} holds {} images, {} holds {} labels", images_path.string(),
                         images.count, labels_path.string(), split.size());
  }
  if (dataset.height == 0) {
    dataset.height = images.height;
    dataset.width = images.width;
  } else if (images.height != dataset.height || images.width != dataset.width) {
    return ProtocolError("{}: images of {}x{} pixels, those to train with have {}x{}",
                         images_path.string(), images.height, images.width, dataset.height,
                         dataset.width);
  }
  split.pixels = std::move(images.pixels);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Dataset> LoadDigits() {
  const std::span<const uint8_t> packed(gradwire_digits_begin, gradwire_digits_end);
  GW_ASSIGN_OR_RETURN(const auto bytes, Gunzip(packed, kDigitsMaxBytes, "built-in digits"));
  std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  Split all;
  while (!text.empty()) {
    const size_t newline = std::min(text.find('\n'), text.size());
    if (!ParseDigit(text.substr(0, newline), all)) {
      return InternalError("built-in digits: line {} is damaged", all.labels.size() + 1);
    }
    text.remove_prefix(std::min(newline + 1, text.size()));
  }
  Dataset dataset{.name = "digits",
                  .height = kDigitSide,
                  .width = kDigitSide,
                  .max_pixel = kDigitMaxPixel,
                  .train = {},
                  .test = {}};
  std::vector<uint32_t> order(all.labels.size());
  std::iota(order.begin(), order.end(), 0u);
  Random random(kSplitSeed);
  Shuffle(std::span(order), random);
  const size_t test_begin = order.size() - order.size() / 5;
  for (size_t i = 0; i < order.size(); ++i) {
    AppendSample(all, order[i], static_cast<size_t>(dataset.features()),
                 i < test_begin ? dataset.train : dataset.test);
  }
  return dataset;
}

absl::StatusOr<Dataset> LoadIdxFolder(const std::filesystem::path& folder) {
  std::error_code error;
  if (!std::filesystem::is_directory(folder, error)) {
    return MakeError(absl::StatusCode::kNotFound,
                     "--data {}: no such folder; give 'digits' or a folder with IDX files",
                     folder.string());
  }
  Dataset dataset;
  dataset.max_pixel = 255;
  GW_RETURN_IF_ERROR(LoadIdxSplit(folder, "train", dataset, dataset.train));
  GW_RETURN_IF_ERROR(LoadIdxSplit(folder, "t10k", dataset, dataset.test));
  dataset.name = fmt::format("IDX {}x{}, {} + {}", dataset.height, dataset.width,
                             dataset.train.size(), dataset.test.size());
  return dataset;
}

absl::StatusOr<Dataset> LoadDataset(std::string_view digits_or_folder) {
  if (digits_or_folder == "digits") return LoadDigits();
  return LoadIdxFolder(std::filesystem::path(digits_or_folder));
}

void Gather(const Dataset& dataset, const Split& split, std::span<const uint32_t> samples,
            Eigen::MatrixXf& inputs, std::vector<uint8_t>& labels) {
  using PixelMap = Eigen::Map<const Eigen::Matrix<uint8_t, Eigen::Dynamic, 1>>;
  const Eigen::Index features = dataset.features();
  const float scale = 1.0f / static_cast<float>(dataset.max_pixel);
  inputs.resize(features, static_cast<Eigen::Index>(samples.size()));
  labels.resize(samples.size());
  for (size_t i = 0; i < samples.size(); ++i) {
    const PixelMap pixels(split.pixels.data() + samples[i] * static_cast<size_t>(features),
                          features);
    inputs.col(static_cast<Eigen::Index>(i)) = pixels.cast<float>() * scale;
    labels[i] = split.labels[samples[i]];
  }
}

}  // namespace gradwire::training
