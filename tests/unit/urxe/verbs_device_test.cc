// urxe's devices as a program sees them: their description, port, GIDs, contexts and counters.
#include <endian.h>
#include <gtest/gtest.h>
#include <infiniband/verbs.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "tests/unit/urxe/verbs_fixture.h"
#include "transport/urxe/urxe.h"

namespace urxe {
namespace {

TEST_F(VerbsTest, DevicesAreListedAndDescribed) {
  ibv_device** list = ibv_get_device_list(nullptr);
  ASSERT_NE(list, nullptr);
  ibv_device* device = FindUrxe(list);
  ASSERT_NE(device, nullptr);
  EXPECT_EQ(device->node_type, IBV_NODE_CA);
  EXPECT_EQ(device->transport_type, IBV_TRANSPORT_IB);
  EXPECT_EQ(device, context_->device);
  ibv_free_device_list(list);

  ibv_device_attr attr = {};
  ASSERT_EQ(ibv_query_device(context_, &attr), 0);
  EXPECT_EQ(attr.node_guid, ibv_get_device_guid(context_->device));
  EXPECT_NE(attr.node_guid, 0u);
  EXPECT_EQ(attr.phys_port_cnt, 1);
  EXPECT_EQ(attr.atomic_cap, IBV_ATOMIC_HCA);
  EXPECT_EQ(attr.max_mw, 0) << "not served, so not claimed";
  EXPECT_EQ(attr.max_mcast_grp, 0);
  ibv_device_attr_ex extended = {};
  ASSERT_EQ(ibv_query_device_ex(context_, nullptr, &extended), 0);
  EXPECT_EQ(extended.orig_attr.max_qp, attr.max_qp);
  EXPECT_EQ(extended.odp_caps.general_caps, 0u);
  EXPECT_EQ(extended.max_dm_size, 0u);
}

TEST_F(VerbsTest, ThePortFollowsItsInterface) {
  ibv_port_attr port = {};
  ASSERT_EQ(ibv_query_port(context_, 1, &port), 0);
  EXPECT_EQ(port.state, IBV_PORT_ACTIVE);
  EXPECT_EQ(port.link_layer, IBV_LINK_LAYER_ETHERNET);
  EXPECT_EQ(port.active_mtu, IBV_MTU_4096) << "lo carries 64 KiB";
  EXPECT_EQ(ibv_query_port(context_, 0, &port), EINVAL);
  EXPECT_EQ(ibv_query_port(context_, 2, &port), EINVAL);
  __be16 pkey = 0;
  EXPECT_EQ(ibv_query_pkey(context_, 1, 0, &pkey), 0);
  EXPECT_EQ(be16toh(pkey), 0xFFFF);
  EXPECT_EQ(ibv_query_pkey(context_, 1, 1, &pkey), -1);
  EXPECT_EQ(ibv_get_pkey_index(context_, 1, htobe16(0xFFFF)), 0);
}

TEST_F(VerbsTest, TheFirstGidIsTheIpv4Address) {
  ibv_gid gid = {};
  ASSERT_EQ(ibv_query_gid(context_, 1, 0, &gid), 0);
  const uint8_t loopback[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 127, 0, 0, 1};
  EXPECT_EQ(memcmp(gid.raw, loopback, 16), 0);
  ibv_gid_entry entry = {};
  ASSERT_EQ(ibv_query_gid_ex(context_, 1, 0, &entry, 0), 0);
  EXPECT_EQ(entry.gid_type, uint32_t{IBV_GID_TYPE_ROCE_V2});
  EXPECT_EQ(entry.ndev_ifindex, 1u);
  ibv_port_attr port = {};
  ASSERT_EQ(ibv_query_port(context_, 1, &port), 0);
  const auto last = static_cast<uint32_t>(port.gid_tbl_len - 1);
  EXPECT_EQ(ibv_query_gid_ex(context_, 1, last, &entry, 0), ENODATA);
  EXPECT_EQ(ibv_query_gid_ex(context_, 1, last + 1, &entry, 0), EINVAL);
  EXPECT_EQ(ibv_query_gid(context_, 1, port.gid_tbl_len, &gid), -1);
  std::array<ibv_gid_entry, 64> table = {};
  const ssize_t count = ibv_query_gid_table(context_, table.data(), table.size(), 0);
  ASSERT_GE(count, 1);
  EXPECT_EQ(memcmp(table[0].gid.raw, loopback, 16), 0);
  EXPECT_EQ(ibv_query_gid_table(context_, table.data(), 0, 0), -EINVAL);
}

TEST_F(VerbsTest, ADeviceOpensTwiceAndContextsStayApart) {
  ibv_context* second = Open();
  ASSERT_NE(second, nullptr);
  EXPECT_NE(second, context_);
  ibv_pd* pd = ibv_alloc_pd(second);
  ibv_qp_init_attr init = Wanted();
  EXPECT_EQ(ibv_create_qp(pd, &init), nullptr) << "the queue is the other context's";
  EXPECT_EQ(errno, EINVAL);
  EXPECT_EQ(ibv_close_device(second), 0) << "as the system's libibverbs, with objects left";
  EXPECT_EQ(ibv_dealloc_pd(pd), 0);
}

TEST_F(VerbsTest, AddressHandlesOfDatagrams) {
  ibv_ah_attr attr = Path(0).ah_attr;
  ibv_ah* handle = ibv_create_ah(pd_, &attr);
  ASSERT_NE(handle, nullptr) << strerror(errno);
  EXPECT_EQ(ibv_destroy_ah(handle), 0);
  attr.is_global = 0;
  EXPECT_EQ(ibv_create_ah(pd_, &attr), nullptr);
  EXPECT_EQ(errno, EINVAL);
  // As a datagram over IPv4 brings it: the IP header in the last 20 bytes.
  uint8_t grh[40] = {};
  const uint8_t ip[20] = {0x45, 0x08, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 127, 0, 0, 5, 127, 0, 0, 1};
  memcpy(grh + 20, ip, sizeof(ip));
  ibv_wc wc = {};
  wc.wc_flags = IBV_WC_GRH;
  ASSERT_EQ(ibv_init_ah_from_wc(context_, 1, &wc, reinterpret_cast<ibv_grh*>(grh), &attr), 0);
  EXPECT_EQ(attr.is_global, 1);
  EXPECT_EQ(attr.grh.sgid_index, 0);
  EXPECT_EQ(attr.grh.traffic_class, 8);
  const uint8_t sender[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 127, 0, 0, 5};
  EXPECT_EQ(memcmp(attr.grh.dgid.raw, sender, 16), 0);
  grh[39] = 77;  // not an address of ours
  EXPECT_EQ(ibv_init_ah_from_wc(context_, 1, &wc, reinterpret_cast<ibv_grh*>(grh), &attr), -1);
}

TEST_F(VerbsTest, CountersAndFaults) {
  urxe_counters before = {};
  ASSERT_EQ(urxe_read_counters(&before, sizeof(before)), 0);
  ibv_qp* a = nullptr;
  ibv_qp* b = nullptr;
  Connect(a, b);
  ibv_recv_wr receive = {};
  ibv_recv_wr* bad_receive = nullptr;
  ASSERT_EQ(ibv_post_recv(a, &receive, &bad_receive), 0);
  ibv_send_wr send = {};
  ibv_send_wr* bad = nullptr;
  send.opcode = IBV_WR_SEND;
  send.send_flags = IBV_SEND_SIGNALED;
  ASSERT_EQ(ibv_post_send(b, &send, &bad), 0);
  Poll(2);
  urxe_counters after = {};
  ASSERT_EQ(urxe_read_counters_of(getpid(), &after, sizeof(after)), 0);
  EXPECT_EQ(after.doorbells, before.doorbells + 1);
  // A program of an earlier version asks for fewer counters.
  urxe_counters partial = {};
  EXPECT_EQ(urxe_read_counters(&partial, 2 * sizeof(uint64_t)), 0);
  EXPECT_EQ(partial.doorbells, 0u);
  EXPECT_EQ(urxe_read_counters(nullptr, sizeof(after)), EINVAL);
  EXPECT_EQ(urxe_read_counters(&after, 3), EINVAL);
  EXPECT_EQ(urxe_read_counters_of(1 << 30, &after, sizeof(after)), ENOENT);
  EXPECT_EQ(urxe_set_faults("drop=2"), EINVAL);
  EXPECT_EQ(urxe_set_faults(nullptr), EINVAL);
  EXPECT_EQ(urxe_set_faults("drop=0.5,seed=3"), 0);
  EXPECT_EQ(urxe_set_faults(""), 0);
  EXPECT_EQ(ibv_destroy_qp(a), 0);
  EXPECT_EQ(ibv_destroy_qp(b), 0);
}

}  // namespace
}  // namespace urxe
