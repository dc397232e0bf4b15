#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

#include "tests/unit/urxe/wire_support.h"
#include "transport/urxe/wire/icrc.h"
#include "transport/urxe/wire/packet.h"

namespace urxe {
namespace {

FlowKey Ipv4Flow(uint16_t source_port) {
  FlowKey flow;
  flow.source = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 10, 1, 2, 3};
  flow.destination = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 192, 168, 7, 9};
  flow.source_port = source_port;
  flow.destination_port = kRocePort;
  return flow;
}

FlowKey Ipv6Flow() {
  FlowKey flow;
  flow.source = {0xFE, 0x80, 0, 0, 0, 0, 0, 0, 2, 4, 6, 8, 10, 12, 14, 16};
  flow.destination = {0xFD, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  flow.source_port = 0xC123;
  flow.destination_port = kRocePort;
  return flow;
}

uint32_t ByDefinition(const FlowKey& flow, const std::vector<std::byte>& datagram, int id) {
  std::vector<uint8_t> bytes(8, 0xFF);
  const auto put = [&](std::initializer_list<int> values) {
    for (const int value : values) bytes.push_back(static_cast<uint8_t>(value));
  };
  const auto put16 = [&](size_t value) {
    put({static_cast<int>(value >> 8), static_cast<int>(value & 0xFF)});
  };
  const size_t udp = 8 + datagram.size();
  if (flow.source[0] == 0) {
    put({0x45, 0xFF});
    put16(20 + udp);
    put16(static_cast<size_t>(id));
    put({0x40, 0x00, 0xFF, 17, 0xFF, 0xFF});
    for (int i = 12; i < 16; ++i) put({flow.source[i]});
    for (int i = 12; i < 16; ++i) put({flow.destination[i]});
  } else {
    put({0x6F, 0xFF, 0xFF, 0xFF});
    put16(udp);
    put({17, 0xFF});
    for (int i = 0; i < 16; ++i) put({flow.source[i]});
    for (int i = 0; i < 16; ++i) put({flow.destination[i]});
  }
  put16(flow.source_port);
  put16(flow.destination_port);
  put16(udp);
  put({0xFF, 0xFF});
  for (size_t i = 0; i + 4 < datagram.size(); ++i) {
    put({i == 4 ? 0xFF : static_cast<int>(datagram[i])});
  }
  return Crc32ByDefinition(bytes);
}

std::vector<std::byte> RandomDatagram(std::mt19937& random, size_t size) {
  std::vector<std::byte> datagram(size);
  for (std::byte& byte : datagram) byte = static_cast<std::byte>(random());
  return datagram;
}

void Sign(const FlowKey& flow, std::vector<std::byte>& datagram, int id) {
  const uint32_t icrc = ByDefinition(flow, datagram, id);
  for (int i = 0; i < 4; ++i) {
    datagram[datagram.size() - 4 + i] = static_cast<std::byte>(icrc >> (8 * i));
  }
}

TEST(Icrc, IsMadeInPartsAsTheDefinitionSays) {
  std::mt19937 random(1);
  for (const FlowKey& flow : {Ipv4Flow(kRocePort), Ipv6Flow()}) {
    for (const size_t size : {16u, 20u, 48u, 333u, 1084u, 4124u}) {
      for (const int id : {0, 1, 63}) {
        const auto datagram = RandomDatagram(random, size);
        uint32_t state = IcrcOfIpHeaders(flow, size, static_cast<uint16_t>(id));
        state = IcrcOfHeaders(state, std::span(datagram).first(12));
        const size_t middle = 12 + (size - 16) / 3;
        state = IcrcContinue(state, datagram.data() + 12, middle - 12);
        state = IcrcContinue(state, datagram.data() + middle, size - 4 - middle);
        EXPECT_EQ(IcrcFinish(state), ByDefinition(flow, datagram, id)) << size << " " << id;
      }
    }
  }
}

// Kernel rxe counts its identifications up, and a UDP socket does not see them.
TEST(Icrc, SolvesAnyIdentificationOfOtherSenders) {
  std::mt19937 random(2);
  const FlowKey flow = Ipv4Flow(0xC001);
  for (const size_t size : {16u, 17u, 52u, 1084u, 4147u}) {
    for (int round = 0; round < 500; ++round) {
      auto datagram = RandomDatagram(random, size);
      const int id = static_cast<int>(random() & 0xFFFF);
      Sign(flow, datagram, id);
      auto identification = static_cast<uint16_t>(random());
      ASSERT_TRUE(IcrcMatches(flow, datagram, identification)) << size << " " << id;
      EXPECT_EQ(identification, id);
    }
  }
}

TEST(Icrc, SeesEveryErrorInPacketsOfIpv6AndNearlyEveryInIpv4) {
  std::mt19937 random(3);
  int passed = 0;
  int passed_as_ours = 0;
  for (int round = 0; round < 20000; ++round) {
    auto datagram = RandomDatagram(random, 256);
    Sign(Ipv6Flow(), datagram, 0);
    uint16_t identification = 0;
    ASSERT_TRUE(IcrcMatches(Ipv6Flow(), datagram, identification));
    auto wrong = datagram;
    const size_t bit = random() % (8 * wrong.size());
    wrong[bit / 8] ^= std::byte{1} << (bit % 8);
    // The bits that routers may change are not covered.
    EXPECT_EQ(IcrcMatches(Ipv6Flow(), wrong, identification), bit / 8 == 4);

    const auto noise = RandomDatagram(random, 256);
    passed += IcrcMatches(Ipv4Flow(0xC001), noise, identification = 0) ? 1 : 0;
    passed_as_ours += IcrcMatches(Ipv4Flow(kRocePort), noise, identification = 0) ? 1 : 0;
  }
  EXPECT_LE(passed, 4);  // 0.3 expected
  EXPECT_EQ(passed_as_ours, 0);
}

TEST(Icrc, ExpectsSmallIdentificationsOfSendersOnTheRocePort) {
  std::mt19937 random(4);
  const FlowKey flow = Ipv4Flow(kRocePort);
  for (const int id : {0, 1, 15, 63, 64, 4000}) {
    auto datagram = RandomDatagram(random, 300);
    Sign(flow, datagram, id);
    uint16_t identification = 7;
    EXPECT_EQ(IcrcMatches(flow, datagram, identification), id < 64) << id;
  }
}

TEST(Icrc, KnowsTheDifferenceAnIdentificationMakes) {
  std::mt19937 random(5);
  for (const size_t size : {16u, 300u, 4124u}) {
    const auto datagram = RandomDatagram(random, size);
    const FlowKey flow = Ipv4Flow(kRocePort);
    EXPECT_EQ(IcrcDifference(flow, size, 37),
              ByDefinition(flow, datagram, 37) ^ ByDefinition(flow, datagram, 0));
    EXPECT_EQ(IcrcDifference(Ipv6Flow(), size, 37), 0u);
  }
}

TEST(Icrc, RefusesWhatIsTooShort) {
  const std::vector<std::byte> bytes(15);
  uint16_t identification = 0;
  EXPECT_FALSE(IcrcMatches(Ipv4Flow(1), bytes, identification));
  EXPECT_FALSE(IcrcMatches(Ipv4Flow(1), {}, identification));
}

}  // namespace
}  // namespace urxe
