#include "examples/training/dataset.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <set>

#include "tests/unit/training/temporary_folder.h"

namespace gradwire::training {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(DatasetTest, DigitsAreWholeAndSplitOnce) {
  const auto digits = LoadDataset("digits");
  ASSERT_TRUE(digits.ok()) << digits.status();
  EXPECT_EQ(digits->train.size(), 1438);
  EXPECT_EQ(digits->test.size(), 359);
  ASSERT_EQ(digits->features(), 64);
  ASSERT_EQ(digits->train.pixels.size(), 1438u * 64);
  EXPECT_EQ(*std::ranges::max_element(digits->train.pixels), 16);

  // UCI's own description of the file counts the samples per class.
  std::array<int, kClasses> counts{};
  std::set<std::string> images;
  for (const Split* split : {&digits->train, &digits->test}) {
    for (int64_t i = 0; i < split->size(); ++i) {
      ++counts[split->labels[static_cast<size_t>(i)]];
      images.emplace(split->pixels.begin() + i * 64, split->pixels.begin() + (i + 1) * 64);
    }
  }
  EXPECT_THAT(counts, ::testing::ElementsAre(178, 182, 177, 183, 181, 182, 181, 179, 174, 180));
  EXPECT_EQ(images.size(), 1797u) << "an image is in both parts or twice in one";
  EXPECT_EQ(LoadDigits()->test.pixels, digits->test.pixels);
}

TEST(DatasetTest, GatherScalesTheRightSamples) {
  Dataset dataset;
  dataset.height = 1;
  dataset.width = 2;
  dataset.max_pixel = 16;
  const Split split{.pixels = {0, 16, 8, 4, 1, 2}, .labels = {7, 8, 9}};
  Eigen::MatrixXf inputs;
  std::vector<uint8_t> labels;
  Gather(dataset, split, std::array<uint32_t, 2>{2, 0}, inputs, labels);
  EXPECT_EQ(inputs, (Eigen::MatrixXf(2, 2) << 0.0625f, 0, 0.125f, 1).finished());
  EXPECT_THAT(labels, ::testing::ElementsAre(9, 7));
}

TEST(DatasetTest, IdxFolderInAllSpellings) {
  const TemporaryFolder folder;
  folder.Write("train-images-idx3-ubyte", Idx(0x803, {2, 1, 2}, "abcd"));
  folder.Write("train-labels.idx1-ubyte", Idx(0x801, {2}, "\1\2"));
  folder.Write("t10k-images-idx3-ubyte.gz", Gzip(Idx(0x803, {1, 1, 2}, "ef")));
  folder.Write("t10k-labels.idx1-ubyte.gz", Gzip(Idx(0x801, {1}, "\3")));
  const auto dataset = LoadDataset(folder.path().string());
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_EQ(dataset->train.size(), 2);
  EXPECT_EQ(dataset->test.size(), 1);
  EXPECT_EQ(dataset->name, "IDX 1x2, 2 + 1");
}

TEST(DatasetTest, IdxFolderErrorsSayWhat) {
  const TemporaryFolder folder;
  EXPECT_THAT(Message(LoadDataset("/nowhere/at/all").status()),
              AllOf(HasSubstr("/nowhere/at/all"), HasSubstr("no such folder")));
  folder.Write("train-images-idx3-ubyte", Idx(0x803, {2, 1, 2}, "abcd"));
  const std::string path = folder.path().string();
  EXPECT_THAT(Message(LoadDataset(path).status()), HasSubstr("train-labels-idx1-ubyte"));
  folder.Write("train-labels-idx1-ubyte", Idx(0x801, {3}, "\1\2\3"));
  EXPECT_THAT(Message(LoadDataset(path).status()),
              AllOf(HasSubstr("2 images"), HasSubstr("3 labels")));
  folder.Write("train-labels-idx1-ubyte", Idx(0x801, {2}, "\1\2"));
  folder.Write("t10k-images-idx3-ubyte", Idx(0x803, {1, 2, 2}, "abcd"));
  folder.Write("t10k-labels-idx1-ubyte", Idx(0x801, {1}, "\1"));
  EXPECT_THAT(Message(LoadDataset(path).status()), AllOf(HasSubstr("2x2"), HasSubstr("1x2")));
}

}  // namespace
}  // namespace gradwire::training
