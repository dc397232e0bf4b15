#include "parameter_server/convert.h"

#include <gmock/gmock.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

namespace gradwire::ps {
namespace {

using ::testing::HasSubstr;

constexpr DataType kHalves[] = {DataType::kFloat16, DataType::kBfloat16};

// The value of 16 bits from the formats' definitions: sign, exponent, fraction.
double Value(DataType type, uint16_t bits) {
  const int fraction_bits = type == DataType::kFloat16 ? 10 : 7;
  const int exponent_bits = 15 - fraction_bits;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = bits >> fraction_bits & ((1 << exponent_bits) - 1);
  const int fraction = bits & ((1 << fraction_bits) - 1);
  double value;
  if (exponent == (1 << exponent_bits) - 1) {
    value = fraction == 0 ? INFINITY : NAN;
  } else if (exponent == 0) {
    value = std::ldexp(fraction, 1 - bias - fraction_bits);
  } else {
    value = std::ldexp(fraction + (1 << fraction_bits), exponent - bias - fraction_bits);
  }
  return (bits & 0x8000) != 0 ? -value : value;
}

std::vector<uint16_t> PackAll(DataType type, const std::vector<float>& values) {
  std::vector<uint16_t> packed(values.size());
  EXPECT_TRUE(Pack(values, type, std::as_writable_bytes(std::span(packed))).ok());
  return packed;
}

TEST(ConvertTest, All65536BitPatterns) {
  std::vector<uint16_t> all(65536);
  std::iota(all.begin(), all.end(), uint16_t{0});
  const auto bytes = std::as_bytes(std::span<const uint16_t>(all));
  for (const DataType type : kHalves) {
    std::vector<float> values(all.size());
    ASSERT_TRUE(Unpack(bytes, type, values).ok());
    std::vector<float> sums(all.size(), 1.0f);
    ASSERT_TRUE(Accumulate(bytes, type, sums).ok());
    const std::vector<uint16_t> back = PackAll(type, values);
    for (size_t i = 0; i < all.size(); ++i) {
      const double expected = Value(type, all[i]);
      if (std::isnan(expected)) {
        ASSERT_TRUE(std::isnan(values[i])) << NameOf(type) << ' ' << i;
        ASSERT_TRUE(std::isnan(sums[i])) << NameOf(type) << ' ' << i;
        ASSERT_TRUE(std::isnan(Value(type, back[i]))) << NameOf(type) << ' ' << i;
      } else {
        ASSERT_EQ(values[i], expected) << NameOf(type) << ' ' << i;
        ASSERT_EQ(std::signbit(values[i]), std::signbit(expected)) << NameOf(type) << ' ' << i;
        ASSERT_EQ(sums[i], 1.0f + static_cast<float>(expected)) << NameOf(type) << ' ' << i;
        ASSERT_EQ(back[i], all[i]) << NameOf(type);
      }
    }
  }
}

// Every value between two neighbours goes to the nearer; the middle goes to the even one.
TEST(ConvertTest, RoundsToNearestEven) {
  for (const DataType type : kHalves) {
    const uint16_t infinity = type == DataType::kFloat16 ? 0x7c00 : 0x7f80;
    for (const uint16_t sign : {0x0000, 0x8000}) {
      std::vector<float> values;
      std::vector<uint16_t> expected;
      const auto expect = [&](double value, int bits) {
        values.push_back(static_cast<float>(value));
        expected.push_back(static_cast<uint16_t>(bits | sign));
      };
      for (int low = 0; low + 1 < infinity; ++low) {
        const double a = Value(type, static_cast<uint16_t>(low | sign));
        const double b = Value(type, static_cast<uint16_t>((low + 1) | sign));
        const auto middle = static_cast<float>((a + b) / 2);
        if (middle != (a + b) / 2) continue;  // below what float32 holds
        expect(middle, low % 2 == 0 ? low : low + 1);
        expect(std::nextafter(middle, static_cast<float>(a)), low);
        expect(std::nextafter(middle, static_cast<float>(b)), low + 1);
      }
      ASSERT_GT(values.size(), 60'000u);
      EXPECT_EQ(PackAll(type, values), expected) << NameOf(type) << " sign " << sign;
    }
  }
}

TEST(ConvertTest, EndsOfTheRange) {
  const float inf = INFINITY;
  const float largest = std::numeric_limits<float>::max();
  const float smallest = std::numeric_limits<float>::denorm_min();
  // A NaN whose upper half alone would be infinity.
  const auto low_nan = std::bit_cast<float>(0x7f800001u);
  for (const size_t copies : {1, 9}) {  // one by one, and eight at a time
    for (const DataType type : kHalves) {
      const auto pack = [&](float value) {
        const auto packed = PackAll(type, std::vector<float>(copies, value));
        for (const uint16_t bits : packed) {
          EXPECT_TRUE(bits == packed[0] || std::isnan(value));
        }
        return Value(type, packed[0]);
      };
      EXPECT_EQ(pack(inf), inf);
      EXPECT_EQ(pack(-inf), -inf);
      EXPECT_EQ(pack(largest), inf);
      EXPECT_EQ(pack(-largest), -inf);
      EXPECT_TRUE(std::isnan(pack(NAN)));
      EXPECT_TRUE(std::isnan(pack(low_nan))) << NameOf(type);
      EXPECT_EQ(pack(smallest), 0);
      EXPECT_TRUE(std::signbit(pack(-0.0f)));
    }
  }
  EXPECT_EQ(PackAll(DataType::kFloat16, {65504, 65519.996f, 65520}),
            (std::vector<uint16_t>{0x7bff, 0x7bff, 0x7c00}));
}

// Lengths around the vector width and addresses that are no multiple of anything.
TEST(ConvertTest, AnyLengthAndAlignment) {
  std::mt19937 random(1);
  std::uniform_int_distribution<int> small(-1000, 1000);  // exact in all types
  for (const DataType type : {DataType::kFloat32, DataType::kFloat16, DataType::kBfloat16}) {
    for (size_t count = 0; count < 40; ++count) {
      for (const size_t shift : {0, 1, 3}) {
        std::vector<float> values(count);
        for (float& value : values) value = static_cast<float>(small(random) / 8 * 8 % 128);
        const size_t bytes = count * SizeOf(type);
        std::vector<std::byte> buffer(shift + bytes + 4, std::byte{0x5a});
        const Bytes packed = std::span(buffer).subspan(shift, bytes);
        ASSERT_TRUE(Pack(values, type, packed).ok());
        for (size_t i = 0; i < shift; ++i) ASSERT_EQ(buffer[i], std::byte{0x5a});
        for (size_t i = 0; i < 4; ++i) ASSERT_EQ(buffer[shift + bytes + i], std::byte{0x5a});
        std::vector<float> back(count + 1, -1.0f);
        ASSERT_TRUE(Unpack(packed, type, std::span(back).first(count)).ok());
        for (size_t i = 0; i < count; ++i) ASSERT_EQ(back[i], values[i]);
        ASSERT_TRUE(Accumulate(packed, type, std::span(back).first(count)).ok());
        for (size_t i = 0; i < count; ++i) ASSERT_EQ(back[i], 2 * values[i]);
        ASSERT_EQ(back[count], -1.0f);
      }
    }
  }
}

TEST(ConvertTest, Refusals) {
  std::vector<float> values(4);
  std::vector<std::byte> bytes(9);
  EXPECT_THAT(Message(Pack(values, DataType::kFloat16, bytes)),
              HasSubstr("9 bytes do not hold 4 numbers of type half"));
  EXPECT_TRUE(
      absl::IsInvalidArgument(Unpack(std::span(bytes).first(6), DataType::kBfloat16, values)));
  EXPECT_TRUE(
      absl::IsInvalidArgument(Accumulate(std::span(bytes).first(8), DataType::kFloat32, values)));
  EXPECT_THAT(Message(Pack(values, DataType::kInt32, std::span(bytes).first(8))),
              HasSubstr("only float, half and bfloat16"));
}

}  // namespace
}  // namespace gradwire::ps
