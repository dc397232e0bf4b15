#include "transport/urxe/wire/process_slot.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "transport/urxe/wire/fork_guard.h"

namespace urxe {
namespace {

struct AbstractName {
  sockaddr_un address = {};
  socklen_t length = 0;  // abstract names have one: they end with no zero byte
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&address); }
};

// Names begin with a zero byte: they are no files, and vanish with their sockets.
AbstractName NameOf(const char* what, int slot) {
  AbstractName name;
  name.address.sun_family = AF_UNIX;
  const int length = std::snprintf(name.address.sun_path + 1, sizeof(name.address.sun_path) - 1,
                                   "urxe/%s/%d", what, slot);
  name.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + length);
  return name;
}
AbstractName ListenName(int slot) { return NameOf("slot", slot); }
AbstractName RelayName(int slot) { return NameOf("relay", slot); }

int UnixSocket(int type) { return socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0); }

// A socket of `type` bound to `name`; -1 and errno.
int BoundSocket(int type, const AbstractName& name) {
  const int fd = UnixSocket(type);
  if (fd >= 0 && bind(fd, name.get(), name.length) != 0) {
    const int error = errno;
    close(fd);
    errno = error;
    return -1;
  }
  return fd;
}

// Callers that wait to be told apart; the kernel caps it at net.core.somaxconn.
constexpr int kBacklog = 1024;

}  // namespace

std::unique_ptr<ProcessSlot> ProcessSlot::Claim(std::string& problem) {
  for (int number = 1; number <= kSlots; ++number) {
    std::unique_ptr<ProcessSlot> slot(new ProcessSlot());
    slot->number_ = number;
    slot->listen_fd_ = BoundSocket(SOCK_SEQPACKET, ListenName(number));
    if (slot->listen_fd_ >= 0) slot->relay_fd_ = BoundSocket(SOCK_DGRAM, RelayName(number));
    const int on = 1;
    if (slot->relay_fd_ >= 0 && listen(slot->listen_fd_, kBacklog) == 0 &&
        setsockopt(slot->relay_fd_, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) == 0) {
      GuardFromFork(slot->listen_fd_);
      GuardFromFork(slot->relay_fd_);
      return slot;
    }
    if (errno != EADDRINUSE) {
      problem = std::string("urxe: cannot make the sockets that hold a process slot: ") +
                std::strerror(errno);
      return nullptr;
    }
  }
  problem =
      "urxe: all 255 process slots of this network namespace are taken; end some processes "
      "that use urxe, or start this one in another network namespace";
  errno = EUSERS;
  return nullptr;
}

ProcessSlot::~ProcessSlot() {
  if (relay_fd_ >= 0) CloseGuarded(relay_fd_);
  if (listen_fd_ >= 0) CloseGuarded(listen_fd_);
}

void ProcessSlot::AnswerCallers() {
  for (;;) {
    const int caller = accept4(listen_fd_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (caller >= 0) {
      close(caller);
    } else if (errno != EINTR && errno != ECONNABORTED) {
      return;
    }
  }
}

bool ProcessSlot::SendTo(int slot, std::span<const std::byte> head,
                         std::span<const std::byte> body) const {
  if (slot < 1 || slot > kSlots) return false;
  AbstractName name = RelayName(slot);
  iovec pieces[] = {{const_cast<std::byte*>(head.data()), head.size()},
                    {const_cast<std::byte*>(body.data()), body.size()}};
  msghdr message = {};
  message.msg_name = &name.address;
  message.msg_namelen = name.length;
  message.msg_iov = pieces;
  message.msg_iovlen = std::size(pieces);
  return sendmsg(relay_fd_, &message, MSG_DONTWAIT | MSG_NOSIGNAL) ==
         static_cast<ssize_t>(head.size() + body.size());
}

ssize_t ProcessSlot::ReceiveRelayed(std::span<std::byte> buffer) const {
  for (;;) {
    iovec piece = {buffer.data(), buffer.size()};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(ucred))];
    msghdr message = {};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    const ssize_t size = recvmsg(relay_fd_, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (size < 0) {
      if (errno == EINTR) continue;
      return -1;
    }
    if (size == 0) return 0;
    // Anyone on this host can send here; only this user's processes and root's are listened to.
    const cmsghdr* first = CMSG_FIRSTHDR(&message);
    ucred sender = {};
    if (first == nullptr || first->cmsg_level != SOL_SOCKET ||
        first->cmsg_type != SCM_CREDENTIALS || (message.msg_flags & MSG_TRUNC) != 0) {
      continue;
    }
    std::memcpy(&sender, CMSG_DATA(first), sizeof(sender));
    if (sender.uid == geteuid() || sender.uid == 0) return size;
  }
}

pid_t ProcessSlot::HolderOf(int slot) {
  if (slot < 1 || slot > kSlots) return 0;
  const int fd = UnixSocket(SOCK_SEQPACKET);
  if (fd < 0) return 0;
  const AbstractName name = ListenName(slot);
  // The credentials are those of the process when it called listen().
  ucred holder = {};
  socklen_t length = sizeof(holder);
  const bool known = connect(fd, name.get(), name.length) == 0 &&
                     getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &holder, &length) == 0;
  close(fd);
  return known && holder.uid == geteuid() ? holder.pid : 0;
}

}  // namespace urxe
