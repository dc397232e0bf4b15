#include "examples/training/checkpoint.h"

#include <gmock/gmock.h>

#include "examples/training/checksum.h"
#include "tests/unit/training/temporary_folder.h"

namespace gradwire::training {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class CheckpointTest : public ::testing::Test {
 protected:
  static std::unique_ptr<Model<float>> MakeMlp(uint64_t seed) {
    auto model = *MakeModel<float>({.kind = "mlp", .hidden = {3}}, 2, 2, 10);
    model->Initialize(seed);
    return model;
  }
  absl::Status Save(int64_t step, int keep, Model<float>& model) {
    return SaveCheckpoint(folder_.path(), keep, {.step = step, .epoch = step / 2}, identity_, model,
                          *optimizer_);
  }
  const RunIdentity identity_ = {{"model", "mlp"}, {"seed", "1"}};
  TemporaryFolder folder_;
  std::unique_ptr<Model<float>> model_ = MakeMlp(1);
  std::unique_ptr<ps::Optimizer> optimizer_ =
      *ps::Optimizer::Make({.name = "adam"}, static_cast<int64_t>(model_->values().size()));
};

TEST_F(CheckpointTest, RestoresAllOfIt) {
  optimizer_->states()[0].values.setRandom();
  optimizer_->states()[1].values.setRandom();
  ASSERT_TRUE(Save(6, 3, *model_).ok());

  const auto model = MakeMlp(2);
  auto optimizer =
      *ps::Optimizer::Make({.name = "adam"}, static_cast<int64_t>(model_->values().size()));
  const auto position = LoadCheckpoint(folder_.path(), identity_, *model, *optimizer);
  ASSERT_TRUE(position.ok()) << position.status();
  EXPECT_EQ(position->step, 6);
  EXPECT_EQ(position->epoch, 3);
  EXPECT_EQ(ParametersChecksum(*model), ParametersChecksum(*model_));
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_TRUE((optimizer->states()[i].values == optimizer_->states()[i].values).all());
  }
}

TEST_F(CheckpointTest, KeepsTheNewestByNumber) {
  folder_.Write("step-x.safetensors", "");
  folder_.Write("notes", "");
  for (const int64_t step : {8, 9, 10, 11}) ASSERT_TRUE(Save(step, 2, *model_).ok());
  EXPECT_THAT(folder_.Names(), ElementsAre("notes", "step-10.safetensors", "step-11.safetensors",
                                           "step-x.safetensors"));
  EXPECT_EQ(LoadCheckpoint(folder_.path(), identity_, *model_, *optimizer_)->step, 11);
  const auto file = folder_.path() / "step-10.safetensors";
  EXPECT_EQ(LoadCheckpoint(file, identity_, *model_, *optimizer_)->step, 10);
}

TEST_F(CheckpointTest, AnotherRunIsNamed) {
  ASSERT_TRUE(Save(1, 1, *model_).ok());
  const auto error =
      LoadCheckpoint(folder_.path(), {{"model", "cnn"}, {"seed", "1"}}, *model_, *optimizer_);
  EXPECT_TRUE(absl::IsInvalidArgument(error.status()));
  EXPECT_THAT(Message(error.status()), AllOf(HasSubstr("model 'mlp'"), HasSubstr("'cnn'")));
}

TEST_F(CheckpointTest, NothingToResumeFrom) {
  const auto status = LoadCheckpoint(folder_.path(), identity_, *model_, *optimizer_).status();
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
}

// The checksum that a summary prints can be recomputed from a checkpoint with sha256sum.
TEST_F(CheckpointTest, ChecksumIsThatOfTheFirstTensors) {
  ASSERT_TRUE(Save(1, 1, *model_).ok());
  const std::string bytes = folder_.Read("step-1.safetensors");
  const size_t parameter_bytes = model_->values().size_bytes();
  const size_t data_begin = bytes.size() - 3 * parameter_bytes;  // parameters, mean, square
  EXPECT_EQ(Hex(ChecksumOf(std::string_view(bytes).substr(data_begin, parameter_bytes))),
            Hex(ParametersChecksum(*model_)));
}

}  // namespace
}  // namespace gradwire::training
