// urxe's devices: one per chosen interface, with one port.
#pragma once

#include <infiniband/verbs.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "transport/urxe/verbs/interfaces.h"

namespace urxe {

inline constexpr int kPort = 1;
inline constexpr uint32_t kMaxGids = 32;   // entries of the GID table
inline constexpr uint16_t kPkey = 0xFFFF;  // entry 0, the only one of the P_Key table

// What the engine serves; ibv_query_device reports it, creation checks it.
inline constexpr uint32_t kMaxQp = 65000;
inline constexpr uint32_t kMaxQpWr = 32768;
inline constexpr uint32_t kMaxSge = 32;
inline constexpr uint32_t kMaxCqe = (1 << 20) - 1;
inline constexpr uint32_t kMaxCq = 1 << 20;
inline constexpr uint32_t kMaxPd = 1 << 20;
inline constexpr uint32_t kMaxSrq = 1 << 16;
inline constexpr uint32_t kMaxSrqWr = 1 << 17;
inline constexpr uint32_t kMaxRdAtomic = 128;  // as requester and as responder, per queue pair
inline constexpr uint16_t kMaxModeration = 0xFFFF;

class Device : public ibv_device {
 public:
  Device(int number, const Interface& interface);

  uint64_t guid() const { return guid_; }  // host order
  // The interface as it is now.
  Interface Look() const;
  // The GID table as it was at most some milliseconds ago, in `gids`; entries without an address
  // are zero. An address keeps its index while the process lasts. Returns the interface's index.
  unsigned ReadGids(std::vector<Gid>& gids);
  // The largest path MTU whose packets the interface carries.
  ibv_mtu active_mtu() const;

 private:
  std::string interface_;
  uint64_t guid_ = 0;
  std::mutex lock_;
  // Guarded by lock_: the table, of which interface, and when it was read.
  std::vector<Gid> gids_;
  unsigned index_ = 0;
  std::chrono::steady_clock::time_point looked_;
};

// The devices of this process, made at the first call; empty when settings are malformed. They last
// as long as the process.
const std::vector<std::unique_ptr<Device>>& Devices();

// `device` when it is one of urxe's, else null.
Device* AsUrxe(ibv_device* device);

void QueryDevice(const Device& device, ibv_device_attr& attributes);
void QueryDeviceEx(const Device& device, ibv_device_attr_ex& attributes);
void QueryPort(const Device& device, ibv_port_attr& attributes);

}  // namespace urxe
