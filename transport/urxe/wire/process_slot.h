// One process's place among those that share port 4791 of a host's network namespace. The slot's
// number is the upper byte of all its queue pair numbers, so that any process can tell whose a
// packet is. A slot is held by abstract Unix sockets, which the kernel frees when the process ends,
// however it ends, and which are per network namespace, as the port is.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace urxe {

inline constexpr int kSlots = 255;          // 1 to 255
inline constexpr uint32_t kSlotShift = 16;  // queue pair number = slot << 16 | index

class ProcessSlot {
 public:
  // Claims the lowest free slot. Null and `problem` when all are taken or sockets cannot be made.
  static std::unique_ptr<ProcessSlot> Claim(std::string& problem);
  ~ProcessSlot();

  int number() const { return number_; }

  // Datagrams from other processes: relayed packets, steering answers, wake-ups.
  int relay_fd() const { return relay_fd_; }
  // Becomes readable when a process asked who holds this slot; AnswerCallers then must be called.
  int listen_fd() const { return listen_fd_; }
  void AnswerCallers();

  // Reads one datagram of relay_fd() that a process of this user (or root's) sent: its size, 0 for
  // a mere wake-up, -1 when none waits. TakeMail in mailroom.h makes sense of it.
  ssize_t ReceiveRelayed(std::span<std::byte> buffer) const;

  // Sends a datagram, `head` and then `body`, to the holder of another slot. False when nobody
  // holds it or it cannot take it.
  bool SendTo(int slot, std::span<const std::byte> head,
              std::span<const std::byte> body = {}) const;
  // Wakes the holder of another slot: an empty datagram.
  bool Wake(int slot) const { return SendTo(slot, {}); }

  // The process that holds `slot`; 0 when nobody does, it is another user's or in another process
  // namespace. No cooperation of that process is needed.
  static pid_t HolderOf(int slot);

 private:
  ProcessSlot() = default;
  int number_ = 0;
  int relay_fd_ = -1;
  int listen_fd_ = -1;
};

}  // namespace urxe
