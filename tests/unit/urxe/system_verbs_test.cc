// Beside urxe's devices those of the system's libibverbs, which fake_system.cc stands for.
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <infiniband/verbs.h>

#include <cerrno>
#include <cstdlib>
#include <string>
#include <vector>

#include "transport/urxe/urxe.h"

namespace {

const int kChooseLoopback = setenv("URXE_INTERFACES", "lo", 1);

class SystemVerbsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(kChooseLoopback, 0);
    void* library = dlopen("libibverbs.so.1", RTLD_NOW);
    ASSERT_NE(library, nullptr) << dlerror();
    lists_ = reinterpret_cast<int (*)()>(dlsym(library, "fake_lists"));
    ASSERT_NE(lists_, nullptr) << "not the stand-in: LD_LIBRARY_PATH must lead to it";
    list_ = ibv_get_device_list(&count_);
    ASSERT_NE(list_, nullptr);
  }
  void TearDown() override { ibv_free_device_list(list_); }

  int (*lists_)() = nullptr;
  ibv_device** list_ = nullptr;
  int count_ = 0;
};

TEST_F(SystemVerbsTest, RealDevicesComeFirst) {
  ASSERT_EQ(count_, 2);
  EXPECT_STREQ(ibv_get_device_name(list_[0]), "fake0");
  EXPECT_STREQ(ibv_get_device_name(list_[1]), "urxe0");
  EXPECT_EQ(list_[2], nullptr);
  EXPECT_EQ(ibv_get_device_guid(list_[0]), 0x1234u);
  EXPECT_EQ(ibv_get_device_index(list_[0]), 5);
  EXPECT_EQ(ibv_get_device_index(list_[1]), -1);
}

TEST_F(SystemVerbsTest, ListsAreFreedWhereTheyCameFrom) {
  const int before = lists_();
  std::vector<ibv_device**> lists;
  for (int i = 0; i < 3; ++i) lists.push_back(ibv_get_device_list(nullptr));
  EXPECT_EQ(lists_(), before + 3);
  for (ibv_device** list : lists) ibv_free_device_list(list);
  EXPECT_EQ(lists_(), before);
}

TEST_F(SystemVerbsTest, CallsOnARealDeviceReachTheSystem) {
  ibv_context* context = ibv_open_device(list_[0]);
  ASSERT_NE(context, nullptr);
  EXPECT_EQ(urxe_is_urxe(context), 0);
  ibv_device_attr device = {};
  EXPECT_EQ(ibv_query_device(context, &device), 0);
  EXPECT_EQ(device.max_qp, 4321);
  ibv_port_attr port = {};
  EXPECT_EQ(ibv_query_port(context, 3, &port), 1003) << "through the exported function";
  ibv_pd* pd = ibv_alloc_pd(context);
  ASSERT_NE(pd, nullptr);
  char bytes[16];
  ibv_mr* mr = ibv_reg_mr(pd, bytes, sizeof(bytes), IBV_ACCESS_LOCAL_WRITE);
  ASSERT_NE(mr, nullptr);
  EXPECT_EQ(mr->addr, bytes);
  EXPECT_EQ(mr->lkey, uint32_t{IBV_ACCESS_LOCAL_WRITE});
  EXPECT_EQ(ibv_dereg_mr(mr), 0);
  EXPECT_EQ(ibv_dealloc_pd(pd), 0);
  EXPECT_EQ(ibv_close_device(context), 0);
}

TEST_F(SystemVerbsTest, WhatTheSystemsLibraryLacksIsRefused) {
  ibv_context* context = ibv_open_device(list_[0]);
  ASSERT_NE(context, nullptr);
  EXPECT_EQ(ibv_create_comp_channel(context), nullptr);
  EXPECT_EQ(errno, ENOSYS);
  ibv_gid gid = {};
  EXPECT_NE(ibv_query_gid(context, 1, 0, &gid), 0);
}

TEST_F(SystemVerbsTest, BothAreUsedSideBySide) {
  ibv_context* own = ibv_open_device(list_[1]);
  ASSERT_NE(own, nullptr);
  EXPECT_NE(urxe_is_urxe(own), 0);
  ibv_pd* pd = ibv_alloc_pd(own);
  ibv_pd* other = ibv_alloc_pd(ibv_open_device(list_[0]));
  EXPECT_NE(pd, other);
  EXPECT_EQ(ibv_dealloc_pd(other), 0);
  EXPECT_EQ(ibv_dealloc_pd(pd), 0);
  EXPECT_EQ(ibv_close_device(own), 0);
}

}  // namespace
