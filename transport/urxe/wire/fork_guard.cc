#include "transport/urxe/wire/fork_guard.h"

#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

namespace urxe {
namespace {

constexpr int kNone = -1;

// Read in a child, where no lock can be trusted. A bounded list suffices: two descriptors for the
// slot and one for each endpoint; a further one is merely not guarded.
struct Guarded {
  Guarded() {
    for (auto& fd : fds) fd = kNone;
    pthread_atfork(nullptr, nullptr, &LetGo);
  }
  static void LetGo();
  std::atomic<int> fds[256];
};

Guarded& All() {
  static Guarded all;
  return all;
}

void Guarded::LetGo() {
  const int error = errno;
  const int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
  for (auto& guarded : All().fds) {
    const int fd = guarded.exchange(kNone);
    if (fd == kNone) continue;
    // The number stays taken: objects of the parent's that the child still has name it.
    if (nothing < 0 || dup3(nothing, fd, O_CLOEXEC) < 0) close(fd);
  }
  if (nothing >= 0) close(nothing);
  errno = error;
}

}  // namespace

void GuardFromFork(int fd) {
  for (auto& guarded : All().fds) {
    int none = kNone;
    if (guarded.compare_exchange_strong(none, fd)) return;
  }
}

void CloseGuarded(int fd) {
  const int error = errno;
  for (auto& guarded : All().fds) {
    int same = fd;
    if (guarded.compare_exchange_strong(same, kNone)) break;
  }
  close(fd);
  errno = error;
}

}  // namespace urxe
