#include <gtest/gtest.h>

#include "tests/unit/urxe/wire_support.h"
#include "transport/urxe/wire/crc32.h"

namespace urxe {
namespace {

// Bit by bit.
uint32_t ByDefinition(uint32_t crc, const std::byte* bytes, size_t length) {
  crc = ~crc;
  for (size_t i = 0; i < length; ++i) {
    crc ^= static_cast<uint32_t>(bytes[i]);
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (0xEDB88320 & (0U - (crc & 1)));
  }
  return ~crc;
}

TEST(Crc32, OfTheCheckText) { EXPECT_EQ(Crc32(0, "123456789", 9), 0xCBF43926u); }

TEST(Crc32, OfEveryLengthAndAlignment) {
  const auto bytes = RandomBytes(5000, 1);
  for (size_t length = 0; length < 700; ++length) {
    const size_t offset = length % 33;
    EXPECT_EQ(Crc32(0, &bytes[offset], length), ByDefinition(0, &bytes[offset], length)) << length;
  }
  for (const size_t length : {1024u, 4095u, 4096u, 4097u, 4900u}) {
    EXPECT_EQ(Crc32(0x12345678, &bytes[3], length), ByDefinition(0x12345678, &bytes[3], length));
  }
}

TEST(Crc32, GoesOnWhereItEnded) {
  const auto bytes = RandomBytes(4096, 2);
  const uint32_t whole = ByDefinition(0, bytes.data(), bytes.size());
  for (size_t cut = 0; cut <= bytes.size(); cut += 37) {
    const uint32_t begin = Crc32(0, bytes.data(), cut);
    EXPECT_EQ(Crc32(begin, bytes.data() + cut, bytes.size() - cut), whole) << cut;
  }
}

}  // namespace
}  // namespace urxe
