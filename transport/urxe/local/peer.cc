#include "transport/urxe/local/peer.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>

#include "transport/urxe/local/maps.h"
#include "transport/urxe/wire/process_slot.h"

namespace urxe {
namespace {

// Looking for a region's file costs as much as some copies: one that is registered for a single
// operation is not worth it.
constexpr uint32_t kUsesWorthMapping = 16;

int PidfdOpen(pid_t pid) { return static_cast<int>(syscall(SYS_pidfd_open, pid, 0)); }

// Part of a process's memory that lies in a file.
struct SharedFile {
  dev_t device = 0;
  ino_t inode = 0;
  uint64_t offset = 0;   // of the part's first byte in the file
  uint64_t address = 0;  // of that byte in the process
  uint64_t length = 0;   // bytes
};

// The first part of [address, address + length) that is a shared, writable file mapping.
bool FindSharedFile(pid_t pid, uint64_t address, uint64_t length, SharedFile& file) {
  bool found = false;
  ForEachMapping(pid, [&](const MemoryMapping& mapping) {
    if (address >= mapping.end) return true;
    if (address + length <= mapping.start) return false;
    if (!mapping.writable || !mapping.shared || mapping.inode == 0) return true;
    file.device = mapping.device;
    file.inode = mapping.inode;
    file.address = std::max(address, mapping.start);
    file.length = std::min(address + length, mapping.end) - file.address;
    file.offset = mapping.offset + (file.address - mapping.start);
    found = true;
    return false;
  });
  return found;
}

// Opens the file through a descriptor of the process. -1 when it is of another file, or when its
// owner could cut the file short, which would end us with SIGBUS.
int OpenIfSame(const std::string& link, const SharedFile& file) {
  struct stat status;
  if (stat(link.c_str(), &status) != 0 || !S_ISREG(status.st_mode) ||
      status.st_dev != file.device || status.st_ino != file.inode) {
    return -1;
  }
  const int fd = open(link.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return -1;
  if ((fcntl(fd, F_GET_SEALS) & F_SEAL_SHRINK) != 0) return fd;
  close(fd);
  return -1;
}

// Opens the file through one of the process's own descriptors of it: mappings of memfds have no
// path. `near` is where the last one was found: a process that registers thousands of regions opens
// one after another, and looking at all each time would cost a square. -1 when it keeps none open,
// or the file could be cut short.
int OpenSharedFile(pid_t pid, const SharedFile& file, int& near) {
  constexpr int kNear = 16;
  const std::string folder = "/proc/" + std::to_string(pid) + "/fd/";
  for (int number = near; number < near + kNear; ++number) {
    const int fd = OpenIfSame(folder + std::to_string(number), file);
    if (fd < 0) continue;
    near = number;
    return fd;
  }
  DIR* const directory = opendir(folder.c_str());
  if (directory == nullptr) return -1;
  int fd = -1;
  while (const dirent* entry = fd < 0 ? readdir(directory) : nullptr) {
    fd = OpenIfSame(folder + entry->d_name, file);
    if (fd >= 0) near = atoi(entry->d_name);
  }
  closedir(directory);
  return fd;
}

}  // namespace

bool IsThisHost(const Gid& gid) {
  ifaddrs* first = nullptr;
  if (getifaddrs(&first) != 0) return false;
  bool found = false;
  for (const ifaddrs* entry = first; entry != nullptr && !found; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr) continue;
    Gid own = {};
    if (entry->ifa_addr->sa_family == AF_INET) {
      own[10] = own[11] = 0xFF;
      std::memcpy(&own[12], &reinterpret_cast<const sockaddr_in*>(entry->ifa_addr)->sin_addr, 4);
    } else if (entry->ifa_addr->sa_family == AF_INET6) {
      std::memcpy(own.data(), &reinterpret_cast<const sockaddr_in6*>(entry->ifa_addr)->sin6_addr,
                  16);
    } else {
      continue;
    }
    found = own == gid;
  }
  freeifaddrs(first);
  return found;
}

std::unique_ptr<LocalPeer> LocalPeer::Reach(int slot, int own_slot, Arena& own) {
  std::unique_ptr<LocalPeer> peer(new LocalPeer());
  peer->slot_ = slot;
  if (slot == own_slot) {
    peer->self_ = true;
    peer->pid_ = getpid();
    peer->arena_ = &own;
    return peer;
  }
  const pid_t pid = ProcessSlot::HolderOf(slot);
  if (pid <= 0) {
    errno = ESRCH;
    return nullptr;
  }
  peer->pid_ = pid;
  peer->pidfd_ = PidfdOpen(pid);
  peer->mapped_arena_ = Arena::MapOf(pid);
  if (peer->mapped_arena_ == nullptr) return nullptr;
  peer->arena_ = peer->mapped_arena_.get();
  if (peer->header().slot != static_cast<uint32_t>(slot)) {
    errno = ESRCH;
    return nullptr;
  }
  if (peer->header().accepts_local == 0) {
    errno = ECONNREFUSED;
    return nullptr;
  }
  // Mapping the arena and copying need the same permission, but sandboxes may forbid the call
  // alone.
  std::byte byte;
  const iovec here = {&byte, 0}, there = {&byte, 0};
  if (process_vm_writev(pid, &here, 1, &there, 1, 0) < 0) return nullptr;
  // The process may have ended and its number be another's by now; then its slot is free.
  if (ProcessSlot::HolderOf(slot) != pid) {
    errno = ESRCH;
    return nullptr;
  }
  return peer;
}

LocalPeer::~LocalPeer() {
  for (const auto& [index, mapping] : mappings_) {
    if (mapping.mapped != 0) munmap(mapping.base, mapping.mapped);
  }
  if (pidfd_ >= 0) close(pidfd_);
}

bool LocalPeer::HasEnded() {
  if (!dead_ && pidfd_ >= 0) {
    pollfd ended = {pidfd_, POLLIN, 0};
    dead_ = poll(&ended, 1, 0) > 0;
  }
  return dead_;
}

uint64_t LocalPeer::Find(uint32_t key, uint32_t pd, uint32_t access, uint64_t address,
                         uint64_t length) {
  return MemoryTable::FindIn(header().regions, key, pd, access, address, length);
}

LocalPeer::Mapping LocalPeer::MapRegion(const SharedRegion& region) {
  Mapping mapping;
  mapping.generation = region.generation.load(std::memory_order_acquire);
  mapping.address = region.address;
  mapping.length = region.length;
  if (self_) {
    mapping.base = reinterpret_cast<std::byte*>(region.address);
    return mapping;
  }
  SharedFile file;
  if (!FindSharedFile(pid_, region.address, region.length, file)) return mapping;
  const int fd = OpenSharedFile(pid_, file, last_descriptor_);
  if (fd < 0) return mapping;
  const uint64_t page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  const uint64_t before = file.offset % page;
  const size_t length = static_cast<size_t>(before + file.length);
  void* const base = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
                          static_cast<off_t>(file.offset - before));
  close(fd);
  if (base == MAP_FAILED) return mapping;
  // From the page's start on, as munmap wants it.
  mapping.base = static_cast<std::byte*>(base);
  mapping.mapped = mapping.length = length;
  mapping.address = file.address - before;
  return mapping;
}

LocalPeer::Mapping& LocalPeer::Known(uint32_t key) {
  const uint32_t index = key >> 8;
  const uint32_t generation = header().regions[index].generation.load(std::memory_order_acquire);
  if (last_ == nullptr || last_->index != index || last_->generation != generation) {
    auto [entry, added] = mappings_.try_emplace(index);
    Mapping& mapping = entry->second;
    if (added || mapping.generation != generation) {
      if (mapping.mapped != 0) munmap(mapping.base, mapping.mapped);
      mapping = Mapping();
      mapping.index = index;
      mapping.generation = generation;
      mapping.tried = false;
    }
    last_ = &mapping;
  }
  return *last_;
}

std::byte* LocalPeer::Map(uint32_t key, uint64_t address, size_t length) {
  Mapping& mapping = Known(key);
  if (!mapping.tried) {
    const uint32_t index = mapping.index;
    mapping = MapRegion(header().regions[index]);
    mapping.index = index;
    mapping.tried = true;
  }
  if (mapping.base == nullptr || address < mapping.address ||
      address - mapping.address > mapping.length - std::min(length, mapping.length)) {
    return nullptr;
  }
  return mapping.base + (address - mapping.address);
}

std::byte* LocalPeer::MapIfUsedOften(uint32_t key, uint64_t address, size_t length) {
  Mapping& mapping = Known(key);
  if (!mapping.tried && !self_ && ++mapping.uses < kUsesWorthMapping) return nullptr;
  return Map(key, address, length);
}

int LocalPeer::Write(uint32_t key, uint64_t address, const iovec* pieces, int count,
                     size_t length) {
  if (std::byte* to = MapIfUsedOften(key, address, length); to != nullptr) {
    for (int i = 0; i < count; ++i) {
      // The same place, when a program writes to itself.
      if (to != pieces[i].iov_base) std::memmove(to, pieces[i].iov_base, pieces[i].iov_len);
      to += pieces[i].iov_len;
    }
    return 0;
  }
  const iovec there = {reinterpret_cast<void*>(address), length};
  const ssize_t copied =
      process_vm_writev(pid_, pieces, static_cast<unsigned long>(count), &there, 1, 0);
  if (copied < 0) return errno;
  return static_cast<size_t>(copied) == length ? 0 : EFAULT;
}

int LocalPeer::Read(uint32_t key, uint64_t address, const iovec* pieces, int count, size_t length) {
  if (const std::byte* from = MapIfUsedOften(key, address, length); from != nullptr) {
    for (int i = 0; i < count; ++i) {
      if (from != pieces[i].iov_base) std::memmove(pieces[i].iov_base, from, pieces[i].iov_len);
      from += pieces[i].iov_len;
    }
    return 0;
  }
  const iovec there = {reinterpret_cast<void*>(address), length};
  const ssize_t copied =
      process_vm_readv(pid_, pieces, static_cast<unsigned long>(count), &there, 1, 0);
  if (copied < 0) return errno;
  return static_cast<size_t>(copied) == length ? 0 : EFAULT;
}

}  // namespace urxe
