#include "transport/urxe/local/share.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>

#include "transport/urxe/local/maps.h"

namespace urxe {
namespace {

// Whether all of [begin, end) is private, anonymous, readable and writable.
bool IsOrdinary(uint64_t begin, uint64_t end) {
  uint64_t covered = begin;
  ForEachMapping(getpid(), [&](const MemoryMapping& mapping) {
    if (mapping.end <= covered || covered >= end) return true;
    if (mapping.start > covered || mapping.shared || mapping.inode != 0 || !mapping.readable ||
        !mapping.writable || mapping.is_stack) {
      return false;
    }
    covered = mapping.end;
    return covered < end;
  });
  return covered >= end;
}

}  // namespace

int MoveIntoSharedFile(void* address, size_t length) {
  const uint64_t page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  const uint64_t begin = (reinterpret_cast<uint64_t>(address) + page - 1) / page * page;
  const uint64_t end = (reinterpret_cast<uint64_t>(address) + length) / page * page;
  if (begin >= end || !IsOrdinary(begin, end)) {
    errno = ENOTSUP;
    return -1;
  }
  const size_t size = end - begin;
  const int fd = memfd_create("urxe-region", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return -1;
  int error = 0;
  if (ftruncate(fd, static_cast<off_t>(size)) != 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) != 0) {
    error = errno;
  }
  for (size_t copied = 0; error == 0 && copied < size;) {
    const ssize_t count = pwrite(fd, reinterpret_cast<void*>(begin + copied), size - copied,
                                 static_cast<off_t>(copied));
    if (count > 0) {
      copied += static_cast<size_t>(count);
    } else if (errno != EINTR) {
      error = errno;
    }
  }
  if (error == 0 && mmap(reinterpret_cast<void*>(begin), size, PROT_READ | PROT_WRITE,
                         MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) {
    error = errno;
  }
  if (error == 0) return fd;
  close(fd);
  errno = error;
  return -1;
}

}  // namespace urxe
