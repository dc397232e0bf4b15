// The memory mappings of a process, as /proc/PID/maps lists them.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>

namespace urxe {

struct MemoryMapping {
  uint64_t start = 0;
  uint64_t end = 0;     // one past the last byte
  uint64_t offset = 0;  // of the start, in the file
  dev_t device = 0;
  ino_t inode = 0;  // 0: anonymous
  bool readable = false;
  bool writable = false;
  bool shared = false;
  bool is_stack = false;
};

// Calls `visit` for each mapping, by rising address, until it returns false. False when the list
// cannot be read.
bool ForEachMapping(pid_t pid, const std::function<bool(const MemoryMapping&)>& visit);

}  // namespace urxe
