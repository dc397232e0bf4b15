#include "tests/unit/urxe/scripted_peer.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <span>

#include "tests/unit/urxe/wire_support.h"
#include "transport/urxe/wire/icrc.h"

namespace urxe {

ScriptedPeer::ScriptedPeer() {
  fd_ = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  const int discover = IP_PMTUDISC_DO;  // identification 0
  setsockopt(fd_, IPPROTO_IP, IP_MTU_DISCOVER, &discover, sizeof(discover));
  sockaddr_in own = {AF_INET, htons(kRocePort), {htonl(0x7F000002)}, {}};
  bound_ = bind(fd_, reinterpret_cast<sockaddr*>(&own), sizeof(own)) == 0;
}

ScriptedPeer::~ScriptedPeer() { close(fd_); }

void ScriptedPeer::SendRaw(const std::vector<std::byte>& datagram) {
  sockaddr_in to = {AF_INET, htons(kRocePort), {htonl(0x7F000001)}, {}};
  sendto(fd_, datagram.data(), datagram.size(), 0, reinterpret_cast<sockaddr*>(&to), sizeof(to));
}

std::vector<std::byte> ScriptedPeer::Make(Header header, std::vector<std::byte> payload) {
  header.pad = static_cast<uint8_t>((4 - payload.size() % 4) % 4);
  std::vector<std::byte> datagram(kMaxHeaders);
  datagram.resize(WriteHeaders(header, datagram.data()));
  const size_t headers = datagram.size();
  datagram.insert(datagram.end(), payload.begin(), payload.end());
  datagram.resize(datagram.size() + header.pad);
  const FlowKey flow = {Ipv4(127, 0, 0, 2), Ipv4(127, 0, 0, 1), kRocePort, kRocePort};
  uint32_t state = IcrcOfIpHeaders(flow, datagram.size() + kIcrcSize, 0);
  state = IcrcOfHeaders(state, std::span(datagram).first(headers));
  const uint32_t icrc =
      IcrcFinish(IcrcContinue(state, datagram.data() + headers, datagram.size() - headers));
  for (int i = 0; i < 4; ++i) datagram.push_back(static_cast<std::byte>(icrc >> 8 * i));
  return datagram;
}

std::optional<Heard> ScriptedPeer::Hear(int patience) {
  pollfd ready = {fd_, POLLIN, 0};
  if (poll(&ready, 1, patience) != 1) return std::nullopt;
  std::vector<std::byte> bytes(65536);
  const ssize_t size = recv(fd_, bytes.data(), bytes.size(), 0);
  bytes.resize(static_cast<size_t>(std::max<ssize_t>(size, 0)));
  const FlowKey flow = {Ipv4(127, 0, 0, 1), Ipv4(127, 0, 0, 2), kRocePort, kRocePort};
  uint16_t identification = 0;
  EXPECT_TRUE(IcrcMatches(flow, bytes, identification));
  Heard heard;
  std::span<const std::byte> payload;
  EXPECT_TRUE(ParsePacket(bytes, heard.header, payload));
  EXPECT_EQ(heard.header.dest_qpn, kPeerQpn);
  heard.payload.assign(payload.begin(), payload.end());
  return heard;
}

std::optional<Heard> ScriptedPeer::HearFrom(uint32_t psn) {
  std::optional<Heard> heard;
  do {
    heard = Hear();
  } while (heard.has_value() && PsnDistance(heard->header.psn, psn) < 0);
  return heard;
}

void ScriptedPeer::ExpectAck(uint8_t syndrome, uint32_t psn) {
  const auto heard = Hear();
  ASSERT_TRUE(heard.has_value()) << "no answer";
  EXPECT_EQ(heard->header.operation, Operation::kAcknowledge);
  EXPECT_EQ(heard->header.syndrome, syndrome);
  EXPECT_EQ(heard->header.psn, psn & kPsnMask);
}

}  // namespace urxe
