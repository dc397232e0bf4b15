#include "transport/tcp/interface.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace gradwire::tcp {
namespace {

using ::testing::HasSubstr;

const std::vector<InterfaceAddress> kHost = {{"lo", "127.0.0.1", false, true},
                                             {"lo", "::1", true, true},
                                             {"eth0", "10.1.2.3", false, false},
                                             {"eth0", "fd00::3", true, false},
                                             {"eth10", "192.168.0.9", false, false}};

std::string Choose(const std::string& filter, const std::string& family = "any",
                   const std::string& towards = "") {
  Settings settings;
  settings.socket_interface = filter;
  settings.socket_family = family;
  const auto choice = ChooseAddress(kHost, settings, towards);
  return choice.ok() ? choice->address.address : Message(choice.status());
}

TEST(Interface, FilterGrammar) {
  EXPECT_EQ(Choose("eth"), "10.1.2.3");
  EXPECT_EQ(Choose("eth1"), "192.168.0.9");
  EXPECT_THAT(Choose("=eth1"), HasSubstr("no address fits"));  // exact: there is no eth1
  EXPECT_EQ(Choose("=eth10"), "192.168.0.9");
  EXPECT_EQ(Choose("^lo,eth0"), "192.168.0.9");
  EXPECT_EQ(Choose("^=eth1,lo"), "10.1.2.3");
  EXPECT_EQ(Choose("192.168.0.0/16"), "192.168.0.9");
  EXPECT_EQ(Choose("10.0.0.0/8,192.168.0.0/16"), "10.1.2.3");
  EXPECT_EQ(Choose("^10.0.0.0/8,127.0.0.0/8", "ipv4"), "192.168.0.9");
  EXPECT_EQ(Choose("fd00::/8"), "fd00::3");
  EXPECT_EQ(Choose("10.1.2.3/32"), "10.1.2.3");
}

TEST(Interface, FamilyAndRoute) {
  EXPECT_EQ(Choose("", "ipv6"), "fd00::3");
  EXPECT_EQ(Choose("", "any", "127.0.0.1"), "127.0.0.1");
  EXPECT_EQ(Choose("eth", "any", "127.0.0.1"), "10.1.2.3");
  EXPECT_EQ(Choose("", "ipv6", "127.0.0.1"), "fd00::3");
  EXPECT_EQ(Choose(""), "10.1.2.3");
}

TEST(Interface, ErrorsListWhatThereIs) {
  EXPECT_THAT(Choose("ib"), HasSubstr("eth10=192.168.0.9"));
  EXPECT_THAT(Choose("10.0.0.0/33"), HasSubstr("CIDR"));
  EXPECT_THAT(Choose("10.0.0/8"), HasSubstr("CIDR"));
  EXPECT_THAT(Choose("fd00::/129"), HasSubstr("CIDR"));
}

TEST(Interface, ThisHostHasAnAddress) {
  const auto addresses = ListInterfaceAddresses();
  ASSERT_TRUE(addresses.ok()) << addresses.status();
  EXPECT_FALSE(addresses->empty());
}

}  // namespace
}  // namespace gradwire::tcp
