// Brings packets to the right one of the processes that share port 4791 of an address. The kernel
// runs a classic BPF program over each datagram; it reads the destination queue pair number, whose
// upper byte is a process slot, and returns the index of that process's socket in the port's group.
//
// Indices shift when a socket closes, and nothing tells. So they are looked for: a probe is a
// datagram that the program steers to the index it carries; whoever receives it answers through the
// prober's relay socket with its slot. An index past the end reaches some member that answered
// already. A process that is stopped does not answer in time; what was known of it is kept. A
// search begins when an endpoint opens and when a packet for another process arrives here. Whatever
// is wrong meanwhile, packets are relayed (mailroom.h), and set the next search off.
#pragma once

#include <netinet/in.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "transport/urxe/wire/icrc.h"
#include "transport/urxe/wire/process_slot.h"

namespace urxe {

class Steering {
 public:
  // `fd` is bound to `self`, which is `address` and the port.
  Steering(int fd, const sockaddr_storage& self, socklen_t self_length, const Gid& address,
           const ProcessSlot& slot);
  ~Steering();
  Steering(const Steering&) = delete;
  Steering& operator=(const Steering&) = delete;

  // The group has changed: search again, now or when the last search is long enough ago.
  void Search(uint64_t now);
  // Goes on with a search. Returns when to be called again; UINT64_MAX: when one is wanted.
  uint64_t Run(uint64_t now) { return wanted_ || searching_ ? Continue(now) : UINT64_MAX; }

  // No RoCE packet begins like this: its opcode and its transport version do not exist.
  static bool IsProbe(std::span<const std::byte> datagram) {
    return datagram.size() >= 2 && datagram[0] == std::byte{0xFF} && datagram[1] == std::byte{0xFF};
  }
  // Answers a probe of a process of this host: others cannot send from this address and port.
  void AnswerProbe(const FlowKey& flow, std::span<const std::byte> datagram) const;
  // An answer that came through the relay socket.
  void TakeAnswer(std::span<const std::byte> answer, uint64_t now);

 private:
  static constexpr int kMaxMembers = kSlots + 1;
  static constexpr uint16_t kUnknown = 0xFFFF;  // an index beyond any group: the kernel then hashes

  struct Probe;
  struct Answer;

  uint64_t Continue(uint64_t now);
  bool Lock();
  void Unlock();
  void SendProbes(uint64_t now);
  bool Complete() const;
  void EndBatch(uint64_t now);
  void Finish(uint64_t now);
  bool Attach();

  const int fd_;
  const sockaddr_storage self_;
  const socklen_t self_length_;
  const Gid address_;
  const ProcessSlot& slot_;

  std::array<uint16_t, kMaxMembers> index_of_;  // by slot; what the attached program says

  bool wanted_ = false;
  bool searching_ = false;
  uint64_t not_before_ = 0;  // ns: searches are rare, more so when they change nothing
  uint64_t pause_;
  int lock_fd_ = -1;
  int refusals_ = 0;  // times in a row that another process searched already

  // The search under way.
  bool bare_attached_ = false;
  uint64_t nonce_ = 0;
  int batch_ = 0;                             // first index of the batch of probes
  uint64_t deadline_ = 0;                     // ns: of its answers
  std::array<uint8_t, kMaxMembers> slot_at_;  // by index; 0: no answer
};

}  // namespace urxe
