#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "tests/unit/urxe/wire_support.h"
#include "transport/urxe/local/maps.h"
#include "transport/urxe/local/share.h"

namespace urxe {
namespace {

const size_t kPage = static_cast<size_t>(sysconf(_SC_PAGESIZE));

bool IsShared(const void* address) {
  bool shared = false;
  const auto at = reinterpret_cast<uint64_t>(address);
  EXPECT_TRUE(ForEachMapping(getpid(), [&](const MemoryMapping& mapping) {
    if (at < mapping.start || at >= mapping.end) return true;
    shared = mapping.shared;
    return false;
  }));
  return shared;
}

class ShareTest : public testing::Test {
 protected:
  void SetUp() override {
    void* const base =
        mmap(nullptr, 8 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(base, MAP_FAILED);
    memory_ = static_cast<std::byte*>(base);
    content_ = RandomBytes(8 * kPage, 1);
    std::memcpy(memory_, content_.data(), content_.size());
  }
  void TearDown() override { munmap(memory_, 8 * kPage); }
  std::byte* memory_ = nullptr;
  std::vector<std::byte> content_;
};

TEST_F(ShareTest, MovesWholePagesOnlyAndKeepsTheirContents) {
  const int fd = MoveIntoSharedFile(memory_ + 100, 4 * kPage);
  ASSERT_GE(fd, 0);
  EXPECT_EQ(std::memcmp(memory_, content_.data(), content_.size()), 0);
  EXPECT_FALSE(IsShared(memory_));
  EXPECT_TRUE(IsShared(memory_ + kPage));
  EXPECT_TRUE(IsShared(memory_ + 4 * kPage - 1));
  EXPECT_FALSE(IsShared(memory_ + 4 * kPage));
  // Whoever maps the file writes into the same memory.
  void* const other = mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  ASSERT_NE(other, MAP_FAILED);
  std::memset(other, 0x5A, kPage);
  EXPECT_EQ(memory_[kPage], std::byte{0x5A});
  EXPECT_EQ(memory_[2 * kPage - 1], std::byte{0x5A});
  EXPECT_EQ(memory_[2 * kPage], content_[2 * kPage]);
  // Nobody can cut it short under those who map it.
  EXPECT_NE(ftruncate(fd, 0), 0);
  munmap(other, kPage);
  close(fd);
}

TEST_F(ShareTest, LeavesOtherMemoryAsItIs) {
  EXPECT_EQ(MoveIntoSharedFile(memory_ + 8, kPage), -1);  // no whole page
  EXPECT_EQ(errno, ENOTSUP);
  ASSERT_EQ(mprotect(memory_ + 2 * kPage, kPage, PROT_READ), 0);
  EXPECT_EQ(MoveIntoSharedFile(memory_, 8 * kPage), -1);
  EXPECT_EQ(errno, ENOTSUP);
  ASSERT_EQ(munmap(memory_ + 6 * kPage, kPage), 0);
  EXPECT_EQ(MoveIntoSharedFile(memory_ + 4 * kPage, 4 * kPage), -1);
  EXPECT_EQ(errno, ENOTSUP);
  // What is shared already stays in its file.
  void* const shared =
      mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(shared, MAP_FAILED);
  EXPECT_EQ(MoveIntoSharedFile(shared, kPage), -1);
  EXPECT_EQ(errno, ENOTSUP);
  munmap(shared, kPage);
  EXPECT_FALSE(IsShared(memory_));
}

}  // namespace
}  // namespace urxe
