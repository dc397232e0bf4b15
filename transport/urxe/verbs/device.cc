#include "transport/urxe/verbs/device.h"

#include <endian.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "transport/urxe/engine/arena.h"
#include "transport/urxe/settings.h"
#include "transport/urxe/wire/packet.h"

namespace urxe {
namespace {

// IPv6 header, UDP header, BTH, RETH, immediate and ICRC: what a packet of the path MTU carries
// besides.
constexpr unsigned kHeaders = 40 + 8 + 12 + 16 + 4 + 4;

// Addresses change seldom, and reading them takes longer than all else that connects a queue pair.
constexpr auto kFresh = std::chrono::milliseconds(20);

constexpr uint32_t kVendorId = 0x00FFFF;  // no IEEE number: software
constexpr uint32_t kPartId = 0x7578;      // "ux"

// EUI-64 of a MAC; of interfaces without one (lo, tunnels) the last half of their first address.
uint64_t GuidOf(const Interface& interface) {
  const auto& mac = interface.mac;
  uint8_t guid[8] = {};
  if (std::any_of(mac.begin(), mac.end(), [](uint8_t byte) { return byte != 0; })) {
    const uint8_t eui[8] = {
        static_cast<uint8_t>(mac[0] ^ 2), mac[1], mac[2], 0xFF, 0xFE, mac[3], mac[4], mac[5]};
    memcpy(guid, eui, sizeof(guid));
  } else if (!interface.addresses.empty()) {
    memcpy(guid, &interface.addresses[0][8], sizeof(guid));
  }
  uint64_t value = 0;
  memcpy(&value, guid, sizeof(value));
  return be64toh(value);
}

// Width and speed codes (IBTA table 145) nearest to the interface's speed; 1X SDR when unknown, as
// the kernel's rxe has it.
void SetSpeed(const std::string& interface, ibv_port_attr& attributes) {
  long megabits = 0;
  std::ifstream("/sys/class/net/" + interface + "/speed") >> megabits;
  constexpr struct {
    long megabits;
    uint8_t width;
    uint8_t speed;
  } kCodes[] = {{1000, 1, 1},   {10000, 1, 8}, {20000, 2, 2},
                {25000, 1, 32}, {40000, 2, 8}, {100000, 2, 32}};
  attributes.active_width = 1;
  attributes.active_speed = 1;
  for (const auto& code : kCodes) {
    if (megabits < code.megabits) break;
    attributes.active_width = code.width;
    attributes.active_speed = code.speed;
  }
}

}  // namespace

Device::Device(int number, const Interface& interface)
    : ibv_device(), interface_(interface.name), guid_(GuidOf(interface)) {
  node_type = IBV_NODE_CA;
  transport_type = IBV_TRANSPORT_IB;
  snprintf(ibv_device::name, sizeof(ibv_device::name), "urxe%d", number);
  snprintf(dev_name, sizeof(dev_name), "urxe%d", number);
  // No kernel device, hence no folder in sysfs: the paths are where one would be.
  snprintf(dev_path, sizeof(dev_path), "/sys/class/infiniband_verbs/urxe%d", number);
  snprintf(ibdev_path, sizeof(ibdev_path), "/sys/class/infiniband/urxe%d", number);
}

Interface Device::Look() const {
  for (Interface& interface : AllInterfaces()) {
    if (interface.name == interface_) return std::move(interface);
  }
  Interface gone;
  gone.name = interface_;
  return gone;
}

unsigned Device::ReadGids(std::vector<Gid>& gids) {
  const std::lock_guard guard(lock_);
  const auto time = std::chrono::steady_clock::now();
  if (time - looked_ < kFresh) {
    gids = gids_;
    return index_;
  }
  const Interface interface = Look();
  looked_ = time;
  index_ = interface.index;
  const auto& now = interface.addresses;
  for (Gid& gid : gids_) {
    if (std::find(now.begin(), now.end(), gid) == now.end()) gid = Gid();
  }
  for (const Gid& gid : now) {
    if (std::find(gids_.begin(), gids_.end(), gid) != gids_.end()) continue;
    const auto hole = std::find(gids_.begin(), gids_.end(), Gid());
    if (hole != gids_.end()) {
      *hole = gid;
    } else if (gids_.size() < kMaxGids) {
      gids_.push_back(gid);
    }
  }
  gids = gids_;
  return interface.index;
}

ibv_mtu Device::active_mtu() const {
  const unsigned interface_mtu = MtuOf(interface_);
  for (int mtu = IBV_MTU_4096; mtu > IBV_MTU_256; --mtu) {
    if ((128u << mtu) + kHeaders <= interface_mtu) return static_cast<ibv_mtu>(mtu);
  }
  return IBV_MTU_256;
}

const std::vector<std::unique_ptr<Device>>& Devices() {
  // Never destroyed: threads may still use them while the process exits.
  static const auto& devices = *[] {
    auto* made = new std::vector<std::unique_ptr<Device>>;
    const LoadedSettings& loaded = ProcessSettings();
    if (!loaded.valid) return made;
    const std::vector<Interface> all = AllInterfaces();
    for (const std::string& name : ChooseInterfaces(loaded.settings.interfaces)) {
      for (const Interface& interface : all) {
        if (interface.name != name) continue;
        made->push_back(std::make_unique<Device>(static_cast<int>(made->size()), interface));
      }
    }
    return made;
  }();
  return devices;
}

Device* AsUrxe(ibv_device* device) {
  for (const auto& own : Devices()) {
    if (own.get() == device) return own.get();
  }
  return nullptr;
}

void QueryDevice(const Device& device, ibv_device_attr& attributes) {
  attributes = {};
  snprintf(attributes.fw_ver, sizeof(attributes.fw_ver), "urxe 1.0");
  attributes.node_guid = htobe64(device.guid());
  attributes.sys_image_guid = attributes.node_guid;
  attributes.max_mr_size = UINT64_MAX >> 16;  // the address space
  attributes.page_size_cap = 0xFFFFF000;      // every page size of 4 KiB and more
  attributes.vendor_id = kVendorId;
  attributes.vendor_part_id = kPartId;
  attributes.max_qp = kMaxQp;
  attributes.max_qp_wr = kMaxQpWr;
  attributes.device_cap_flags = IBV_DEVICE_RC_RNR_NAK_GEN | IBV_DEVICE_SYS_IMAGE_GUID |
                                IBV_DEVICE_CURR_QP_STATE_MOD | IBV_DEVICE_UD_AV_PORT_ENFORCE;
  attributes.max_sge = kMaxSge;
  attributes.max_sge_rd = kMaxSge;
  attributes.max_cq = kMaxCq;
  attributes.max_cqe = kMaxCqe;
  attributes.max_mr = kMaxRegions - 1;
  attributes.max_pd = kMaxPd;
  attributes.max_qp_rd_atom = kMaxRdAtomic;
  attributes.max_qp_init_rd_atom = kMaxRdAtomic;
  attributes.max_res_rd_atom = static_cast<int>(kMaxRdAtomic * kMaxQp);
  attributes.atomic_cap = IBV_ATOMIC_HCA;
  attributes.max_ah = INT32_MAX;
  attributes.max_srq = kMaxSrq;
  attributes.max_srq_wr = kMaxSrqWr;
  attributes.max_srq_sge = kMaxSge;
  attributes.max_pkeys = 1;
  attributes.local_ca_ack_delay = 15;  // 4.096 us * 2^15 = 134 ms: a process that is not scheduled
  attributes.phys_port_cnt = 1;
}

void QueryDeviceEx(const Device& device, ibv_device_attr_ex& attributes) {
  attributes = {};
  QueryDevice(device, attributes.orig_attr);
  attributes.completion_timestamp_mask = UINT64_MAX;
  attributes.hca_core_clock = 1000000;  // kHz: timestamps are nanoseconds
  attributes.device_cap_flags_ex = attributes.orig_attr.device_cap_flags;
  attributes.cq_mod_caps.max_cq_count = kMaxModeration;
  attributes.cq_mod_caps.max_cq_period = kMaxModeration;
  attributes.phys_port_cnt_ex = 1;
}

void QueryPort(const Device& device, ibv_port_attr& attributes) {
  const Interface interface = device.Look();
  attributes = {};
  attributes.state = interface.up ? IBV_PORT_ACTIVE : IBV_PORT_DOWN;
  attributes.max_mtu = IBV_MTU_4096;
  attributes.active_mtu = device.active_mtu();
  attributes.gid_tbl_len = kMaxGids;
  attributes.port_cap_flags = IBV_PORT_IP_BASED_GIDS;
  attributes.max_msg_sz = 1u << 31;
  attributes.pkey_tbl_len = 1;
  attributes.max_vl_num = 1;
  attributes.phys_state = interface.up ? 5 : 3;  // LinkUp, Disabled
  attributes.link_layer = IBV_LINK_LAYER_ETHERNET;
  attributes.flags = IBV_QPF_GRH_REQUIRED;
  SetSpeed(interface.name, attributes);
}

}  // namespace urxe
