#include "examples/training/progress.h"

#include <gmock/gmock.h>

#include <sstream>
#include <vector>

namespace gradwire::training {
namespace {

std::vector<std::string> Lines(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> lines;
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

TEST(ProgressTest, BarFitsItsColumns) {
  const std::string half = DrawBar("epoch 1/2", 0.5, "loss 0.1", 79);
  EXPECT_EQ(half.size(), 79u);
  EXPECT_THAT(half, ::testing::StartsWith("epoch 1/2 [##########.........]  50% loss 0.1 "));
  for (const double done : {-1.0, 0.0, 0.999, 1.0, 2.0}) {
    for (const int columns : {0, 1, 20, 79}) {
      EXPECT_EQ(DrawBar("epoch", done, std::string(100, 'x'), columns).size(),
                static_cast<size_t>(columns));
    }
  }
}

TEST(ProgressTest, NoBarWithoutATerminal) {
  std::FILE* file = std::tmpfile();
  {
    Progress progress(file);
    progress.Update("epoch", 0.5, "");
    progress.Line("a line");
  }
  std::rewind(file);
  char text[32] = {};
  EXPECT_EQ(std::fread(text, 1, sizeof(text), file), 7u);
  EXPECT_STREQ(text, "a line\n");
  std::fclose(file);
}

TEST(ProgressTest, CurveFallsFromTopLeftToBottomRight) {
  const std::vector<double> loss = {4, 2, 1};
  const auto lines = Lines(DrawCurve("Loss", loss, 40, 4));
  ASSERT_EQ(lines.size(), 6u);
  EXPECT_EQ(lines[0], "Loss");
  EXPECT_EQ(lines[1], "  4.0000 |*");
  EXPECT_EQ(lines[3], "  2.0000 |          *");
  EXPECT_EQ(lines[4], "  1.0000 |                    *");
}

TEST(ProgressTest, CurveFitsWhateverItGets) {
  for (const size_t count : {size_t{0}, size_t{1}, size_t{70}, size_t{1000}}) {
    std::vector<double> values;
    for (size_t i = 0; i < count; ++i) values.push_back(1.0 / static_cast<double>(i + 1));
    const auto lines = Lines(DrawCurve("Loss", values, 79, 8));
    EXPECT_EQ(lines.size(), count == 0 ? 1u : 10u);
    for (const std::string& line : lines) EXPECT_LE(line.size(), 79u) << line;
  }
  EXPECT_EQ(Lines(DrawCurve("flat", std::vector<double>(5, 2.0), 40, 3)).size(), 5u);
}

}  // namespace
}  // namespace gradwire::training
