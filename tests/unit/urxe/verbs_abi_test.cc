// liburxe.so must define every public function of libibverbs, and each must answer on a urxe
// context without a crash: what is not supported says so.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <infiniband/verbs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <set>
#include <string>

#include "transport/urxe/urxe.h"

#undef ibv_query_port
#undef ibv_reg_mr
#undef ibv_reg_mr_iova

extern "C" {
int ibv_query_gid_type(ibv_context*, uint8_t, unsigned int, unsigned int*);
int ibv_query_qp_data_in_order(ibv_qp*, ibv_wr_opcode, uint32_t);
const char* ibv_get_sysfs_path(void);
int ibv_read_sysfs_file(const char*, const char*, char*, size_t);
int ibv_dontfork_range(void*, size_t);
int ibv_dofork_range(void*, size_t);
void ibv_copy_ah_attr_from_kern(void*, void*);
void ibv_copy_qp_attr_from_kern(void*, void*);
void ibv_copy_path_rec_from_kern(void*, void*);
void ibv_copy_path_rec_to_kern(void*, void*);
}

namespace {

// Defined names of a library; of versioned ones only those with a default version that is public.
std::set<std::string> Exported(const std::string& library, const std::string& filter) {
  std::set<std::string> names;
  FILE* pipe = popen(("nm -D --defined-only " + library + " | awk '$2 ~ /^[TW]$/ { print $3 }'" +
                      filter + " | sed 's/@.*//'")
                         .c_str(),
                     "r");
  if (pipe == nullptr) return names;
  char line[256];
  while (fgets(line, sizeof(line), pipe) != nullptr) {
    names.insert(std::string(line, std::string(line).find('\n')));
  }
  pclose(pipe);
  return names;
}

std::string SystemLibrary() {
  FILE* maps = fopen("/proc/self/maps", "r");
  char line[4096];
  std::string path;
  while (maps != nullptr && fgets(line, sizeof(line), maps) != nullptr) {
    const std::string text = line;
    const size_t at = text.find('/');
    if (at != std::string::npos && text.find("libibverbs.so.1") != std::string::npos) {
      path = text.substr(at, text.find('\n') - at);
      break;
    }
  }
  if (maps != nullptr) fclose(maps);
  return path;
}

// What the calls need, on urxe0 over lo.
struct Objects {
  Objects() {
    setenv("URXE_INTERFACES", "lo", 1);
    ibv_device** list = ibv_get_device_list(nullptr);
    for (ibv_device** at = list; list != nullptr && *at != nullptr; ++at) {
      if (std::string(ibv_get_device_name(*at)) == "urxe0") device = *at;
    }
    context = ibv_open_device(device);
    ibv_free_device_list(list);
    pd = ibv_alloc_pd(context);
    channel = ibv_create_comp_channel(context);
    cq = ibv_create_cq(context, 10, nullptr, channel, 0);
    mr = ibv_reg_mr(pd, bytes, sizeof(bytes), IBV_ACCESS_LOCAL_WRITE);
    ibv_srq_init_attr srq_init = {};
    srq_init.attr = {4, 1, 0};
    srq = ibv_create_srq(pd, &srq_init);
    ibv_qp_init_attr init = {};
    init.send_cq = init.recv_cq = cq;
    init.cap = {4, 4, 1, 1, 0};
    init.qp_type = IBV_QPT_UD;
    qp = ibv_create_qp(pd, &init);
    ah.is_global = 1;
    ah.port_num = 1;
    ibv_query_gid(context, 1, 0, &ah.grh.dgid);
  }
  ~Objects() {
    EXPECT_EQ(ibv_destroy_qp(qp), 0);
    EXPECT_EQ(ibv_destroy_srq(srq), 0);
    EXPECT_EQ(ibv_dereg_mr(mr), 0);
    EXPECT_EQ(ibv_destroy_cq(cq), 0);
    EXPECT_EQ(ibv_destroy_comp_channel(channel), 0);
    EXPECT_EQ(ibv_dealloc_pd(pd), 0);
    EXPECT_EQ(ibv_close_device(context), 0);
  }
  Objects(const Objects&) = delete;
  Objects& operator=(const Objects&) = delete;
  ibv_device* device = nullptr;
  ibv_context* context = nullptr;
  ibv_pd* pd = nullptr;
  ibv_comp_channel* channel = nullptr;
  ibv_cq* cq = nullptr;
  ibv_mr* mr = nullptr;
  ibv_srq* srq = nullptr;
  ibv_qp* qp = nullptr;
  ibv_ah_attr ah = {};
  char bytes[4096] = {};
};

// One call of each function, by name, with what must come of it checked.
std::map<std::string, std::function<void()>> Calls(Objects& o) {
  const auto refused = [](const void* made) {
    EXPECT_EQ(made, nullptr);
    EXPECT_EQ(errno, EOPNOTSUPP);
  };
  std::map<std::string, std::function<void()>> calls;
  calls["_ibv_query_gid_ex"] = [&] {
    ibv_gid_entry entry = {};
    EXPECT_EQ(_ibv_query_gid_ex(o.context, 1, 0, &entry, 0, sizeof(entry)), 0);
    EXPECT_EQ(_ibv_query_gid_ex(o.context, 1, 0, &entry, 1, sizeof(entry)), EOPNOTSUPP);
  };
  calls["_ibv_query_gid_table"] = [&] {
    ibv_gid_entry entries[64] = {};
    EXPECT_GE(_ibv_query_gid_table(o.context, entries, 64, 0, sizeof(entries[0])), 1);
  };
  calls["ibv_ack_async_event"] = [&] {
    ibv_async_event event = {};
    event.event_type = IBV_EVENT_PORT_ACTIVE;
    ibv_ack_async_event(&event);
  };
  calls["ibv_ack_cq_events"] = [&] { ibv_ack_cq_events(o.cq, 0); };
  calls["ibv_alloc_pd"] =
      calls["ibv_dealloc_pd"] = [&] { EXPECT_EQ(ibv_dealloc_pd(ibv_alloc_pd(o.context)), 0); };
  calls["ibv_attach_mcast"] = [&] {
    EXPECT_EQ(ibv_attach_mcast(o.qp, &o.ah.grh.dgid, 0), EOPNOTSUPP);
  };
  calls["ibv_detach_mcast"] = [&] {
    EXPECT_EQ(ibv_detach_mcast(o.qp, &o.ah.grh.dgid, 0), EOPNOTSUPP);
  };
  calls["ibv_open_device"] = calls["ibv_close_device"] = [&] {
    EXPECT_EQ(ibv_close_device(ibv_open_device(o.device)), 0);
  };
  calls["ibv_create_ah"] =
      calls["ibv_destroy_ah"] = [&] { EXPECT_EQ(ibv_destroy_ah(ibv_create_ah(o.pd, &o.ah)), 0); };
  calls["ibv_create_ah_from_wc"] = [&] {
    ibv_wc wc = {};
    EXPECT_EQ(ibv_create_ah_from_wc(o.pd, &wc, nullptr, 1), nullptr) << "without a GRH";
  };
  calls["ibv_init_ah_from_wc"] = [&] {
    ibv_wc wc = {};
    ibv_ah_attr attr = {};
    EXPECT_EQ(ibv_init_ah_from_wc(o.context, 1, &wc, nullptr, &attr), -1);
  };
  calls["ibv_create_comp_channel"] = calls["ibv_destroy_comp_channel"] = [&] {
    EXPECT_EQ(ibv_destroy_comp_channel(ibv_create_comp_channel(o.context)), 0);
  };
  calls["ibv_create_cq"] = calls["ibv_destroy_cq"] = [&] {
    EXPECT_EQ(ibv_destroy_cq(ibv_create_cq(o.context, 1, nullptr, nullptr, 0)), 0);
  };
  calls["ibv_create_qp"] = calls["ibv_destroy_qp"] = [&] {
    ibv_qp_init_attr init = {};
    init.send_cq = init.recv_cq = o.cq;
    init.qp_type = IBV_QPT_RC;
    EXPECT_EQ(ibv_destroy_qp(ibv_create_qp(o.pd, &init)), 0);
  };
  calls["ibv_create_srq"] = calls["ibv_destroy_srq"] = [&] {
    ibv_srq_init_attr init = {};
    init.attr.max_wr = 1;
    EXPECT_EQ(ibv_destroy_srq(ibv_create_srq(o.pd, &init)), 0);
  };
  calls["ibv_reg_mr"] =
      calls["ibv_dereg_mr"] = [&] { EXPECT_EQ(ibv_dereg_mr(ibv_reg_mr(o.pd, o.bytes, 10, 0)), 0); };
  calls["ibv_reg_mr_iova"] = [&] {
    const auto offset = reinterpret_cast<uint64_t>(o.bytes) & 4095;
    EXPECT_EQ(ibv_dereg_mr(ibv_reg_mr_iova(o.pd, o.bytes, 10, offset, 0)), 0);
  };
  calls["ibv_reg_mr_iova2"] = [&] {
    const auto offset = reinterpret_cast<uint64_t>(o.bytes) & 4095;
    EXPECT_EQ(
        ibv_dereg_mr(ibv_reg_mr_iova2(o.pd, o.bytes, 10, offset, IBV_ACCESS_RELAXED_ORDERING)), 0);
  };
  calls["ibv_reg_dmabuf_mr"] = [&, refused] { refused(ibv_reg_dmabuf_mr(o.pd, 0, 1, 0, 0, 0)); };
  calls["ibv_rereg_mr"] = [&] {
    EXPECT_EQ(ibv_rereg_mr(o.mr, IBV_REREG_MR_CHANGE_ACCESS, nullptr, nullptr, 0, 0), 0);
  };
  calls["ibv_is_fork_initialized"] = [] {
    EXPECT_GE(ibv_is_fork_initialized(), IBV_FORK_DISABLED);
  };
  calls["ibv_free_device_list"] = calls["ibv_get_device_list"] = [] {
    int count = 0;
    ibv_device** list = ibv_get_device_list(&count);
    EXPECT_GE(count, 1);
    EXPECT_EQ(list[count], nullptr);
    ibv_free_device_list(list);
  };
  calls["ibv_get_async_event"] = [&] {
    fcntl(o.context->async_fd, F_SETFL, O_NONBLOCK);
    ibv_async_event event = {};
    EXPECT_EQ(ibv_get_async_event(o.context, &event), -1);
    EXPECT_EQ(errno, EAGAIN);
  };
  calls["ibv_get_cq_event"] = [&] {
    fcntl(o.channel->fd, F_SETFL, O_NONBLOCK);
    ibv_cq* cq = nullptr;
    void* own = nullptr;
    EXPECT_EQ(ibv_get_cq_event(o.channel, &cq, &own), -1);
    EXPECT_EQ(errno, EAGAIN);
  };
  calls["ibv_get_device_guid"] = [&] { EXPECT_NE(ibv_get_device_guid(o.device), 0u); };
  calls["ibv_get_device_index"] = [&] { EXPECT_EQ(ibv_get_device_index(o.device), -1); };
  calls["ibv_get_device_name"] = [&] { EXPECT_STREQ(ibv_get_device_name(o.device), "urxe0"); };
  calls["ibv_get_pkey_index"] = [&] { EXPECT_EQ(ibv_get_pkey_index(o.context, 1, 0xFFFF), 0); };
  calls["ibv_query_pkey"] = [&] {
    __be16 pkey = 0;
    EXPECT_EQ(ibv_query_pkey(o.context, 1, 0, &pkey), 0);
  };
  calls["ibv_import_device"] = [&, refused] { refused(ibv_import_device(o.context->cmd_fd)); };
  calls["ibv_import_pd"] = [&, refused] { refused(ibv_import_pd(o.context, o.pd->handle)); };
  calls["ibv_import_mr"] = [&, refused] { refused(ibv_import_mr(o.pd, o.mr->handle)); };
  calls["ibv_import_dm"] = [&, refused] { refused(ibv_import_dm(o.context, 1)); };
  calls["ibv_unimport_pd"] = [&] { ibv_unimport_pd(o.pd); };
  calls["ibv_unimport_mr"] = [&] { ibv_unimport_mr(o.mr); };
  calls["ibv_unimport_dm"] = [&] {
    ibv_dm dm = {};
    dm.context = o.context;
    ibv_unimport_dm(&dm);
  };
  calls["ibv_modify_qp"] = [&] {
    ibv_qp_attr attr = {};
    attr.qp_state = IBV_QPS_RTS;
    EXPECT_EQ(ibv_modify_qp(o.qp, &attr, IBV_QP_STATE), EINVAL);
  };
  calls["ibv_query_qp"] = [&] {
    ibv_qp_attr attr = {};
    ibv_qp_init_attr init = {};
    EXPECT_EQ(ibv_query_qp(o.qp, &attr, 0, &init), 0);
  };
  calls["ibv_query_qp_data_in_order"] = [&] {
    EXPECT_EQ(ibv_query_qp_data_in_order(o.qp, IBV_WR_SEND, 0), 0);
  };
  calls["ibv_qp_to_qp_ex"] = [&] { EXPECT_EQ(ibv_qp_to_qp_ex(o.qp), nullptr); };
  calls["ibv_query_ece"] = [&] {
    ibv_ece ece = {1, 1, 1};
    EXPECT_EQ(ibv_query_ece(o.qp, &ece), EOPNOTSUPP);
    EXPECT_EQ(ece.vendor_id, 0u);
  };
  calls["ibv_set_ece"] = [&] {
    ibv_ece ece = {};
    EXPECT_EQ(ibv_set_ece(o.qp, &ece), EOPNOTSUPP);
  };
  calls["ibv_modify_srq"] = [&] {
    ibv_srq_attr attr = {};
    attr.max_wr = 10;
    EXPECT_EQ(ibv_modify_srq(o.srq, &attr, IBV_SRQ_MAX_WR), EOPNOTSUPP) << "not claimed";
  };
  calls["ibv_query_srq"] = [&] {
    ibv_srq_attr attr = {};
    EXPECT_EQ(ibv_query_srq(o.srq, &attr), 0);
  };
  calls["ibv_query_device"] = [&] {
    ibv_device_attr attr = {};
    EXPECT_EQ(ibv_query_device(o.context, &attr), 0);
  };
  calls["ibv_query_gid"] = [&] {
    ibv_gid gid = {};
    EXPECT_EQ(ibv_query_gid(o.context, 1, -1, &gid), -1);
  };
  calls["ibv_query_gid_type"] = [&] {
    unsigned type = 0;
    EXPECT_EQ(ibv_query_gid_type(o.context, 1, 0, &type), 0);
    EXPECT_EQ(type, 1u) << "sysfs' RoCE v2";
  };
  calls["ibv_query_port"] = [&] {
    // The exported function fills the structure as it was before port_cap_flags2.
    alignas(ibv_port_attr) unsigned char bytes[sizeof(ibv_port_attr) + 16];
    memset(bytes, 0xEE, sizeof(bytes));
    auto* attr = reinterpret_cast<ibv_port_attr*>(bytes);
    EXPECT_EQ(ibv_query_port(o.context, 1, reinterpret_cast<_compat_ibv_port_attr*>(bytes)), 0);
    EXPECT_EQ(attr->link_layer, IBV_LINK_LAYER_ETHERNET);
    EXPECT_EQ(attr->port_cap_flags2, 0xEEEE) << "beyond the old structure";
  };
  calls["ibv_resize_cq"] = [&] { EXPECT_EQ(ibv_resize_cq(o.cq, 20), 0); };
  calls["ibv_resolve_eth_l2_from_gid"] = [&] {
    uint8_t mac[6];
    uint16_t vlan = 0;
    EXPECT_EQ(ibv_resolve_eth_l2_from_gid(o.context, &o.ah, mac, &vlan), -EOPNOTSUPP);
  };
  // The rest concerns no device.
  calls["ibv_wc_status_str"] = [] { EXPECT_STREQ(ibv_wc_status_str(IBV_WC_SUCCESS), "success"); };
  calls["ibv_node_type_str"] = [] { EXPECT_NE(ibv_node_type_str(IBV_NODE_CA), nullptr); };
  calls["ibv_port_state_str"] = [] { EXPECT_NE(ibv_port_state_str(IBV_PORT_DOWN), nullptr); };
  calls["ibv_event_type_str"] = [] { EXPECT_NE(ibv_event_type_str(IBV_EVENT_CQ_ERR), nullptr); };
  calls["ibv_rate_to_mult"] = [] { EXPECT_EQ(ibv_rate_to_mult(IBV_RATE_5_GBPS), 2); };
  calls["mult_to_ibv_rate"] = [] { EXPECT_EQ(mult_to_ibv_rate(2), IBV_RATE_5_GBPS); };
  calls["ibv_rate_to_mbps"] = [] { EXPECT_EQ(ibv_rate_to_mbps(IBV_RATE_5_GBPS), 5000); };
  calls["mbps_to_ibv_rate"] = [] { EXPECT_EQ(mbps_to_ibv_rate(5000), IBV_RATE_5_GBPS); };
  calls["ibv_get_sysfs_path"] = [] { EXPECT_NE(ibv_get_sysfs_path(), nullptr); };
  calls["ibv_read_sysfs_file"] = [] {
    char text[64];
    EXPECT_EQ(ibv_read_sysfs_file("/nowhere", "file", text, sizeof(text)), -1);
  };
  // Of the kernel's structures, which no public header declares: zeros become zeros.
  using Copy = void (*)(void*, void*);
  const std::map<std::string, Copy> copies = {
      {"ibv_copy_ah_attr_from_kern", ibv_copy_ah_attr_from_kern},
      {"ibv_copy_qp_attr_from_kern", ibv_copy_qp_attr_from_kern},
      {"ibv_copy_path_rec_from_kern", ibv_copy_path_rec_from_kern},
      {"ibv_copy_path_rec_to_kern", ibv_copy_path_rec_to_kern}};
  for (const auto& [name, copy] : copies) {
    calls[name] = [copy = copy] {
      const std::string from(1024, '\0');
      std::string to(1024, 'x');
      copy(to.data(), const_cast<char*>(from.data()));
      EXPECT_NE(to.find('\0'), std::string::npos);
    };
  }
  calls["ibv_fork_init"] = calls["ibv_dontfork_range"] = calls["ibv_dofork_range"] = [&] {
    EXPECT_EQ(ibv_fork_init(), 0);
    EXPECT_EQ(ibv_dontfork_range(o.bytes, sizeof(o.bytes)), 0);
    EXPECT_EQ(ibv_dofork_range(o.bytes, sizeof(o.bytes)), 0);
  };
  return calls;
}

TEST(AbiTest, EveryPublicFunctionIsDefinedAndAnswers) {
  Objects objects;
  ASSERT_NE(objects.qp, nullptr);
  const std::set<std::string> own = Exported(URXE_LIBRARY, "");
  const std::string library = SystemLibrary();
  ASSERT_FALSE(library.empty()) << "libibverbs.so.1 is not loaded";
  const std::set<std::string> system = Exported(library, " | grep '@@' | grep -v PRIVATE");
  ASSERT_GT(system.size(), 70u);
  std::map<std::string, std::function<void()>> calls = Calls(objects);
  for (const std::string& name : system) {
    EXPECT_EQ(own.count(name), 1u) << name << " is not defined";
    EXPECT_EQ(calls.count(name), 1u) << name << " is not tried";
  }
  for (const auto& [name, call] : calls) {
    SCOPED_TRACE(name);
    EXPECT_EQ(own.count(name), 1u);
    call();
  }
}

TEST(AbiTest, NothingElseIsExported) {
  const std::set<std::string> own = Exported(URXE_LIBRARY, "");
  EXPECT_GT(own.size(), 70u);
  for (const std::string& name : own) {
    EXPECT_TRUE(name.rfind("ibv_", 0) == 0 || name.rfind("_ibv_", 0) == 0 ||
                name.rfind("urxe_", 0) == 0 || name == "mult_to_ibv_rate" ||
                name == "mbps_to_ibv_rate")
        << name;
  }
}

// The inline functions of verbs.h look into the context for these.
TEST(AbiTest, WhatIsNotSupportedSaysSo) {
  Objects o;
  ASSERT_NE(o.context, nullptr);
  const auto refused = [](const void* made) {
    EXPECT_EQ(made, nullptr);
    EXPECT_EQ(errno, EOPNOTSUPP);
  };
  refused(ibv_alloc_mw(o.pd, IBV_MW_TYPE_1));
  refused(ibv_alloc_null_mr(o.pd));
  ibv_alloc_dm_attr dm = {};
  refused(ibv_alloc_dm(o.context, &dm));
  ibv_xrcd_init_attr xrcd = {};
  refused(ibv_open_xrcd(o.context, &xrcd));
  ibv_xrcd opened = {o.context};
  EXPECT_EQ(ibv_close_xrcd(&opened), EOPNOTSUPP);
  ibv_flow_attr flow = {};
  refused(ibv_create_flow(o.qp, &flow));
  ibv_flow made = {};
  made.context = o.context;
  EXPECT_EQ(ibv_destroy_flow(&made), EOPNOTSUPP);
  ibv_wq_init_attr wq = {};
  refused(ibv_create_wq(o.context, &wq));
  ibv_rwq_ind_table_init_attr table = {};
  refused(ibv_create_rwq_ind_table(o.context, &table));
  ibv_counters_init_attr counters = {};
  refused(ibv_create_counters(o.context, &counters));
  ibv_qp_open_attr open = {};
  refused(ibv_open_qp(o.context, &open));
  ibv_qp_rate_limit_attr rate = {};
  EXPECT_EQ(ibv_modify_qp_rate_limit(o.qp, &rate), EOPNOTSUPP);
  ibv_ops_wr ops = {};
  ibv_ops_wr* bad = nullptr;
  EXPECT_EQ(ibv_post_srq_ops(o.srq, &ops, &bad), EOPNOTSUPP);
  ibv_sge element = {};
  EXPECT_EQ(ibv_advise_mr(o.pd, IBV_ADVISE_MR_ADVICE_PREFETCH, 0, &element, 1), EOPNOTSUPP);
  ibv_srq_init_attr_ex srq = {};
  srq.comp_mask = IBV_SRQ_INIT_ATTR_TYPE | IBV_SRQ_INIT_ATTR_PD;
  srq.srq_type = IBV_SRQT_TM;
  srq.pd = o.pd;
  refused(ibv_create_srq_ex(o.context, &srq));
  ibv_mw window = {};
  window.context = o.context;
  window.type = IBV_MW_TYPE_1;
  ibv_mw_bind bind = {};
  EXPECT_EQ(ibv_bind_mw(o.qp, &window, &bind), EOPNOTSUPP);
  EXPECT_EQ(ibv_dealloc_mw(&window), EOPNOTSUPP);
}

}  // namespace
