#include "transport/pages.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

namespace gradwire {

absl::StatusOr<std::shared_ptr<void>> AllocatePages(size_t bytes) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t size = std::max<size_t>(1, (bytes + page - 1) / page) * page;
  const int fd = memfd_create("gradwire", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return ErrnoError(errno, "memfd_create");
  void* start = MAP_FAILED;
  if (ftruncate(fd, static_cast<off_t>(size)) == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0) {
    start = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  }
  if (start == MAP_FAILED) {
    const absl::Status error = ErrnoError(errno, "cannot allocate {} bytes", size);
    close(fd);
    return error;
  }
  // The descriptor stays open: it is how a peer finds the file.
  return std::shared_ptr<void>(start, [size, fd](void* address) {
    munmap(address, size);
    close(fd);
  });
}

}  // namespace gradwire
