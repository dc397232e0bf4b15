// Moves private memory of this process into a file that same-host peers can map, in place: then
// they store straight into it, where process_vm_writev(2) would cost them a system call each time.
#pragma once

#include <cstddef>

namespace urxe {

// Moves the pages that lie wholly inside [address, address + length), if all are private, anonymous
// and writable. Their contents stay; no other thread may write there meanwhile. After a fork,
// parent and child share them. Returns the file, to be kept open as long as peers may map it; -1
// and errno when nothing was moved: ENOTSUP for other kinds of memory.
int MoveIntoSharedFile(void* address, size_t length);

}  // namespace urxe
