#include "transport/urxe/engine/arena.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

namespace urxe {
namespace {

constexpr char kName[] = "urxe-arena";
constexpr char kLink[] = "/memfd:urxe-arena";  // how /proc/PID/fd shows it, " (deleted)" follows
constexpr uint64_t kArenaMagic = 0x616e657261787275;  // "urxarena"
constexpr uint32_t kVersion = 1;
// Address space, not memory: pages exist once they are touched.
constexpr size_t kArenaSize = size_t{16} << 30;
constexpr size_t kPage = 4096;
constexpr size_t kSmallestBlock = 64;
// Blocks from this size on are given back to the system when freed, smaller ones are kept.
constexpr size_t kLargeBlock = 64 << 10;

static_assert(sizeof(ArenaHeader) < kArenaSize / 8);
static_assert(std::atomic<uint64_t>::is_always_lock_free, "processes share these");

// What counted before there was an arena, and where counting goes now.
urxe_counters early_counters = {};
std::atomic<urxe_counters*> counters{&early_counters};

size_t HeaderSize() { return (sizeof(ArenaHeader) + kPage - 1) / kPage * kPage; }

// The descriptor of `link`, opened anew; -1 unless it is an arena that cannot shrink under us.
int OpenArena(const char* link) {
  const int fd = open(link, O_RDWR | O_CLOEXEC);
  if (fd < 0) return -1;
  struct stat status = {};
  const int seals = fcntl(fd, F_GET_SEALS);
  if (fstat(fd, &status) == 0 && static_cast<size_t>(status.st_size) == kArenaSize && seals >= 0 &&
      (seals & F_SEAL_SHRINK) != 0) {
    return fd;
  }
  close(fd);
  errno = ENOENT;
  return -1;
}

}  // namespace

// Free blocks by size class, powers of two from kSmallestBlock on; what was never used lies above
// `next`.
struct Arena::Blocks {
  static constexpr int kClasses = 64;
  size_t next = HeaderSize();
  std::array<std::vector<uint64_t>, kClasses> free;
};

urxe_counters& Counters() { return *counters.load(std::memory_order_acquire); }

std::unique_ptr<Arena> Arena::Create(uint32_t slot) {
  std::unique_ptr<Arena> arena(new (std::nothrow) Arena);
  if (arena == nullptr) {
    errno = ENOMEM;
    return nullptr;
  }
  arena->fd_ = memfd_create(kName, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (arena->fd_ < 0) return nullptr;
  if (ftruncate(arena->fd_, kArenaSize) != 0 ||
      fcntl(arena->fd_, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return nullptr;
  }
  void* base =
      mmap(nullptr, kArenaSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, arena->fd_, 0);
  if (base == MAP_FAILED) return nullptr;
  arena->base_ = static_cast<std::byte*>(base);
  arena->size_ = kArenaSize;
  // No constructor runs: it would touch every page, and a fresh memfd holds the zeroes it would
  // write.
  arena->header_ = static_cast<ArenaHeader*>(base);
  arena->blocks_ = std::make_unique<Blocks>();
  ArenaHeader& header = *arena->header_;
  header.version = kVersion;
  header.slot = slot;
  header.pid = getpid();
  header.counters = early_counters;
  std::atomic_ref<uint64_t>(header.magic).store(kArenaMagic, std::memory_order_release);
  counters.store(&header.counters, std::memory_order_release);
  return arena;
}

std::unique_ptr<Arena> Arena::MapOf(int pid) {
  const std::string folder = "/proc/" + std::to_string(pid) + "/fd";
  DIR* directory = opendir(folder.c_str());
  if (directory == nullptr) return nullptr;
  std::unique_ptr<Arena> arena;
  int problem = ENOENT;
  while (const dirent* entry = readdir(directory)) {
    const std::string link = folder + "/" + entry->d_name;
    char target[sizeof(kLink) + 32] = {};
    if (readlink(link.c_str(), target, sizeof(target) - 1) < 0 ||
        strncmp(target, kLink, sizeof(kLink) - 1) != 0) {
      continue;
    }
    const int fd = OpenArena(link.c_str());
    if (fd < 0) {
      problem = errno;
      continue;
    }
    void* base =
        mmap(nullptr, kArenaSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (base == MAP_FAILED) {
      problem = errno;
      close(fd);
      continue;
    }
    arena.reset(new Arena);
    arena->base_ = static_cast<std::byte*>(base);
    arena->size_ = kArenaSize;
    arena->header_ = static_cast<ArenaHeader*>(base);
    arena->fd_ = fd;
    ArenaHeader& header = *arena->header_;
    if (std::atomic_ref<uint64_t>(header.magic).load(std::memory_order_acquire) == kArenaMagic &&
        header.version == kVersion && header.pid == pid) {
      break;
    }
    problem = ENOENT;
    arena.reset();
  }
  closedir(directory);
  if (arena == nullptr) errno = problem;
  return arena;
}

Arena::~Arena() {
  if (header_ != nullptr && counters.load() == &header_->counters) {
    early_counters = header_->counters;
    counters.store(&early_counters, std::memory_order_release);
  }
  if (base_ != nullptr) munmap(base_, size_);
  if (fd_ >= 0) close(fd_);
}

void* Arena::Allocate(size_t size) {
  if (size > size_) return nullptr;
  const size_t block = std::bit_ceil(std::max(size, kSmallestBlock));
  std::vector<uint64_t>& free = blocks_->free[std::countr_zero(block)];
  if (!free.empty()) {
    void* memory = base_ + free.back();
    free.pop_back();
    if (block < kLargeBlock) memset(memory, 0, block);
    return memory;
  }
  const size_t alignment = std::min(block, kPage);
  const size_t offset = (blocks_->next + alignment - 1) / alignment * alignment;
  if (offset > size_ || size_ - offset < block) return nullptr;
  blocks_->next = offset + block;
  return base_ + offset;
}

void Arena::Free(void* block, size_t size) {
  if (block == nullptr) return;
  const size_t bytes = std::bit_ceil(std::max(size, kSmallestBlock));
  const uint64_t offset = OffsetOf(block);
  if (bytes >= kLargeBlock &&
      fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                static_cast<off_t>(bytes)) != 0) {
    memset(block, 0, bytes);
  }
  blocks_->free[std::countr_zero(bytes)].push_back(offset);
}

void* Arena::At(uint64_t offset, size_t size) const {
  if (offset < HeaderSize() || offset > size_ || size > size_ - offset) return nullptr;
  return base_ + offset;
}

}  // namespace urxe
