#include "parameter_server/layout.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include "parameter_server/protocol.h"

namespace gradwire::ps {
namespace {

TensorSpec Tensor(std::string name, std::vector<int64_t> shape) {
  return {.name = std::move(name), .shape = std::move(shape)};
}

TEST(LayoutTest, TensorsLieEndToEnd) {
  const auto layout = Layout::Make({Tensor("w", {3, 5}), Tensor("b", {7}), Tensor("s", {})});
  ASSERT_TRUE(layout.ok());
  EXPECT_EQ(layout->offset(0), 0);
  EXPECT_EQ(layout->offset(1), 15);
  EXPECT_EQ(layout->offset(2), 22);
  EXPECT_EQ(layout->elements(), 23);
  EXPECT_EQ(*layout->Find("b"), 1);
  const auto missing = layout->Find("bias");
  EXPECT_TRUE(absl::IsNotFound(missing.status()));
  EXPECT_NE(missing.status().message().find("w, b, s"), std::string::npos);
}

TEST(LayoutTest, RefusesWhatCannotBe) {
  const auto refused = [](std::vector<TensorSpec> tensors) {
    return absl::IsInvalidArgument(Layout::Make(std::move(tensors)).status());
  };
  EXPECT_TRUE(refused({Tensor("", {1})}));
  EXPECT_TRUE(refused({Tensor("a\n", {1})}));
  EXPECT_TRUE(refused({Tensor("a", {1}), Tensor("a", {2})}));
  EXPECT_TRUE(refused({Tensor("a", {-1})}));
  EXPECT_TRUE(refused({Tensor("a", {int64_t{1} << 40, int64_t{1} << 40})}));
  EXPECT_TRUE(refused({Tensor("a", {int64_t{1} << 38}), Tensor("b", {1})}));
  TensorSpec wide = Tensor("a", {1});
  wide.type = DataType::kFloat64;
  EXPECT_TRUE(refused({wide}));
  EXPECT_FALSE(refused({Tensor("a", {0, int64_t{1} << 62})}));
}

TEST(LayoutTest, NamesTheFirstDifference) {
  const Layout mine = *Layout::Make({Tensor("w", {3, 5}), Tensor("b", {7})});
  EXPECT_TRUE(mine.Matches(mine).ok());
  const Layout shape = *Layout::Make({Tensor("w", {5, 3}), Tensor("b", {7})});
  EXPECT_EQ(mine.Matches(shape).message(), "tensor w is float [3, 5] here, float [5, 3] there");
  const Layout name = *Layout::Make({Tensor("w", {3, 5}), Tensor("c", {7})});
  EXPECT_EQ(mine.Matches(name).message(), "tensor 1 is b here, c there");
  EXPECT_FALSE(mine.Matches(Layout()).ok());
}

TEST(PlacementTest, ShardsShareTheBytesAndSlicesCoverThem) {
  const Layout layout = *Layout::Make({Tensor("big", {1000, 10}), Tensor("none", {0}),
                                       Tensor("b", {10}), Tensor("w", {333}), Tensor("one", {})});
  for (const int shards : {1, 2, 3, 7}) {
    const auto placement = Placement::Make(layout, shards, 1024);
    ASSERT_TRUE(placement.ok());
    int64_t at = 0, least = layout.elements(), most = 0;
    for (int shard = 0; shard < shards; ++shard) {
      EXPECT_EQ(placement->begin(shard), at);
      EXPECT_EQ(at % Placement::kAlignment, 0);
      for (const Slice& slice : placement->slices(shard)) {
        EXPECT_EQ(slice.begin, at);
        EXPECT_GE(slice.count, 1);
        EXPECT_LE(slice.count, 256);
        EXPECT_LE(slice.count, placement->largest_slice());
        EXPECT_GE(slice.begin, layout.offset(slice.tensor));
        EXPECT_LE(slice.begin + slice.count, layout.offset(slice.tensor + 1));
        at += slice.count;
      }
      EXPECT_EQ(placement->end(shard), at);
      const int64_t size = placement->end(shard) - placement->begin(shard);
      least = std::min(least, size);
      most = std::max(most, size);
    }
    EXPECT_EQ(at, layout.elements());
    EXPECT_LE(most - least, 2 * Placement::kAlignment);
  }
}

TEST(PlacementTest, FindsTheSlicesOfTensors) {
  const Layout layout = *Layout::Make({Tensor("a", {100}), Tensor("b", {300}), Tensor("c", {8})});
  const Placement placement = *Placement::Make(layout, 2, 256);  // 64 elements a slice
  int64_t found = 0;
  for (int shard = 0; shard < 2; ++shard) {
    const SliceRange range = placement.Find(shard, 1, 2);
    for (uint32_t i = 0; i < range.count; ++i) {
      const Slice& slice = placement.slices(shard)[range.first + i];
      EXPECT_EQ(slice.tensor, 1);
      found += slice.count;
    }
    EXPECT_EQ(placement.Find(shard, 0, 3).count, placement.slices(shard).size());
    EXPECT_EQ(placement.Find(shard, 2, 2).count, 0u);
  }
  EXPECT_EQ(found, 300);
  const std::string text = placement.Describe(layout);
  EXPECT_NE(text.find("shard 0: 832 bytes (51.0 %)"), std::string::npos) << text;
  EXPECT_NE(text.find("b[0:108]"), std::string::npos) << text;
}

TEST(PlacementTest, MoreShardsThanElementsLeavesSomeEmpty) {
  const Layout layout = *Layout::Make({Tensor("a", {20})});
  const Placement placement = *Placement::Make(layout, 4, 1024);
  EXPECT_EQ(placement.slices(0).size(), 1u);
  EXPECT_EQ(placement.slices(1).size(), 1u);
  EXPECT_TRUE(placement.slices(2).empty());
  EXPECT_TRUE(placement.slices(3).empty());
}

TEST(PlacementTest, RefusesWhatTagsCannotName) {
  const Layout layout = *Layout::Make({Tensor("a", {int64_t{kMaxSlices} * 16 + 16})});
  EXPECT_TRUE(absl::IsInvalidArgument(Placement::Make(layout, 1, 64).status()));
  EXPECT_TRUE(Placement::Make(layout, 2, 64).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(Placement::Make(layout, 0, 64).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(Placement::Make(layout, 1, 4).status()));
}

// The layout of whoever joins first may ask for any number of slices: too many are not listed.
TEST(PlacementTest, RefusesWithoutListingWhatItRefuses) {
  const auto peak_kib = [] {
    rusage use{};
    getrusage(RUSAGE_SELF, &use);
    return use.ru_maxrss;
  };
  // 16 times what is possible would be 50 MB of slices and more while the list grows.
  const Layout layout = *Layout::Make({Tensor("a", {int64_t{kMaxSlices} * 16 * 16})});
  const auto before = peak_kib();
  const auto refused = Placement::Make(layout, 1, 64);
  EXPECT_TRUE(absl::IsInvalidArgument(refused.status()));
  EXPECT_NE(refused.status().message().find(fmt::format("{} slices", kMaxSlices * 16)),
            std::string::npos)
      << refused.status();
  EXPECT_LT(peak_kib() - before, 16 << 10);
}

}  // namespace
}  // namespace gradwire::ps
