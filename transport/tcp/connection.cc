#include "transport/tcp/connection.h"

#include <endian.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

namespace gradwire::tcp {
namespace {

constexpr uint32_t kConnects = 1;
constexpr uint32_t kAccepts = 2;

using Proof = std::array<unsigned char, Greeting::kProofBytes>;

Proof MakeProof(const Greeting::Wire& wire, const std::string& key) {
  Proof proof = {};
  unsigned int length = 0;
  HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()),
       reinterpret_cast<const unsigned char*>(wire.data()), Greeting::kSignedBytes, proof.data(),
       &length);
  return proof;
}

template <typename T>
void Put(std::byte*& at, T value) {
  std::memcpy(at, &value, sizeof(value));
  at += sizeof(value);
}

template <typename T>
T Take(const std::byte*& at) {
  T value;
  std::memcpy(&value, at, sizeof(value));
  at += sizeof(value);
  return value;
}

}  // namespace

Greeting::Wire Greeting::Encode(const std::string& key) const {
  Wire wire = {};
  std::byte* at = wire.data();
  Put(at, htobe32(kMagic));
  Put(at, htobe16(kVersion));
  Put(at, htobe16(lane));
  Put(at, htobe64(link));
  Put(at, htobe64(slots.address));
  Put(at, htobe64(slots.length));
  Put(at, htobe32(slots.key));
  Put(at, htobe32(role == Role::kConnect ? kConnects : kAccepts));
  static_assert(kSignedBytes == 4 + 2 + 2 + 8 + 8 + 8 + 4 + 4);
  const Proof proof = MakeProof(wire, key);
  std::memcpy(wire.data() + kSignedBytes, proof.data(), proof.size());
  return wire;
}

absl::StatusOr<Greeting> Greeting::Decode(const Wire& wire) {
  const std::byte* at = wire.data();
  const uint32_t magic = be32toh(Take<uint32_t>(at));
  if (magic != kMagic) {
    return ProtocolError("greeting starts with 0x{:08x} instead of 0x{:08x}", magic, kMagic);
  }
  const uint16_t version = be16toh(Take<uint16_t>(at));
  if (version != kVersion) {
    return ProtocolError("greeting of version {}, this side speaks {}; use one release everywhere",
                         version, kVersion);
  }
  Greeting greeting;
  greeting.lane = be16toh(Take<uint16_t>(at));
  greeting.link = be64toh(Take<uint64_t>(at));
  greeting.slots.address = be64toh(Take<uint64_t>(at));
  greeting.slots.length = be64toh(Take<uint64_t>(at));
  greeting.slots.key = be32toh(Take<uint32_t>(at));
  const uint32_t role = be32toh(Take<uint32_t>(at));
  if (role != kConnects && role != kAccepts) return ProtocolError("greeting in role {}", role);
  greeting.role = role == kConnects ? Role::kConnect : Role::kAccept;
  return greeting;
}

std::string LinkKey(const std::string& secret_of_connector, const std::string& secret_of_acceptor) {
  return secret_of_connector + secret_of_acceptor;
}

bool ProofIsRight(const Greeting::Wire& wire, const std::string& key) {
  const Proof proof = MakeProof(wire, key);
  return CRYPTO_memcmp(proof.data(), wire.data() + Greeting::kSignedBytes, proof.size()) == 0;
}

absl::StatusOr<std::string> MakeSecret() {
  std::string secret(32, '\0');
  if (getrandom(secret.data(), secret.size(), 0) != static_cast<ssize_t>(secret.size())) {
    return ErrnoError(errno, "getrandom");
  }
  return secret;
}

absl::Status Handshake::Step() {
  if (connector() && sent == 0) {
    int error = 0;
    socklen_t length = sizeof(error);
    if (getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &length) != 0) error = errno;
    if (error != 0) return Unavailable("{}", std::generic_category().message(error));
  }
  while (!sent_all()) {
    const ssize_t done =
        send(fd.get(), outgoing.data() + sent, outgoing.size() - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (done < 0) {
      if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOTCONN) break;
      if (errno == EINTR) continue;
      return Unavailable("{}", std::generic_category().message(errno));
    }
    sent += static_cast<size_t>(done);
  }
  while (!greeted()) {
    const ssize_t got =
        recv(fd.get(), incoming.data() + received, incoming.size() - received, MSG_DONTWAIT);
    if (got < 0) {
      if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOTCONN) break;
      if (errno == EINTR) continue;
      return Unavailable("{}", std::generic_category().message(errno));
    }
    if (got == 0) return Unavailable("closed before its greeting was complete");
    received += static_cast<size_t>(got);
  }
  return absl::OkStatus();
}

}  // namespace gradwire::tcp
