// What a kernel driver counts of its port, where it tells: files below the device's folder in sysfs
// whose names differ from driver to driver. They count for all programs that use the port.
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

  // What stands there, at most kAge old: a reading is a system call each, to some NICs a command.
  DeviceCounters Read();

 private:
  static constexpr std::chrono::milliseconds kAge{1};

  struct File {
    FileDescriptor fd;
    uint64_t DeviceCounters::*counter;
    uint64_t value = 0;  // as last read
  };
  std::vector<File> files_;
  DeviceCounters last_;
  Deadline read_;  // when last_ was
};

}  // namespace gradwire::rdma
