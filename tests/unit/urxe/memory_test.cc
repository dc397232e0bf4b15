#include <gtest/gtest.h>
#include <infiniband/verbs.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include "transport/urxe/engine/arena.h"
#include "transport/urxe/engine/memory_table.h"

namespace urxe {
namespace {

constexpr uint32_t kPd = 7;
constexpr uint32_t kRead = IBV_ACCESS_REMOTE_READ;
constexpr uint32_t kWrite = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE;

bool AllZero(const void* block, size_t size) {
  const auto* bytes = static_cast<const unsigned char*>(block);
  return std::all_of(bytes, bytes + size, [](unsigned char byte) { return byte == 0; });
}

class MemoryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    arena_ = Arena::Create(3);
    ASSERT_NE(arena_, nullptr) << strerror(errno);
  }
  std::unique_ptr<Arena> arena_;
};

TEST_F(MemoryTest, BlocksAreZeroedAndAlignedAlsoWhenReused) {
  for (const size_t size : {size_t{1}, size_t{64}, size_t{5000}, size_t{300000}}) {
    void* first = arena_->Allocate(size);
    ASSERT_NE(first, nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(first) % 64, 0u);
    EXPECT_TRUE(AllZero(first, size));
    memset(first, 0xAB, size);
    arena_->Free(first, size);
    void* second = arena_->Allocate(size);
    EXPECT_EQ(second, first) << "a block that was given back is used again";
    EXPECT_TRUE(AllZero(second, size)) << size;
  }
}

TEST_F(MemoryTest, BlocksDoNotOverlap) {
  char* small = static_cast<char*>(arena_->Allocate(100));
  char* large = static_cast<char*>(arena_->Allocate(100000));
  char* other = static_cast<char*>(arena_->Allocate(100));
  memset(small, 1, 100);
  memset(large, 2, 100000);
  memset(other, 3, 100);
  EXPECT_EQ(small[99], 1);
  EXPECT_EQ(large[0], 2);
  EXPECT_EQ(large[99999], 2);
}

TEST_F(MemoryTest, AFullArenaSaysSo) {
  EXPECT_EQ(arena_->Allocate(size_t{1} << 40), nullptr);
  EXPECT_EQ(arena_->Allocate(SIZE_MAX), nullptr);
}

TEST_F(MemoryTest, OffsetsOfPeersAreChecked) {
  void* block = arena_->Allocate(64);
  EXPECT_EQ(arena_->At(arena_->OffsetOf(block), 64), block);
  EXPECT_EQ(arena_->At(0, 64), nullptr) << "the header is no block";
  EXPECT_EQ(arena_->At(UINT64_MAX, 1), nullptr);
  EXPECT_EQ(arena_->At(arena_->OffsetOf(block), SIZE_MAX), nullptr);
}

TEST_F(MemoryTest, AnotherMappingSeesTheSameBytes) {
  const std::unique_ptr<Arena> seen = Arena::MapOf(getpid());
  ASSERT_NE(seen, nullptr) << strerror(errno);
  EXPECT_NE(&seen->header(), &arena_->header());
  EXPECT_EQ(seen->header().slot, 3u);
  char* block = static_cast<char*>(arena_->Allocate(64));
  block[5] = 'x';
  EXPECT_EQ(static_cast<char*>(seen->At(arena_->OffsetOf(block), 64))[5], 'x');
}

TEST_F(MemoryTest, ItsMemoryCannotBeCutShortByItsOwner) {
  // Another process that maps it would die of SIGBUS.
  const std::string link = "/proc/self/fd/";
  bool found = false;
  for (int fd = 3; fd < 200; ++fd) {
    char target[64] = {};
    if (readlink((link + std::to_string(fd)).c_str(), target, sizeof(target) - 1) < 0) continue;
    if (strncmp(target, "/memfd:urxe-arena", 17) != 0) continue;
    found = true;
    EXPECT_NE(ftruncate(fd, 0), 0);
    EXPECT_EQ(errno, EPERM);
  }
  EXPECT_TRUE(found);
}

TEST(ArenaTest, AProcessWithoutOneHasNone) {
  ASSERT_EQ(Arena::MapOf(getpid()), nullptr);
  EXPECT_EQ(errno, ENOENT);
}

TEST(ArenaTest, CountersOutliveIt) {
  const uint64_t before = Counters().malformed;
  Count(&urxe_counters::malformed);
  {
    const std::unique_ptr<Arena> arena = Arena::Create(1);
    ASSERT_NE(arena, nullptr);
    EXPECT_EQ(arena->header().counters.malformed, before + 1);
    Count(&urxe_counters::malformed, 2);
    EXPECT_EQ(arena->header().counters.malformed, before + 3);
  }
  EXPECT_EQ(Counters().malformed, before + 3);
}

class MemoryTableTest : public MemoryTest {
 protected:
  void SetUp() override {
    MemoryTest::SetUp();
    table_ = std::make_unique<MemoryTable>(*arena_);
  }
  std::unique_ptr<MemoryTable> table_;
  char bytes_[4096] = {};
  uint64_t address_ = reinterpret_cast<uint64_t>(bytes_);
};

TEST_F(MemoryTableTest, GrantsExactlyTheRange) {
  const uint64_t iova = 0x10000;
  const uint32_t key = table_->Register(address_, iova, 4096, kWrite, kPd);
  ASSERT_NE(key, 0u);
  const auto at = [&](uint64_t offset) { return reinterpret_cast<std::byte*>(bytes_ + offset); };
  EXPECT_EQ(table_->Find(key, kPd, kWrite, iova, 4096), at(0));
  EXPECT_EQ(table_->Find(key, kPd, kWrite, iova + 4095, 1), at(4095));
  EXPECT_EQ(table_->Find(key, kPd, kWrite, iova, 4097), nullptr);
  EXPECT_EQ(table_->Find(key, kPd, kWrite, iova + 4095, 2), nullptr);
  EXPECT_EQ(table_->Find(key, kPd, kWrite, iova - 1, 1), nullptr);
  EXPECT_EQ(table_->Find(key, kPd, kWrite, address_, 1), nullptr) << "not by its address";
  EXPECT_EQ(table_->Find(key, kPd, kWrite, iova + 1, UINT64_MAX), nullptr) << "wraps around";
  EXPECT_EQ(table_->Find(key, kPd, kWrite, UINT64_MAX, 2), nullptr);
}

TEST_F(MemoryTableTest, ChecksDomainAccessAndKey) {
  const uint32_t key = table_->Register(address_, 0, 4096, kRead, kPd);
  EXPECT_NE(table_->Find(key, kPd, kRead, 0, 1), nullptr);
  EXPECT_EQ(table_->Find(key, kPd + 1, kRead, 0, 1), nullptr);
  EXPECT_EQ(table_->Find(key, kPd, IBV_ACCESS_REMOTE_WRITE, 0, 1), nullptr);
  EXPECT_EQ(table_->Find(key, kPd, kRead | IBV_ACCESS_REMOTE_WRITE, 0, 1), nullptr);
  for (const uint32_t wrong : {key ^ 1, key + 256, 0u, UINT32_MAX}) {
    EXPECT_EQ(table_->Find(wrong, kPd, kRead, 0, 1), nullptr) << wrong;
  }
}

TEST_F(MemoryTableTest, AKeyEndsWithItsRegion) {
  const uint32_t key = table_->Register(address_, 0, 4096, kRead, kPd);
  table_->Deregister(key);
  EXPECT_EQ(table_->Find(key, kPd, kRead, 0, 1), nullptr);
  const uint32_t next = table_->Register(address_, 0, 4096, kRead, kPd);
  EXPECT_EQ(next >> 8, key >> 8) << "the entry is used again";
  EXPECT_NE(next, key);
  EXPECT_EQ(table_->Find(key, kPd, kRead, 0, 1), nullptr);
  table_->Deregister(key);  // of the past: the new region stays
  EXPECT_NE(table_->Find(next, kPd, kRead, 0, 1), nullptr);
}

TEST_F(MemoryTableTest, ReregisteringKeepsTheKeyOfTheSameMemory) {
  const uint32_t key = table_->Register(address_, 0, 4096, kRead, kPd);
  EXPECT_EQ(table_->Reregister(key, address_, 0, 4096, kWrite, kPd + 1), key);
  EXPECT_EQ(table_->Find(key, kPd, kRead, 0, 1), nullptr);
  EXPECT_NE(table_->Find(key, kPd + 1, kWrite, 0, 1), nullptr);
  const uint32_t moved = table_->Reregister(key, address_ + 64, 0, 64, kWrite, kPd);
  EXPECT_NE(moved, key);
  EXPECT_EQ(table_->Find(key, kPd, kWrite, 0, 1), nullptr);
  EXPECT_EQ(table_->Find(moved, kPd, kWrite, 0, 64), reinterpret_cast<std::byte*>(bytes_ + 64));
  EXPECT_EQ(table_->Reregister(key, address_, 0, 64, kWrite, kPd), 0u) << "no such key any more";
}

TEST_F(MemoryTableTest, AnotherMappingChecksTheSame) {
  const std::unique_ptr<Arena> seen = Arena::MapOf(getpid());
  ASSERT_NE(seen, nullptr);
  const uint32_t key = table_->Register(address_, 0x5000, 4096, kRead, kPd);
  const SharedRegion* regions = seen->header().regions;
  EXPECT_EQ(MemoryTable::FindIn(regions, key, kPd, kRead, 0x5001, 1), address_ + 1);
  EXPECT_EQ(MemoryTable::FindIn(regions, key, kPd, kWrite, 0x5001, 1), 0u);
  table_->Deregister(key);
  EXPECT_EQ(MemoryTable::FindIn(regions, key, kPd, kRead, 0x5001, 1), 0u);
}

}  // namespace
}  // namespace urxe
