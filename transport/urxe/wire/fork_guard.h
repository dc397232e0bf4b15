// A forked child has copies of the sockets that make its parent reachable. It serves none of them,
// and would keep the parent's slot and port taken after the parent's end; so it lets go of them.
#pragma once

namespace urxe {

// In children forked from now on, `fd` is /dev/null. (Programs started by exec have no copy: all
// descriptors are close-on-exec.)
void GuardFromFork(int fd);
// Closes `fd`, which was guarded. errno is kept.
void CloseGuarded(int fd);

}  // namespace urxe
