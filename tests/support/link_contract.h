// What links whose ends the caller carries promise, whatever the transport. A test program links
// gradwire_link_contract and instantiates LinkContract with the ways in which it makes transports.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <ostream>
#include <string>

#include "tests/support/link_server.h"

namespace gradwire::test {

struct ContractCase {
  std::string name;
  TransportMaker make;
  std::function<void()> before = [] {};  // each test
  std::function<void()> after = [] {};
};
inline void PrintTo(const ContractCase& tested, std::ostream* out) { *out << tested.name; }
inline std::string CaseName(const ::testing::TestParamInfo<ContractCase>& info) {
  return info.param.name;
}

constexpr LinkOptions kSmallLink{4, 1024};

class LinkContract : public ::testing::TestWithParam<ContractCase> {
 protected:
  void SetUp() override { GetParam().before(); }
  void TearDown() override { GetParam().after(); }
  const TransportMaker& make() const { return GetParam().make; }
};

}  // namespace gradwire::test
