#include "parameter_server/schedule.h"

#include <gmock/gmock.h>

namespace gradwire::ps {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

double Rate(std::string_view text, int64_t step) {
  const auto schedule = Schedule::Parse(text);
  EXPECT_TRUE(schedule.ok()) << schedule.status();
  return schedule.ok() ? schedule->RateAt(step) : -1;
}

TEST(ScheduleTest, Constant) {
  EXPECT_EQ(Schedule().RateAt(1), 1);
  for (const int64_t step : {1, 2, 1'000'000}) EXPECT_EQ(Rate("constant", step), 1);
}

TEST(ScheduleTest, Step) {
  EXPECT_EQ(Rate("step:10:0.5", 1), 1);
  EXPECT_EQ(Rate("step:10:0.5", 10), 1);
  EXPECT_EQ(Rate("step:10:0.5", 11), 0.5);
  EXPECT_EQ(Rate("step:10:0.5", 21), 0.25);
  EXPECT_DOUBLE_EQ(Rate("step:10", 11), 0.1);
}

TEST(ScheduleTest, Cosine) {
  EXPECT_EQ(Rate("cosine:100", 1), 1);
  EXPECT_NEAR(Rate("cosine:100", 26), 0.5 + 0.5 * 0.70710678, 1e-8);
  EXPECT_DOUBLE_EQ(Rate("cosine:100", 51), 0.5);
  EXPECT_GT(Rate("cosine:100", 100), 0) << "the last step still learns";
  EXPECT_NEAR(Rate("cosine:100", 101), 0, 1e-15);
  EXPECT_NEAR(Rate("cosine:100", 1000), 0, 1e-15);
  EXPECT_DOUBLE_EQ(Rate("cosine:100:0.2", 51), 0.6);
  EXPECT_DOUBLE_EQ(Rate("cosine:100:0.2", 500), 0.2);
}

TEST(ScheduleTest, Linear) {
  EXPECT_EQ(Rate("linear:4", 1), 1);
  EXPECT_EQ(Rate("linear:4", 2), 0.75);
  EXPECT_EQ(Rate("linear:4", 4), 0.25);
  EXPECT_EQ(Rate("linear:4", 5), 0);
  EXPECT_DOUBLE_EQ(Rate("linear:4:0.6", 3), 0.8);
  EXPECT_DOUBLE_EQ(Rate("linear:4:0.6", 99), 0.6);
}

TEST(ScheduleTest, WarmupRisesAndThenTheScheduleBegins) {
  for (const char* text :
       {"constant,warmup:4", "cosine:8,warmup:4", "linear:8,warmup:4", "step:8:0.5,warmup:4"}) {
    EXPECT_EQ(Rate(text, 1), 0.25) << text;
    EXPECT_EQ(Rate(text, 2), 0.5) << text;
    EXPECT_EQ(Rate(text, 4), 1) << text;
    EXPECT_EQ(Rate(text, 5), 1) << text;
  }
  EXPECT_EQ(Rate("linear:8,warmup:4", 9), 0.5);
  EXPECT_EQ(Rate("step:8:0.5,warmup:4", 12), 1);
  EXPECT_EQ(Rate("step:8:0.5,warmup:4", 13), 0.5);
  EXPECT_EQ(Rate("constant,warmup:0", 1), 1);
}

TEST(ScheduleTest, TextComesBack) {
  for (const char* text : {"constant", "step:10:0.5", "cosine:5000:0", "linear:7:0.25,warmup:200",
                           "constant,warmup:3"}) {
    const auto schedule = Schedule::Parse(text);
    ASSERT_TRUE(schedule.ok()) << schedule.status();
    EXPECT_EQ(schedule->ToString(), text);
    EXPECT_EQ(*Schedule::Parse(schedule->ToString()), *schedule);
  }
  EXPECT_EQ(Schedule::Parse("step:10")->ToString(), "step:10:0.1");
  EXPECT_NE(*Schedule::Parse("step:10"), *Schedule::Parse("step:11"));
}

TEST(ScheduleTest, RefusalsSayWhatThereIs) {
  for (const char* text : {"",
                           "poly:3",
                           "Constant",
                           " constant",
                           "constant:3",
                           "constant,",
                           "constant,warmup",
                           "constant,warmup:",
                           "constant,warmup:-1",
                           "constant,warmup:2:3",
                           "constant,cooldown:3",
                           "constant,warmup:1,warmup:2",
                           "step",
                           "step:",
                           "step:0",
                           "step:-5",
                           "step:1e3",
                           "step:9:0",
                           "step:9:2",
                           "step:9:-0.5",
                           "step:9:nan",
                           "step:9:0.1:3",
                           "step:9:",
                           "step:99999999999999999999",
                           "cosine",
                           "cosine:5:1.5",
                           "cosine:5:x",
                           "linear:5 ",
                           "linear:+5"}) {
    const absl::Status status = Schedule::Parse(text).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << text << ": " << status;
    EXPECT_THAT(Message(status), AllOf(HasSubstr(fmt::format("--lr-schedule {}:", text)),
                                       HasSubstr("cosine:N[:FLOOR]"), HasSubstr("warmup:N")));
  }
}

}  // namespace
}  // namespace gradwire::ps
