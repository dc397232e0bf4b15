#include "examples/training/idx.h"

#include <gmock/gmock.h>

#include "tests/unit/training/temporary_folder.h"

namespace gradwire::training {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint32_t kImages = 0x00000803;
constexpr uint32_t kLabels = 0x00000801;

class IdxTest : public ::testing::Test {
 protected:
  // The error of reading `bytes` as images or labels.
  std::string ImagesError(std::string_view bytes) {
    const auto images = ReadIdxImages(folder_.Write("images", bytes));
    return images.ok() ? "no error" : Message(images.status());
  }
  std::string LabelsError(std::string_view bytes) {
    const auto labels = ReadIdxLabels(folder_.Write("labels", bytes));
    return labels.ok() ? "no error" : Message(labels.status());
  }
  TemporaryFolder folder_;
};

TEST_F(IdxTest, ReadsImagesPlainAndPacked) {
  const std::string file = Idx(kImages, {2, 2, 3}, "abcdefghijkl");
  for (const std::string& bytes :
       {file, Gzip(file), Gzip(file.substr(0, 9)) + Gzip(file.substr(9))}) {
    const auto images = ReadIdxImages(folder_.Write("images", bytes));
    ASSERT_TRUE(images.ok()) << images.status();
    EXPECT_EQ(images->count, 2);
    EXPECT_EQ(images->height, 2);
    EXPECT_EQ(images->width, 3);
    EXPECT_EQ(std::string(images->pixels.begin(), images->pixels.end()), "abcdefghijkl");
  }
}

TEST_F(IdxTest, ReadsLabels) {
  const auto labels =
      ReadIdxLabels(folder_.Write("l", Idx(kLabels, {3}, std::string("\0\5\11", 3))));
  ASSERT_TRUE(labels.ok()) << labels.status();
  EXPECT_THAT(*labels, ElementsAre(0, 5, 9));
}

TEST_F(IdxTest, NamesFileAndPlaceOfWhatIsWrong) {
  EXPECT_THAT(ImagesError(""), AllOf(HasSubstr("images: 0 bytes"), HasSubstr("header of 16")));
  EXPECT_THAT(ImagesError(Idx(kImages, {1, 2}, "")), HasSubstr("12 bytes"));
  EXPECT_THAT(ImagesError(Idx(kLabels, {1, 1, 1}, "a")),
              AllOf(HasSubstr("0x00000801 at offset 0"), HasSubstr("0x00000803")));
  EXPECT_THAT(ImagesError(Idx(kImages, {2, 2, 2}, "abcdefg")),
              AllOf(HasSubstr("ends early at offset 23"), HasSubstr("24 bytes")));
  EXPECT_THAT(ImagesError(Idx(kImages, {1, 2, 2}, "abcde")), HasSubstr("goes on at offset 20"));
  EXPECT_THAT(ImagesError(Idx(kImages, {0, 2, 2}, "")), HasSubstr("dimension 0 at offset 4"));
  EXPECT_THAT(ImagesError(Idx(kImages, {1, 0, 2}, "")), HasSubstr("dimension 0 at offset 8"));
  EXPECT_THAT(LabelsError(Idx(kLabels, {2}, "\1\12")), HasSubstr("label 10 at offset 9"));
}

TEST_F(IdxTest, HugeDimensionsAllocateNothing) {
  EXPECT_THAT(ImagesError(Idx(kImages, {1, 0xffffffff, 1}, "a")),
              HasSubstr("4294967295 pixels at offset 8"));
  EXPECT_THAT(ImagesError(Idx(kImages, {0xffffffff, 1024, 1024}, "a")), HasSubstr("ends early"));
  EXPECT_THAT(LabelsError(Idx(kLabels, {0xffffffff}, "a")), HasSubstr("ends early"));
}

TEST_F(IdxTest, DamagedGzipIsAnError) {
  const std::string packed = Gzip(Idx(kImages, {1, 8, 8}, std::string(64, 'x')));
  EXPECT_THAT(ImagesError(packed.substr(0, packed.size() - 6)), HasSubstr("end early"));
  std::string damaged = packed;
  damaged[damaged.size() - 5] ^= 1;  // in the checksum
  EXPECT_THAT(ImagesError(damaged), HasSubstr("damaged gzip data"));
  EXPECT_THAT(ImagesError(packed + "rest"), HasSubstr("damaged gzip data"));
}

TEST_F(IdxTest, MissingFileAndFolder) {
  EXPECT_TRUE(absl::IsNotFound(ReadIdxImages(folder_.path() / "absent").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(ReadIdxImages(folder_.path()).status()));
}

}  // namespace
}  // namespace gradwire::training
