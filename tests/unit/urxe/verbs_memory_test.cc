// Memory of urxe's devices as a program registers it.
#include <gtest/gtest.h>
#include <infiniband/verbs.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "tests/unit/urxe/verbs_fixture.h"

namespace urxe {
namespace {

TEST_F(VerbsTest, RegistersWhatIsThereWithLegalAccess) {
  std::vector<char> bytes(10000);
  ibv_mr* mr = ibv_reg_mr(pd_, bytes.data(), bytes.size(), kAccess);
  ASSERT_NE(mr, nullptr);
  EXPECT_EQ(mr->length, bytes.size());
  EXPECT_EQ(ibv_dealloc_pd(pd_), EBUSY);
  EXPECT_EQ(ibv_dereg_mr(mr), 0);

  const auto refused = [&](void* address, size_t length, int access) {
    errno = 0;
    EXPECT_EQ(ibv_reg_mr(pd_, address, length, access), nullptr);
    return errno;
  };
  EXPECT_EQ(refused(bytes.data(), 100, IBV_ACCESS_REMOTE_WRITE), EINVAL);
  EXPECT_EQ(refused(bytes.data(), 100, IBV_ACCESS_REMOTE_ATOMIC), EINVAL);
  EXPECT_EQ(refused(bytes.data(), 100, IBV_ACCESS_ON_DEMAND), EOPNOTSUPP);
  EXPECT_EQ(refused(nullptr, 100, 0), EFAULT);
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* pages = mmap(nullptr, 2 * page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(pages, MAP_FAILED);
  EXPECT_EQ(refused(pages, page, IBV_ACCESS_LOCAL_WRITE), EFAULT) << "read-only memory";
  munmap(static_cast<char*>(pages) + page, page);
  EXPECT_EQ(refused(pages, 2 * page, 0), EFAULT) << "a hole";
  mr = ibv_reg_mr(pd_, pages, page, IBV_ACCESS_REMOTE_READ);
  EXPECT_NE(mr, nullptr);
  EXPECT_EQ(ibv_dereg_mr(mr), 0);
  munmap(pages, page);
}

TEST_F(VerbsTest, ReregistersAccessDomainAndMemory) {
  std::vector<char> bytes(8192);
  ibv_mr* mr = ibv_reg_mr(pd_, bytes.data(), 4096, IBV_ACCESS_LOCAL_WRITE);
  ASSERT_NE(mr, nullptr);
  ibv_pd* other = ibv_alloc_pd(context_);
  const uint32_t key = mr->rkey;
  EXPECT_EQ(ibv_rereg_mr(mr, IBV_REREG_MR_CHANGE_ACCESS, nullptr, nullptr, 0, kAccess), 0);
  EXPECT_EQ(mr->rkey, key);
  EXPECT_EQ(ibv_rereg_mr(mr, IBV_REREG_MR_CHANGE_PD, other, nullptr, 0, 0), 0);
  EXPECT_EQ(mr->pd, other);
  EXPECT_EQ(ibv_dealloc_pd(other), EBUSY);
  EXPECT_EQ(ibv_rereg_mr(mr, IBV_REREG_MR_CHANGE_TRANSLATION, nullptr, bytes.data() + 4096, 100, 0),
            0);
  EXPECT_EQ(mr->addr, bytes.data() + 4096);
  EXPECT_EQ(
      ibv_rereg_mr(mr, IBV_REREG_MR_CHANGE_ACCESS, nullptr, nullptr, 0, IBV_ACCESS_REMOTE_WRITE),
      IBV_REREG_MR_ERR_INPUT);
  EXPECT_EQ(ibv_rereg_mr(mr, 0, nullptr, nullptr, 0, 0), IBV_REREG_MR_ERR_INPUT);
  EXPECT_EQ(ibv_dereg_mr(mr), 0);
  EXPECT_EQ(ibv_dealloc_pd(other), 0);
}

}  // namespace
}  // namespace urxe
