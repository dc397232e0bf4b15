// How a lane comes about. One end connects, of two ranks the lower; both ends prove with one
// greeting each that they know the secrets which travelled over the control plane, and grant their
// slots.
//
//   byte 0       4         6      8      16       36     40
//        +-------+---------+------+------+--------+------+------------------+
//        | magic | version | lane | link | grant  | role | proof (32 bytes) |
//        +-------+---------+------+------+--------+------+------------------+
//
// link: the accepting end's number for it. role: 1 the connecting end speaks, 2 the accepting end.
// proof = HMAC-SHA256(secret of the connecting end ‖ secret of the accepting end, all bytes before
// it). Nothing is allocated for a connection before its proof is right.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <list>
#include <string>
#include <vector>

#include "transport/memory.h"
#include "transport/tcp/socket.h"
#include "transport/transport.h"

namespace gradwire::tcp {

class TcpLink;

struct Greeting {
  static constexpr uint32_t kMagic = 0x47574c4b;  // "GWLK"
  static constexpr uint16_t kVersion = 2;
  static constexpr size_t kSignedBytes = 40;
  static constexpr size_t kProofBytes = 32;
  static constexpr size_t kBytes = kSignedBytes + kProofBytes;
  using Wire = std::array<std::byte, kBytes>;

  uint16_t lane = 0;
  uint64_t link = 0;
  MemoryGrant slots;
  Role role = Role::kConnect;  // of who sends it

  // `key` as LinkKey() makes it.
  Wire Encode(const std::string& key) const;
  // Checks form only; ProtocolError says what is wrong.
  static absl::StatusOr<Greeting> Decode(const Wire& wire);
};

// The key of one link, the same on both ends.
std::string LinkKey(const std::string& secret_of_connector, const std::string& secret_of_acceptor);
// What the accepting end calls the link of two ranks. Numbers of prepared links are below.
inline constexpr uint64_t kRankLink = uint64_t{1} << 63;
constexpr uint64_t RankLinkNumber(int connector, int acceptor) {
  return kRankLink | static_cast<uint64_t>(connector) << 31 | static_cast<uint64_t>(acceptor);
}
// True when `wire` was made with `key`; takes the same time for every wrong proof.
bool ProofIsRight(const Greeting::Wire& wire, const std::string& key);
// 32 random bytes.
absl::StatusOr<std::string> MakeSecret();

// A socket on its way to becoming a lane: `outgoing` is sent as soon as the socket can, `incoming`
// fills as bytes arrive. Non-blocking.
struct Handshake {
  FileDescriptor fd;
  TcpLink* link = nullptr;      // who connects knows it from the start, else the greeting tells
  uint64_t number_at_peer = 0;  // of that link, for who connects
  int lane = 0;
  Deadline deadline;
  std::vector<std::byte> outgoing;
  size_t sent = 0;
  Greeting::Wire incoming;
  size_t received = 0;
  std::list<Handshake>::iterator place;  // in the transport's list

  bool connector() const { return link != nullptr; }
  // Moves on as far as the socket allows. Unavailable when it broke or closed.
  absl::Status Step();
  bool greeted() const { return received == Greeting::kBytes; }
  bool sent_all() const { return sent == outgoing.size(); }
};

}  // namespace gradwire::tcp
