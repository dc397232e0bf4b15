#include "analysis/result.h"

#include <gtest/gtest.h>

#include <set>

namespace gradwire::analysis {
namespace {

TEST(Class, EachHasItsOwnNameLabelAndDescription) {
  std::set<std::string_view> names, labels, descriptions;
  for (int i = 0; i < kClassCount; ++i) {
    const auto value = static_cast<Class>(i);
    names.insert(NameOf(value));
    labels.insert(LabelOf(value));
    descriptions.insert(DescriptionOf(value));
    EXPECT_EQ(ClassNamed(NameOf(value)), value);
    EXPECT_EQ(NameOf(value).find_first_not_of("abcdefghijklmnopqrstuvwxyz_"),
              std::string_view::npos);
    EXPECT_EQ(DescriptionOf(value).back(), '.');
  }
  for (const auto& texts : {names, labels, descriptions}) EXPECT_EQ(texts.size(), kClassCount);
}

TEST(Class, TablesAreInTheOrderOfTheEnumeration) {
  EXPECT_EQ(NameOf(Class::kPosting), "posting");
  EXPECT_EQ(NameOf(Class::kReceiverNotReady), "receiver_not_ready");
  EXPECT_EQ(NameOf(Class::kWakeUp), "wake_up");
  EXPECT_EQ(NameOf(Class::kSystemCalls), "system_calls");
  EXPECT_EQ(NameOf(Class::kOther), "other");
  EXPECT_EQ(LabelOf(Class::kSendQueueFull), "send queue full");
}

TEST(Class, NoOtherNameIsKnown) {
  for (const char* name : {"", "wir", "Wire", "send queue full"}) EXPECT_FALSE(ClassNamed(name));
}

}  // namespace
}  // namespace gradwire::analysis
