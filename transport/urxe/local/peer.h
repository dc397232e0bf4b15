// A process of this host whose memory we may read and write: this one, or another of the same user
// that ptrace's rules let us reach (process_vm_writev(2), Yama).
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>

#include "transport/urxe/engine/arena.h"
#include "transport/urxe/engine/memory_table.h"
#include "transport/urxe/wire/icrc.h"

namespace urxe {

// Whether `gid` is an address of this network namespace.
bool IsThisHost(const Gid& gid);

class LocalPeer {
 public:
  // The holder of `slot`. Null and errno when it cannot be reached so: EPERM when not permitted,
  // ECONNREFUSED when it does not want to be (URXE_PATH=udp), ESRCH when nobody (or nobody whose
  // process we can see) holds the slot. `own` is our own arena.
  static std::unique_ptr<LocalPeer> Reach(int slot, int own_slot, Arena& own);
  ~LocalPeer();

  int slot() const { return slot_; }
  ArenaHeader& header() { return arena_->header(); }
  Arena& arena() { return *arena_; }

  // Readable once the process has ended; -1 where the kernel has no pidfd, or for ourselves.
  int pidfd() const { return pidfd_; }
  void SetDead() { dead_ = true; }
  bool dead() const { return dead_; }
  // Asks the kernel.
  bool HasEnded();

  // The bytes [address, address + length) that `key` registers with `access` in protection domain
  // `pd`, as an address of that process; 0 unless all of it is permitted.
  uint64_t Find(uint32_t key, uint32_t pd, uint32_t access, uint64_t address, uint64_t length);

  // Copies between our `pieces` and `length` bytes at `address` there (from Find, of region `key`).
  // 0 or errno: ESRCH when the process is gone, EFAULT when its memory is.
  int Write(uint32_t key, uint64_t address, const iovec* pieces, int count, size_t length);
  int Read(uint32_t key, uint64_t address, const iovec* pieces, int count, size_t length);

  // The same bytes in our address space when the region lies in shared memory that can be mapped
  // (or in our own process); else null.
  std::byte* Map(uint32_t key, uint64_t address, size_t length);

 private:
  // A region of that process as we see it.
  struct Mapping {
    uint32_t index = 0;         // in the peer's table of regions
    uint32_t generation = 0;    // of the entry when it was mapped: later ones are another region
    uint32_t uses = 0;          // before it was tried
    bool tried = false;         // to map it
    std::byte* base = nullptr;  // null: not mapped
    uint64_t address = 0;       // there, of base[0]
    size_t length = 0;          // bytes
    size_t mapped = 0;          // bytes from base on; 0 when the mapping is not ours
  };
  LocalPeer() = default;
  Mapping MapRegion(const SharedRegion& region);
  Mapping& Known(uint32_t key);
  // As Map, once the region has been used some times.
  std::byte* MapIfUsedOften(uint32_t key, uint64_t address, size_t length);

  int slot_ = 0;
  pid_t pid_ = 0;
  int pidfd_ = -1;
  bool self_ = false;
  bool dead_ = false;
  Arena* arena_ = nullptr;
  std::unique_ptr<Arena> mapped_arena_;   // another process's
  std::map<uint32_t, Mapping> mappings_;  // by index of the region
  Mapping* last_ = nullptr;               // the one used last
  int last_descriptor_ = 0;               // there, of the file mapped last
};

}  // namespace urxe
