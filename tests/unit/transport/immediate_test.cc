#include "transport/immediate.h"

#include <gtest/gtest.h>

#include "transport/memory.h"

namespace gradwire {
namespace {

TEST(Immediate, KeepsItsFields) {
  for (const uint32_t tag : {0u, 1u, 0x15555u, Immediate::kMaxTag}) {
    for (const uint64_t sequence : {0ull, 1ull, 127ull, 128ull, 1'000'003ull}) {
      for (const uint32_t credits : {0u, 1u, Immediate::kMaxCredits}) {
        const auto immediate = Immediate::Make(tag, sequence, credits);
        ASSERT_TRUE(immediate.ok());
        EXPECT_EQ(immediate->tag(), tag);
        EXPECT_EQ(immediate->sequence(), sequence % 128);
        EXPECT_EQ(immediate->credits(), credits);
        EXPECT_EQ(Immediate::FromWire(immediate->ToWire()), *immediate);
      }
    }
  }
}

TEST(Immediate, RefusesWhatDoesNotFit) {
  EXPECT_TRUE(absl::IsInvalidArgument(Immediate::Make(Immediate::kMaxTag + 1, 0, 0).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(Immediate::Make(1, 0, Immediate::kMaxCredits + 1).status()));
}

TEST(Immediate, TravelsInNetworkOrder) {
  const Immediate immediate = Immediate::Unchecked(0x00001, 2, 3);
  uint8_t bytes[4];
  const uint32_t wire = immediate.ToWire();
  memcpy(bytes, &wire, sizeof(bytes));
  // credits 3 in the top 7 bits, sequence 2 in the next 7, tag 1 in the low 18.
  const uint32_t expected = 3u << 25 | 2u << 18 | 1u;
  EXPECT_EQ(bytes[0], expected >> 24);
  EXPECT_EQ(bytes[1], expected >> 16 & 0xff);
  EXPECT_EQ(bytes[3], 1);
}

TEST(Immediate, CreditTagIsNobodysTag) {
  const Immediate immediate = Immediate::CreditsOnly(5);
  EXPECT_EQ(immediate.tag(), Immediate::kCreditTag);
  EXPECT_GT(immediate.tag(), Immediate::kMaxTag);
  EXPECT_EQ(immediate.credits(), 5u);
}

TEST(Immediate, SequenceDistanceWrapsAround) {
  EXPECT_EQ(Immediate::Unchecked(0, 130, 0).SequenceAhead(126), 4u);
  EXPECT_EQ(Immediate::Unchecked(0, 126, 0).SequenceAhead(126), 0u);
  EXPECT_EQ(Immediate::Unchecked(0, 125, 0).SequenceAhead(126), 127u);  // older: out of the window
}

TEST(Memory, SpansAreCheckedWhenMade) {
  std::byte memory[100];
  int released = 0;
  {
    Region region(memory, MemoryGrant{1000, 100, 7, 0}, 3, [&released] { ++released; });
    EXPECT_TRUE(region.Span(0, 100).ok());
    EXPECT_TRUE(region.Span(100, 0).ok());
    EXPECT_TRUE(absl::IsOutOfRange(region.Span(0, 101).status()));
    EXPECT_TRUE(absl::IsOutOfRange(region.Span(101, 0).status()));
    EXPECT_TRUE(absl::IsOutOfRange(region.Span(50, ~size_t{0}).status()));
    Region moved = std::move(region);
    EXPECT_EQ(moved.Span(10, 5)->data, memory + 10);
    EXPECT_EQ(released, 0);
  }
  EXPECT_EQ(released, 1);

  const RemoteRegion remote(MemoryGrant{1000, 100, 7, 0});
  EXPECT_EQ(remote.Span(20, 30)->address, 1020u);
  EXPECT_EQ(remote.Span(20, 30)->key, 7u);
  EXPECT_TRUE(absl::IsOutOfRange(remote.Span(99, 2).status()));
  EXPECT_TRUE(absl::IsOutOfRange(remote.Span(~size_t{0}, 2).status()));
}

}  // namespace
}  // namespace gradwire
