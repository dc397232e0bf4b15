#include "transport/urxe/local/maps.h"

#include <sys/sysmacros.h>

#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <string>

namespace urxe {

bool ForEachMapping(pid_t pid, const std::function<bool(const MemoryMapping&)>& visit) {
  const std::string path = "/proc/" + std::to_string(pid) + "/maps";
  FILE* const maps = std::fopen(path.c_str(), "re");
  if (maps == nullptr) return false;
  char line[4096 + 128];  // a path and what stands before it
  while (std::fgets(line, sizeof(line), maps) != nullptr) {
    MemoryMapping mapping;
    uint64_t inode = 0;
    unsigned major = 0, minor = 0;
    char flags[5] = {};
    if (std::sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64, &mapping.start,
                    &mapping.end, flags, &mapping.offset, &major, &minor, &inode) != 7) {
      continue;
    }
    mapping.device = makedev(major, minor);
    mapping.inode = static_cast<ino_t>(inode);
    mapping.readable = flags[0] == 'r';
    mapping.writable = flags[1] == 'w';
    mapping.shared = flags[3] == 's';
    mapping.is_stack = std::strstr(line, "[stack") != nullptr;
    if (!visit(mapping)) break;
  }
  std::fclose(maps);
  return true;
}

}  // namespace urxe
