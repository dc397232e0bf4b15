// How a lane comes about. The lower rank of a pair connects; both ends prove with one greeting each
// that they know the secrets which travelled through the bootstrap, and grant their slots.
//
//   byte 0       4         6      8      12     16        40
//        +-------+---------+------+------+------+---------+------------------+
//        | magic | version | lane | from |  to  |  grant  | proof (32 bytes) |
//        +-------+---------+------+------+------+---------+------------------+
//
// proof = HMAC-SHA256(secret of the lower rank ‖ secret of the higher, all bytes before it).
// Nothing is allocated for a connection before its proof is right.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "transport/memory.h"
#include "transport/tcp/socket.h"
#include "transport/transport.h"

namespace gradwire::tcp {

struct Greeting {
  static constexpr uint32_t kMagic = 0x47574c4b;  // "GWLK"
  static constexpr uint16_t kVersion = 1;
  static constexpr size_t kSignedBytes = 40;
  static constexpr size_t kProofBytes = 32;
  static constexpr size_t kBytes = kSignedBytes + kProofBytes;
  using Wire = std::array<std::byte, kBytes>;

  uint16_t lane = 0;
  uint32_t from = 0;  // rank
  uint32_t to = 0;    // rank
  MemoryGrant slots;

  // `key` as LinkKey() makes it.
  Wire Encode(const std::string& key) const;
  // Checks form only; ProtocolError says what is wrong.
  static absl::StatusOr<Greeting> Decode(const Wire& wire);
};

// The key of one pair, the same on both ends.
std::string LinkKey(const std::string& secret_of_lower, const std::string& secret_of_higher);
// True when `wire` was made with `key`; takes the same time for every wrong proof.
bool ProofIsRight(const Greeting::Wire& wire, const std::string& key);
// 32 random bytes.
absl::StatusOr<std::string> MakeSecret();

// A socket on its way to becoming a lane: `outgoing` is sent as soon as the socket can, `incoming`
// fills as bytes arrive. Non-blocking.
struct Handshake {
  FileDescriptor fd;
  bool connector = false;
  int peer = -1;  // known from the start to a connector, else from the greeting
  int lane = 0;
  Deadline deadline;
  std::string remote;  // address for messages
  std::vector<std::byte> outgoing;
  size_t sent = 0;
  Greeting::Wire incoming;
  size_t received = 0;

  // Moves on as far as the socket allows. Unavailable when it broke or closed.
  absl::Status Step();
  bool greeted() const { return received == Greeting::kBytes; }
  bool sent_all() const { return sent == outgoing.size(); }
};

}  // namespace gradwire::tcp
