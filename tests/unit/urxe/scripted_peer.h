// A RoCEv2 peer made of a plain UDP socket on 127.0.0.2, which says packet by packet what a test
// wants to a device on 127.0.0.1.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "transport/urxe/wire/packet.h"

namespace urxe {

inline constexpr uint32_t kPeerQpn = 0x123456;
inline constexpr int kPatience = 2000;  // ms for what must come
inline constexpr int kSilence = 60;     // ms for what must not

struct Heard {
  Header header;
  std::vector<std::byte> payload;
};

class ScriptedPeer {
 public:
  ScriptedPeer();
  ~ScriptedPeer();
  ScriptedPeer(const ScriptedPeer&) = delete;
  ScriptedPeer& operator=(const ScriptedPeer&) = delete;
  bool bound() const { return bound_; }

  void Send(Header header, std::vector<std::byte> payload = {}) { SendRaw(Make(header, payload)); }
  void SendRaw(const std::vector<std::byte>& datagram);
  // A whole datagram, with its padding and a right ICRC.
  static std::vector<std::byte> Make(Header header, std::vector<std::byte> payload);

  // The next packet within `patience` ms; its ICRC must be right.
  std::optional<Heard> Hear(int patience = kPatience);
  // The next packet from `psn` on. A requester on a busy machine sends the oldest one again early.
  std::optional<Heard> HearFrom(uint32_t psn);
  bool HearsNothing() { return !Hear(kSilence).has_value(); }
  // Hears an acknowledgement of `syndrome` for `psn`.
  void ExpectAck(uint8_t syndrome, uint32_t psn);

 private:
  int fd_ = -1;
  bool bound_ = false;
};

}  // namespace urxe
