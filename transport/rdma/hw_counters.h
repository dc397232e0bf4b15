// What a kernel driver counts of its port, where it tells: files below the device's folder in sysfs
// whose names differ from driver to driver. They count for all programs that use the port; told is
// what has come since this was made.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <vector>

#include "transport/descriptors.h"
#include "transport/transport.h"

namespace gradwire::rdma {

// Thread: the data path's.
class HwCounters {
 public:
  // `device`: its folder, /sys/class/infiniband/mlx5_0; a driver without counters is none.
  HwCounters(const std::filesystem::path& device, int port);

  // At most kAge old here, and in the kernel as much again: it keeps what it read that long itself
  // (ib_core, RDMA_HW_STATS_DEFAULT_LIFESPAN), so that to ask more often tells nothing new.
  DeviceCounters Read();

 private:
  static constexpr std::chrono::milliseconds kAge{10};

  struct File {
    FileDescriptor fd;
    uint64_t DeviceCounters::*counter;
    uint64_t begin = 0;  // what it said at first
    uint64_t since = 0;  // what has come, as last read
  };
  std::vector<File> files_;
  DeviceCounters last_;
  Deadline read_;  // when last_ was
};

}  // namespace gradwire::rdma
