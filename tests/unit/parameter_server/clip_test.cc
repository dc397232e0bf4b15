#include "parameter_server/clip.h"

#include <gmock/gmock.h>

#include <cmath>
#include <cstring>

namespace gradwire::ps {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(ClipTest, SquaredNorm) {
  EXPECT_EQ(SquaredNorm({}), 0);
  EXPECT_EQ(SquaredNorm(std::vector<float>{3, -4}), 25);
  // Summed in float32 this would be infinite.
  EXPECT_NEAR(SquaredNorm(std::vector<float>{3e30f, 4e30f}) / 25e60, 1, 1e-6);
  std::vector<float> ones(1'000'003, 1.0f);
  EXPECT_EQ(SquaredNorm(ones), 1'000'003);
}

TEST(ClipTest, SameBitsAtEveryAddress) {
  std::vector<float> values(1000);
  for (size_t i = 0; i < values.size(); ++i) values[i] = std::sin(static_cast<float>(i)) * 1e3f;
  const double expected = SquaredNorm(values);
  for (size_t shift = 1; shift < 16; ++shift) {
    std::vector<float> moved(shift + values.size());
    std::memcpy(moved.data() + shift, values.data(), values.size() * sizeof(float));
    EXPECT_EQ(SquaredNorm(std::span(moved).subspan(shift)), expected) << shift;
  }
}

TEST(ClipTest, ScaleMeetsTheLimit) {
  EXPECT_EQ(ClipScale(25, 5), 1.0f);
  EXPECT_EQ(ClipScale(25, 6), 1.0f);
  EXPECT_EQ(ClipScale(25, 2.5), 0.5f);
  EXPECT_EQ(ClipScale(0, 1), 1.0f);
  EXPECT_EQ(ClipScale(INFINITY, 1), 1.0f);
  EXPECT_EQ(ClipScale(NAN, 1), 1.0f);
  std::vector<float> values = {3, -4};
  Scale(values, ClipScale(SquaredNorm(values), 2.5));
  EXPECT_THAT(values, ElementsAre(1.5f, -2.0f));
}

TEST(ClipTest, Values) {
  std::vector<float> values = {-3, -1, -0.5f, 0, 0.5f, 1, 3, INFINITY, -INFINITY, NAN};
  ClipValues(values, 1);
  EXPECT_TRUE(std::isnan(values.back()));
  values.pop_back();
  EXPECT_THAT(values, ElementsAre(-1, -1, -0.5f, 0, 0.5f, 1, 1, 1, -1));
}

TEST(ClipTest, RefusalsNameTheFlag) {
  EXPECT_TRUE(Validate(ClipOptions()).ok());
  EXPECT_TRUE(Validate(ClipOptions{.norm = 1, .value = 0.5}).ok());
  for (const double bad : {-1.0, static_cast<double>(NAN), static_cast<double>(INFINITY)}) {
    EXPECT_THAT(Message(Validate(ClipOptions{.norm = bad})), HasSubstr("--clip-norm"));
    EXPECT_THAT(Message(Validate(ClipOptions{.value = bad})), HasSubstr("--clip-value"));
  }
}

}  // namespace
}  // namespace gradwire::ps
