#include "transport/urxe/wire/steering.h"

#include <linux/filter.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <vector>

#include "transport/urxe/wire/mailroom.h"

namespace urxe {
namespace {

constexpr uint64_t kMillisecond = 1'000'000;
constexpr uint64_t kAnswerTime = 20 * kMillisecond;
// A process that slept through its own search (it was stopped) must not act on what it learned.
constexpr uint64_t kStale = 50 * kMillisecond;
constexpr uint64_t kShortPause = 10 * kMillisecond;
constexpr uint64_t kLongPause = 160 * kMillisecond;
// A search that holds the lock longer than these many short pauses belongs to a stopped process.
constexpr int kMaxRefusals = 6;
// Probes at a time: their answers must fit the relay socket's queue (net.unix.max_dgram_qlen).
constexpr int kBatch = 8;

}  // namespace

// On the wire: network order for what the program reads, else as it comes.
struct Steering::Probe {
  uint16_t marker = 0xFFFF;
  uint16_t slot = 0;   // the prober's
  uint32_t index = 0;  // network order
  uint64_t nonce = 0;
};

struct Steering::Answer {
  uint64_t nonce = 0;
  uint32_t index = 0;
  uint32_t slot = 0;  // who answers
};

Steering::Steering(int fd, const sockaddr_storage& self, socklen_t self_length, const Gid& address,
                   const ProcessSlot& slot)
    : fd_(fd),
      self_(self),
      self_length_(self_length),
      address_(address),
      slot_(slot),
      pause_(kShortPause) {
  index_of_.fill(kUnknown);
}

Steering::~Steering() { Unlock(); }

void Steering::Search(uint64_t now) {
  wanted_ = true;
  Continue(now);
}

uint64_t Steering::Continue(uint64_t now) {
  if (searching_ && now > deadline_ + kStale) {
    searching_ = false;
    Unlock();
    wanted_ = true;
  }
  if (searching_ && now >= deadline_) EndBatch(now);
  if (searching_) return deadline_;
  if (!wanted_) return UINT64_MAX;
  if (now < not_before_) return not_before_;
  if (!Lock() && ++refusals_ < kMaxRefusals) {
    not_before_ = now + kShortPause;
    return not_before_;
  }
  refusals_ = 0;
  wanted_ = false;
  searching_ = true;
  batch_ = 0;
  slot_at_.fill(0);
  if (getrandom(&nonce_, sizeof(nonce_), GRND_NONBLOCK) != sizeof(nonce_)) nonce_ ^= now;
  SendProbes(now);
  return deadline_;
}

// Processes search one after the other, as far as they can: the lock is a name that the kernel
// frees with its holder. Searching at once would do no harm but to their time.
bool Steering::Lock() {
  lock_fd_ = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (lock_fd_ < 0) return false;
  sockaddr_un name = {};
  name.sun_family = AF_UNIX;
  char* at = name.sun_path + 1;
  at += std::snprintf(at, 16, "urxe/steering/");
  for (const uint8_t byte : address_) at += std::snprintf(at, 3, "%02x", byte);
  const auto length = static_cast<socklen_t>(at - reinterpret_cast<char*>(&name));
  if (bind(lock_fd_, reinterpret_cast<const sockaddr*>(&name), length) == 0) return true;
  Unlock();
  return false;
}

void Steering::Unlock() {
  if (lock_fd_ >= 0) close(lock_fd_);
  lock_fd_ = -1;
}

void Steering::SendProbes(uint64_t now) {
  Probe probes[kBatch];
  iovec pieces[kBatch];
  mmsghdr messages[kBatch] = {};
  const int count = std::min(kBatch, kMaxMembers - batch_);
  for (int i = 0; i < count; ++i) {
    probes[i].slot = static_cast<uint16_t>(slot_.number());
    probes[i].index = htonl(static_cast<uint32_t>(batch_ + i));
    probes[i].nonce = nonce_;
    pieces[i] = {&probes[i], sizeof(Probe)};
    messages[i].msg_hdr.msg_name = const_cast<sockaddr_storage*>(&self_);
    messages[i].msg_hdr.msg_namelen = self_length_;
    messages[i].msg_hdr.msg_iov = &pieces[i];
    messages[i].msg_hdr.msg_iovlen = 1;
  }
  sendmmsg(fd_, messages, static_cast<unsigned>(count), MSG_DONTWAIT | MSG_NOSIGNAL);
  deadline_ = now + kAnswerTime;
}

void Steering::AnswerProbe(const FlowKey& flow, std::span<const std::byte> datagram) const {
  Probe probe;
  if (flow.source != address_ || flow.source_port != flow.destination_port ||
      datagram.size() != sizeof(probe)) {
    return;
  }
  std::memcpy(&probe, datagram.data(), sizeof(probe));
  MailHeader header;
  header.kind = MailHeader::kAnswer;
  header.flow = flow;
  const Answer answer = {probe.nonce, ntohl(probe.index), static_cast<uint32_t>(slot_.number())};
  slot_.SendTo(probe.slot, std::as_bytes(std::span(&header, 1)),
               std::as_bytes(std::span(&answer, 1)));
}

void Steering::TakeAnswer(std::span<const std::byte> bytes, uint64_t now) {
  Answer answer;
  if (!searching_ || bytes.size() != sizeof(answer)) return;
  std::memcpy(&answer, bytes.data(), sizeof(answer));
  if (answer.nonce != nonce_ || answer.index >= kMaxMembers || answer.slot == 0 ||
      answer.slot > kSlots) {
    return;
  }
  slot_at_[answer.index] = static_cast<uint8_t>(answer.slot);
  if (Complete()) EndBatch(now);
}

bool Steering::Complete() const {
  const int end = std::min(batch_ + kBatch, kMaxMembers);
  return std::find(slot_at_.begin() + batch_, slot_at_.begin() + end, 0) == slot_at_.begin() + end;
}

void Steering::EndBatch(uint64_t now) {
  const int end = std::min(batch_ + kBatch, kMaxMembers);
  // The smallest index a slot answered at is its own; it answered others for want of a member.
  std::array<bool, kMaxMembers> seen = {};
  int answers = 0;
  int members = 0;
  for (int i = 0; i < end; ++i) {
    if (slot_at_[i] == 0) continue;
    ++answers;
    if (!seen[slot_at_[i]]) ++members;
    seen[slot_at_[i]] = true;
  }
  if (members < 2 && !bare_attached_) {
    // Perhaps nobody has attached a program yet, and the kernel spread the probes as it liked.
    bare_attached_ = Attach();
    batch_ = 0;
    slot_at_.fill(0);
    nonce_ += 1;
    return SendProbes(now);
  }
  const bool silent = std::all_of(slot_at_.begin() + batch_, slot_at_.begin() + end,
                                  [](uint8_t slot) { return slot == 0; });
  if (silent || members < answers || end == kMaxMembers) return Finish(now);
  batch_ = end;
  SendProbes(now);
}

void Steering::Finish(uint64_t now) {
  std::array<uint16_t, kMaxMembers> found;
  found.fill(kUnknown);
  for (int i = kMaxMembers - 1; i >= 0; --i) {
    if (slot_at_[i] != 0) found[slot_at_[i]] = static_cast<uint16_t>(i);
  }
  for (int slot = 1; slot <= kSlots; ++slot) {
    const uint16_t before = index_of_[slot];
    if (found[slot] == kUnknown && before != kUnknown && slot_at_[before] == 0) {
      found[slot] = before;
    }
  }
  pause_ = found == index_of_ ? std::min(2 * pause_, kLongPause) : kShortPause;
  index_of_ = found;
  Attach();
  searching_ = false;
  not_before_ = now + pause_;
  Unlock();
}

bool Steering::Attach() {
  // What the program sees begins with the UDP payload.
  std::vector<sock_filter> program = {
      BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0xFFFF, 0, 2),  // a probe:
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(Probe, index)),
      BPF_STMT(BPF_RET | BPF_A, 0),
      BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 5),  // upper byte of the destination queue pair number
  };
  for (uint32_t slot = 1; slot <= kSlots; ++slot) {
    if (index_of_[slot] == kUnknown) continue;
    program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, slot, 0, 1));
    program.push_back(BPF_STMT(BPF_RET | BPF_K, index_of_[slot]));
  }
  program.push_back(BPF_STMT(BPF_RET | BPF_K, kUnknown));
  const sock_fprog filter = {static_cast<unsigned short>(program.size()), program.data()};
  return setsockopt(fd_, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &filter, sizeof(filter)) == 0;
}

}  // namespace urxe
