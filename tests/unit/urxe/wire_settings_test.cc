#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "transport/urxe/settings.h"

namespace urxe {
namespace {

using testing::AllOf;
using testing::HasSubstr;

std::string Parse(std::vector<const char*> environment, Settings& settings) {
  environment.push_back(nullptr);
  return ParseSettings(environment.data(), settings);
}

TEST(Settings, AreReadFromTheEnvironment) {
  Settings settings;
  ASSERT_EQ(Parse({"HOME=/root", "URXE_INTERFACES=eth0,lo", "URXE_PATH=udp", "URXE_ICRC=off",
                   "URXE_WINDOW=2M", "URXE_FAULTS=drop=0.5", "URXE_PCAP=/tmp/%p.pcap",
                   "URXE_COUNTERS=stderr", "URX=1", "XURXE_PATH=7"},
                  settings),
            "");
  EXPECT_EQ(settings.interfaces, "eth0,lo");
  EXPECT_EQ(settings.path, PathChoice::kUdp);
  EXPECT_FALSE(settings.icrc);
  EXPECT_EQ(settings.window, 2u << 20);
  EXPECT_EQ(settings.faults, "drop=0.5");
  EXPECT_EQ(settings.pcap, "/tmp/%p.pcap");
  EXPECT_EQ(settings.counters, "stderr");
}

TEST(Settings, HaveDefaults) {
  Settings settings;
  ASSERT_EQ(Parse({}, settings), "");
  EXPECT_EQ(settings.path, PathChoice::kAuto);
  EXPECT_TRUE(settings.icrc);
  EXPECT_EQ(settings.window, 384u << 10);
  EXPECT_EQ(ParseSettings(nullptr, settings), "");
}

TEST(Settings, TakeWindowsWithinTheirRange) {
  Settings settings;
  for (const char* good : {"URXE_WINDOW=16K", "URXE_WINDOW=16384", "URXE_WINDOW=64M",
                           "URXE_WINDOW=67108864", "URXE_WINDOW=384k"}) {
    EXPECT_EQ(Parse({good}, settings), "") << good;
  }
  for (const char* bad : {"URXE_WINDOW=", "URXE_WINDOW=16383", "URXE_WINDOW=65M", "URXE_WINDOW=-1",
                          "URXE_WINDOW=1G", "URXE_WINDOW=K", "URXE_WINDOW=1e6",
                          "URXE_WINDOW=99999999999999999999", "URXE_WINDOW=18014398509481985K"}) {
    EXPECT_NE(Parse({bad}, settings), "") << bad;
  }
}

TEST(Settings, SayWhichVariableIsWrongAndWhatWouldBeRight) {
  Settings settings;
  EXPECT_THAT(Parse({"URXE_PATH=fast"}, settings),
              AllOf(HasSubstr("URXE_PATH=fast"), HasSubstr("auto, local or udp")));
  EXPECT_THAT(Parse({"URXE_ICRC=0"}, settings), HasSubstr("on or off"));
  EXPECT_THAT(Parse({"URXE_FAULTS=drop=2"}, settings),
              AllOf(HasSubstr("URXE_FAULTS"), HasSubstr("\"drop=2\"")));
  EXPECT_THAT(Parse({"URXE_FAULT=drop=1"}, settings),
              AllOf(HasSubstr("URXE_FAULT="), HasSubstr("URXE_FAULTS")));
}

}  // namespace
}  // namespace urxe
