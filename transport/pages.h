// The memory that Transport::Allocate hands out.
#pragma once

#include <cstddef>
#include <memory>

#include "transport/memory.h"
#include "transport/status.h"

namespace gradwire {

// `bytes` (rounded up to pages) of zeroed, page-aligned memory in a file without a name that cannot
// shrink, so that a process of this host that is permitted to may map it in place of copying. Freed
// with the last reference. ResourceExhausted or Internal when it cannot be had.
absl::StatusOr<std::shared_ptr<void>> AllocatePages(size_t bytes);

}  // namespace gradwire
