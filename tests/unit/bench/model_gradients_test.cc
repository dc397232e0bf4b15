#include "bench/model_gradients.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

namespace gradwire::bench {
namespace {

struct Known {
  std::string_view name;
  size_t tensors;
  int64_t parameters;
  std::string_view first, last;  // in backward order
};

TEST(ModelGradients, HaveTheKnownTotals) {
  for (const Known& known : {Known{"resnet50", 161, 25'557'032, "fc.bias", "conv1.weight"},
                             Known{"bert-base", 199, 109'482'240, "pooler.dense.bias",
                                   "embeddings.word_embeddings.weight"},
                             Known{"gpt2", 148, 124'439'808, "ln_f.bias", "wte.weight"}}) {
    const auto gradients = MakeModelGradients(known.name);
    ASSERT_TRUE(gradients.ok()) << gradients.status();
    EXPECT_EQ(gradients->size(), known.tensors) << known.name;
    int64_t total = 0;
    std::set<std::string> names;
    for (const Gradient& gradient : *gradients) {
      EXPECT_GT(gradient.size(), 0) << gradient.name;
      EXPECT_TRUE(names.insert(gradient.name).second) << gradient.name << " twice";
      total += gradient.size();
    }
    EXPECT_EQ(total, known.parameters) << known.name;
    EXPECT_EQ(gradients->front().name, known.first);
    EXPECT_EQ(gradients->back().name, known.last);
  }
}

TEST(ModelGradients, HaveTheShapesOfTheArchitecture) {
  const auto gradients = *MakeModelGradients("resnet50");
  const auto shape = [&](std::string_view name) {
    for (const Gradient& gradient : gradients) {
      if (gradient.name == name) return gradient.shape;
    }
    return std::vector<int64_t>();
  };
  EXPECT_THAT(shape("conv1.weight"), testing::ElementsAre(64, 3, 7, 7));
  EXPECT_THAT(shape("layer1.0.downsample.0.weight"), testing::ElementsAre(256, 64, 1, 1));
  EXPECT_THAT(shape("layer4.2.conv2.weight"), testing::ElementsAre(512, 512, 3, 3));
  EXPECT_THAT(shape("fc.weight"), testing::ElementsAre(1000, 2048));
}

TEST(ModelGradients, AnotherNameIsAnErrorThatListsThem) {
  const auto gradients = MakeModelGradients("vgg16");
  EXPECT_THAT(Message(gradients.status()), testing::HasSubstr("resnet50, bert-base, gpt2"));
  for (const std::string_view name : ModelNames()) EXPECT_TRUE(MakeModelGradients(name).ok());
}

}  // namespace
}  // namespace gradwire::bench
