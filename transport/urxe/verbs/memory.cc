// Protection domains and memory regions (IBTA vol. 1, 11.2.1 and 11.2.8).
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <new>

#include "transport/urxe/local/share.h"
#include "transport/urxe/settings.h"
#include "transport/urxe/verbs/context.h"
#include "transport/urxe/verbs/system.h"

#ifndef MADV_POPULATE_READ  // glibc before 2.35
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

namespace urxe {
namespace {

// Accepted. Nothing here needs RELAXED_ORDERING or HUGETLB (hints), and MW_BIND grants nothing
// while there are no memory windows. ON_DEMAND and ZERO_BASED are not claimed.
constexpr unsigned kKnownAccess =
    IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ |
    IBV_ACCESS_REMOTE_ATOMIC | IBV_ACCESS_MW_BIND | IBV_ACCESS_HUGETLB | IBV_ACCESS_OPTIONAL_RANGE;

struct MemoryRegion : ibv_mr {
  uint64_t iova = 0;
  unsigned access = 0;
  int shared_file = -1;  // URXE_SHARE: what the memory was moved into
};

std::atomic<uint32_t> next_handle{1};

// Whether madvise can populate pages (Linux 5.14), tried on a page that surely permits it.
bool CanPopulate() {
  static const bool can = [] {
    int here = 0;
    const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    const uintptr_t start = reinterpret_cast<uintptr_t>(&here) & ~(page - 1);
    return madvise(reinterpret_cast<void*>(start), page, MADV_POPULATE_READ) == 0;
  }();
  return can;
}

// Whether the process has memory at the range, and may write there when it asks for that. A NIC
// would pin every page; here whole mappings are checked, and the permissions of both ends.
int CheckMapped(void* address, size_t length, unsigned access) {
  const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = reinterpret_cast<uintptr_t>(address);
  if (begin + length < begin || begin + length > UINTPTR_MAX - page) return EINVAL;
  const uintptr_t first = begin & ~(page - 1);
  const uintptr_t end = (begin + length + page - 1) & ~(page - 1);
  if (end == first) return 0;
  // MS_ASYNC writes nothing: it only walks the mappings.
  if (msync(reinterpret_cast<void*>(first), end - first, MS_ASYNC) != 0) return EFAULT;
  if (!CanPopulate()) return 0;
  const int advice =
      (access & IBV_ACCESS_LOCAL_WRITE) != 0 ? MADV_POPULATE_WRITE : MADV_POPULATE_READ;
  for (const uintptr_t edge : {first, end - page}) {
    // Device memory (VM_PFNMAP) cannot be populated either: a copy from it may still work, but the
    // kernel's RDMA devices refuse it too.
    if (madvise(reinterpret_cast<void*>(edge), page, advice) != 0 && errno != EAGAIN &&
        errno != EINTR) {
      return EFAULT;
    }
  }
  return 0;
}

int CheckAccess(unsigned access) {
  if ((access & IBV_ACCESS_ON_DEMAND) != 0 || (access & IBV_ACCESS_ZERO_BASED) != 0) {
    return EOPNOTSUPP;
  }
  if ((access & ~kKnownAccess) != 0) return EINVAL;
  if ((access & (IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC)) != 0 &&
      (access & IBV_ACCESS_LOCAL_WRITE) == 0) {
    return EINVAL;
  }
  return 0;
}

ibv_mr* Register(ibv_pd* pd, void* address, size_t length, uint64_t iova, unsigned access) {
  constexpr uint64_t kPageMask = 4095;
  int error = CheckAccess(access);
  // Devices translate pages: the start's place in its page must stay (as the kernel requires).
  if (error == 0 && ((reinterpret_cast<uint64_t>(address) ^ iova) & kPageMask) != 0) error = EINVAL;
  if (error == 0 && iova + length < iova) error = EINVAL;
  if (error == 0) error = CheckMapped(address, length, access);
  if (error != 0) {
    errno = error;
    return nullptr;
  }
  auto region = std::unique_ptr<MemoryRegion>(new MemoryRegion());
  constexpr unsigned kRemote =
      IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC;
  if (ProcessSettings().settings.share && (access & kRemote) != 0) {
    // Memory of another kind stays as it is: peers copy by system calls then.
    region->shared_file = MoveIntoSharedFile(address, length);
  }
  Engine& engine = *Urxe(pd->context).engine;
  {
    const std::lock_guard guard(engine.lock);
    region->lkey = engine.memory().Register(reinterpret_cast<uint64_t>(address), iova, length,
                                            access, pd->handle);
  }
  if (region->lkey == 0) {
    if (region->shared_file >= 0) close(region->shared_file);
    errno = ENOMEM;
    return nullptr;
  }
  region->context = pd->context;
  region->pd = pd;
  region->addr = address;
  region->length = length;
  region->handle = region->lkey >> 8;
  region->rkey = region->lkey;
  region->iova = iova;
  region->access = access;
  ++Urxe(pd).users;
  return region.release();
}

int Reregister(MemoryRegion& region, int flags, ibv_pd* pd, void* address, size_t length,
               unsigned access) {
  if ((flags & ~IBV_REREG_MR_FLAGS_SUPPORTED) != 0 || flags == 0) return EINVAL;
  const bool moves = (flags & IBV_REREG_MR_CHANGE_TRANSLATION) != 0;
  if (moves && (address == nullptr || length == 0)) return EINVAL;
  if (!moves) {
    address = region.addr;
    length = region.length;
  }
  if ((flags & IBV_REREG_MR_CHANGE_ACCESS) == 0) access = region.access;
  if ((flags & IBV_REREG_MR_CHANGE_PD) == 0) {
    pd = region.pd;
  } else if (pd == nullptr || pd->context != region.context) {
    return EINVAL;
  }
  if (const int error = CheckAccess(access); error != 0) return error;
  if (const int error = CheckMapped(address, length, access); error != 0) return error;
  const uint64_t iova = moves ? reinterpret_cast<uint64_t>(address) : region.iova;
  Engine& engine = *Urxe(region.context).engine;
  {
    const std::lock_guard guard(engine.lock);
    region.lkey = engine.memory().Reregister(region.lkey, reinterpret_cast<uint64_t>(address), iova,
                                             length, access, pd->handle);
  }
  region.rkey = region.lkey;
  ++Urxe(pd).users;
  --Urxe(region.pd).users;
  region.pd = pd;
  region.addr = address;
  region.length = length;
  region.iova = iova;
  region.access = access;
  return 0;
}

// A domain of its own, or one that stands for `parent_of`.
ibv_pd* MakeDomain(ibv_context* context, ProtectionDomain* parent_of) {
  auto* pd = new ProtectionDomain();
  pd->context = context;
  pd->handle = parent_of == nullptr ? next_handle++ : parent_of->handle;
  pd->parent_of = parent_of;
  if (parent_of != nullptr) ++parent_of->users;
  ++Urxe(context).users;
  return pd;
}

// Thread domains promise that a program's own locking suffices; nothing here gets faster by it.
ibv_td* AllocateThreadDomain(ibv_context* context, ibv_td_init_attr* attributes) {
  if (attributes->comp_mask != 0) {
    errno = EINVAL;
    return nullptr;
  }
  auto* td = new ibv_td{context};
  ++Urxe(context).users;
  return td;
}

int FreeThreadDomain(ibv_td* td) {
  Release(td->context);
  delete td;
  return 0;
}

ibv_pd* AllocateParentDomain(ibv_context* context, ibv_parent_domain_init_attr* attributes) {
  // Custom allocators are for the queues that providers keep in the program's memory: these lie in
  // the arena.
  if (attributes->pd == nullptr || attributes->pd->context != context) {
    errno = EINVAL;
    return nullptr;
  }
  if (attributes->comp_mask != 0) {
    errno = EOPNOTSUPP;
    return nullptr;
  }
  return MakeDomain(context, &Urxe(attributes->pd));
}

int FreeDomain(ibv_pd* pd) {
  ProtectionDomain& domain = Urxe(pd);
  if (domain.users != 0) return EBUSY;
  if (domain.parent_of != nullptr) --domain.parent_of->users;
  Release(pd->context);
  delete &domain;
  return 0;
}

int NoBindWindow(ibv_qp*, ibv_mw*, ibv_mw_bind*) { return EOPNOTSUPP; }
int NoFreeWindow(ibv_mw*) { return EOPNOTSUPP; }
int NoCloseXrcDomain(ibv_xrcd*) { return EOPNOTSUPP; }

}  // namespace

void SetMemoryOperations(Context& context) {
  context.alloc_td = AllocateThreadDomain;
  context.dealloc_td = FreeThreadDomain;
  context.alloc_parent_domain = AllocateParentDomain;
  // verbs.h calls these without asking whether they exist.
  context.context.ops.bind_mw = NoBindWindow;
  context.context.ops.dealloc_mw = NoFreeWindow;
  context.close_xrcd = NoCloseXrcDomain;
}

}  // namespace urxe

using namespace urxe;

extern "C" {

ibv_pd* ibv_alloc_pd(ibv_context* context) {
  if (!IsUrxe(context)) return URXE_SYSTEM(ibv_alloc_pd, context);
  return MakeDomain(context, nullptr);
}

int ibv_dealloc_pd(ibv_pd* pd) {
  if (!IsUrxe(pd->context)) return URXE_SYSTEM(ibv_dealloc_pd, pd);
  return FreeDomain(pd);
}

ibv_mr* ibv_reg_mr(ibv_pd* pd, void* address, size_t length, int access) {
  if (!IsUrxe(pd->context)) return URXE_SYSTEM(ibv_reg_mr, pd, address, length, access);
  return Register(pd, address, length, reinterpret_cast<uint64_t>(address),
                  static_cast<unsigned>(access));
}

ibv_mr* ibv_reg_mr_iova(ibv_pd* pd, void* address, size_t length, uint64_t iova, int access) {
  if (!IsUrxe(pd->context)) {
    return URXE_SYSTEM(ibv_reg_mr_iova, pd, address, length, iova, access);
  }
  return Register(pd, address, length, iova, static_cast<unsigned>(access));
}

ibv_mr* ibv_reg_mr_iova2(ibv_pd* pd, void* address, size_t length, uint64_t iova,
                         unsigned int access) {
  if (!IsUrxe(pd->context)) {
    return URXE_SYSTEM(ibv_reg_mr_iova2, pd, address, length, iova, access);
  }
  return Register(pd, address, length, iova, access);
}

ibv_mr* ibv_reg_dmabuf_mr(ibv_pd* pd, uint64_t offset, size_t length, uint64_t iova, int fd,
                          int access) {
  if (!IsUrxe(pd->context)) {
    return URXE_SYSTEM(ibv_reg_dmabuf_mr, pd, offset, length, iova, fd, access);
  }
  errno = EOPNOTSUPP;
  return nullptr;
}

int ibv_rereg_mr(ibv_mr* mr, int flags, ibv_pd* pd, void* address, size_t length, int access) {
  if (!IsUrxe(mr->context)) {
    return URXE_SYSTEM(ibv_rereg_mr, mr, flags, pd, address, length, access);
  }
  const int error = Reregister(*static_cast<MemoryRegion*>(mr), flags, pd, address, length,
                               static_cast<unsigned>(access));
  if (error == 0) return 0;
  errno = error;
  return IBV_REREG_MR_ERR_INPUT;  // the old region is valid
}

int ibv_dereg_mr(ibv_mr* mr) {
  if (!IsUrxe(mr->context)) return URXE_SYSTEM(ibv_dereg_mr, mr);
  Engine& engine = *Urxe(mr->context).engine;
  {
    const std::lock_guard guard(engine.lock);
    engine.memory().Deregister(mr->lkey);
  }
  --Urxe(mr->pd).users;
  auto* const region = static_cast<MemoryRegion*>(mr);
  if (region->shared_file >= 0) close(region->shared_file);
  delete region;
  return 0;
}

// Objects of a context whose descriptor another process shared: urxe's have none.
ibv_pd* ibv_import_pd(ibv_context* context, uint32_t handle) {
  if (!IsUrxe(context)) return URXE_SYSTEM(ibv_import_pd, context, handle);
  errno = EOPNOTSUPP;
  return nullptr;
}

void ibv_unimport_pd(ibv_pd* pd) {
  if (!IsUrxe(pd->context)) URXE_SYSTEM(ibv_unimport_pd, pd);
}

ibv_mr* ibv_import_mr(ibv_pd* pd, uint32_t handle) {
  if (!IsUrxe(pd->context)) return URXE_SYSTEM(ibv_import_mr, pd, handle);
  errno = EOPNOTSUPP;
  return nullptr;
}

void ibv_unimport_mr(ibv_mr* mr) {
  if (!IsUrxe(mr->context)) URXE_SYSTEM(ibv_unimport_mr, mr);
}

ibv_dm* ibv_import_dm(ibv_context* context, uint32_t handle) {
  if (!IsUrxe(context)) return URXE_SYSTEM(ibv_import_dm, context, handle);
  errno = EOPNOTSUPP;
  return nullptr;
}

void ibv_unimport_dm(ibv_dm* dm) {
  if (!IsUrxe(dm->context)) URXE_SYSTEM(ibv_unimport_dm, dm);
}

// Forked children: packets are made and placed by the processor through the process' own page
// tables, so that urxe's regions need no care; the calls are for the system's devices.
int ibv_fork_init(void) { return URXE_SYSTEM(ibv_fork_init); }
ibv_fork_status ibv_is_fork_initialized(void) { return URXE_SYSTEM(ibv_is_fork_initialized); }
int ibv_dontfork_range(void* base, size_t size);
int ibv_dontfork_range(void* base, size_t size) {
  return URXE_SYSTEM(ibv_dontfork_range, base, size);
}
int ibv_dofork_range(void* base, size_t size);
int ibv_dofork_range(void* base, size_t size) { return URXE_SYSTEM(ibv_dofork_range, base, size); }

}  // extern "C"
