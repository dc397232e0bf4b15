#include "transport/settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

namespace gradwire {
namespace {

using ::testing::HasSubstr;

TEST(Settings, EveryOneHasANameAVariableAndReadsBackItsOwnValue) {
  std::set<std::string> names;
  for (const SettingInfo& info : AllSettings()) {
    EXPECT_TRUE(names.insert(std::string(info.name)).second) << info.name;
    EXPECT_TRUE(info.variable().starts_with("GRADWIRE_")) << info.variable();
    EXPECT_FALSE(info.help.empty()) << info.name;
    Settings settings;
    const std::string value = info.get(settings);
    if (!value.empty()) {
      EXPECT_EQ(info.set(settings, value), absl::OkStatus()) << info.name << " " << value;
      EXPECT_EQ(info.get(settings), value);
    }
  }
}

TEST(Settings, EnvironmentIsParsedStrictly) {
  const auto settings = SettingsFromEnvironment({{"GRADWIRE_SLICE_BYTES", "64K"},
                                                 {"GRADWIRE_OP_TIMEOUT", "250ms"},
                                                 {"GRADWIRE_TRANSPORT", "tcp"},
                                                 {"PATH", "/bin"}});
  ASSERT_TRUE(settings.ok()) << settings.status();
  EXPECT_EQ(settings->slice_bytes, 65536);
  EXPECT_EQ(settings->op_timeout.count(), 250);
  EXPECT_EQ(settings->transport, "tcp");

  for (const auto& [variable, value, message] :
       std::vector<std::tuple<std::string, std::string, std::string>>{
           {"GRADWIRE_SLICE_BYTE", "1", "no such setting"},
           {"GRADWIRE_SLOTS", "1", "2..64"},
           {"GRADWIRE_SLOTS", "65", "2..64"},
           {"GRADWIRE_SLOTS", "8x", "not a whole number"},
           {"GRADWIRE_TRANSPORT", "udp", "auto|rdma|tcp"},
           {"GRADWIRE_OP_TIMEOUT", "soon", "duration"},
           {"GRADWIRE_OP_TIMEOUT", "0s", "1ms..24h"},
           {"GRADWIRE_SLICE_BYTES", "4100", "multiple of 64"},
           {"GRADWIRE_TLS_CERT", "a.pem", "--tls-key"}}) {
    const auto result = SettingsFromEnvironment({{variable, value}});
    ASSERT_TRUE(absl::IsInvalidArgument(result.status())) << variable << "=" << value;
    EXPECT_THAT(Message(result.status()), HasSubstr(message));
  }
}

TEST(Parsing, SizesDurationsAndBooleans) {
  EXPECT_EQ(*ParseByteSize("1G"), 1 << 30);
  EXPECT_EQ(*ParseByteSize("3k"), 3072);
  for (const char* bad : {"", "K", "-1", "1T", "1.5M", "99999999999G", "1 2"}) {
    EXPECT_FALSE(ParseByteSize(bad).ok()) << bad;
  }
  EXPECT_EQ(ParseDuration("1.5")->count(), 1500);
  EXPECT_EQ(ParseDuration("2m")->count(), 120'000);
  for (const char* bad : {"", "s", "-1s", "1d", "nan", "inf", "1e300h"}) {
    EXPECT_FALSE(ParseDuration(bad).ok()) << bad;
  }
  EXPECT_TRUE(*ParseBool(" Yes "));
  EXPECT_FALSE(*ParseBool("OFF"));
  EXPECT_FALSE(ParseBool("maybe").ok());
}

TEST(Settings, RatesAreParsedStrictly) {
  Settings settings;
  EXPECT_EQ(SetSetting(settings, "tcp-loss", "0.0625"), absl::OkStatus());
  EXPECT_EQ(settings.tcp_loss, 0.0625);
  EXPECT_EQ(SetSetting(settings, "tcp-loss", "1e-4"), absl::OkStatus());
  for (const char* bad : {"0.11", "-0.1", "nan", "inf", "", "1%", " 0.1", "0.1x"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(SetSetting(settings, "tcp-loss", bad))) << bad;
  }
  EXPECT_EQ(settings.tcp_loss, 1e-4);
}

TEST(Settings, UnknownNameIsNotFound) {
  Settings settings;
  EXPECT_TRUE(absl::IsNotFound(SetSetting(settings, "speed", "11")));
  EXPECT_TRUE(absl::IsInvalidArgument(SetSetting(settings, "lanes", "17")));
  EXPECT_EQ(SetSetting(settings, "lanes", "4"), absl::OkStatus());
  EXPECT_EQ(settings.lanes, 4);
}

}  // namespace
}  // namespace gradwire
