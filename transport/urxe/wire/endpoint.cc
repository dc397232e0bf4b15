#include "transport/urxe/wire/endpoint.h"

#include <arpa/inet.h>
#include <netinet/udp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "transport/urxe/engine/arena.h"
#include "transport/urxe/settings.h"
#include "transport/urxe/wire/capture.h"
#include "transport/urxe/wire/clock.h"
#include "transport/urxe/wire/fork_guard.h"
#include "transport/urxe/wire/mailroom.h"
#include "transport/urxe/wire/process_slot.h"

#ifndef UDP_GRO
#define UDP_GRO 104
#endif

namespace urxe {
namespace {

constexpr size_t kBufferSize = 1 << 16;  // no joined datagram is larger
constexpr int kSocketBuffer = 8 << 20;   // bytes; holds several windows of peers

sockaddr_storage SocketAddress(const Gid& gid, unsigned interface_index, socklen_t& length) {
  sockaddr_storage storage = {};
  if (IsIpv4(gid)) {
    auto* address = reinterpret_cast<sockaddr_in*>(&storage);
    address->sin_family = AF_INET;
    address->sin_port = htons(kRocePort);
    std::memcpy(&address->sin_addr, gid.data() + 12, 4);
    length = sizeof(*address);
  } else {
    auto* address = reinterpret_cast<sockaddr_in6*>(&storage);
    address->sin6_family = AF_INET6;
    address->sin6_port = htons(kRocePort);
    std::memcpy(&address->sin6_addr, gid.data(), 16);
    if (IN6_IS_ADDR_LINKLOCAL(&address->sin6_addr)) address->sin6_scope_id = interface_index;
    length = sizeof(*address);
  }
  return storage;
}

bool ReadAddress(const sockaddr_storage& storage, Gid& gid, uint16_t& port) {
  gid = {};
  if (storage.ss_family == AF_INET) {
    const auto& address = reinterpret_cast<const sockaddr_in&>(storage);
    gid[10] = gid[11] = 0xFF;
    std::memcpy(gid.data() + 12, &address.sin_addr, 4);
    port = ntohs(address.sin_port);
    return true;
  }
  if (storage.ss_family == AF_INET6) {
    const auto& address = reinterpret_cast<const sockaddr_in6&>(storage);
    std::memcpy(gid.data(), &address.sin6_addr, 16);
    port = ntohs(address.sin6_port);
    return true;
  }
  return false;
}

bool Set(int fd, int level, int option, int value) {
  return setsockopt(fd, level, option, &value, sizeof(value)) == 0;
}

// The force takes CAP_NET_ADMIN; without it the system's limit caps the size.
void EnlargeBuffers(int fd) {
  if (!Set(fd, SOL_SOCKET, SO_RCVBUFFORCE, kSocketBuffer)) {
    Set(fd, SOL_SOCKET, SO_RCVBUF, kSocketBuffer);
  }
  if (!Set(fd, SOL_SOCKET, SO_SNDBUFFORCE, kSocketBuffer)) {
    Set(fd, SOL_SOCKET, SO_SNDBUF, kSocketBuffer);
  }
}

bool Configure(int fd, bool ipv4) {
  EnlargeBuffers(fd);
  if (!Set(fd, SOL_SOCKET, SO_REUSEPORT, 1) || !Set(fd, IPPROTO_UDP, UDP_GRO, 1)) return false;
  if (ipv4) {
    // Do not fragment: the identification is 0 then, which the ICRC covers.
    return Set(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO) &&
           Set(fd, IPPROTO_IP, IP_TTL, kDefaultHopLimit) && Set(fd, IPPROTO_IP, IP_RECVTOS, 1);
  }
  // Other implementations send no UDP checksum.
  return Set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1) && Set(fd, IPPROTO_UDP, UDP_NO_CHECK6_RX, 1) &&
         Set(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO) &&
         Set(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS, kDefaultHopLimit) &&
         Set(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1);
}

std::string Text(const Gid& gid) {
  char text[INET6_ADDRSTRLEN] = "?";
  if (IsIpv4(gid)) {
    inet_ntop(AF_INET, gid.data() + 12, text, sizeof(text));
  } else {
    inet_ntop(AF_INET6, gid.data(), text, sizeof(text));
  }
  return text;
}

std::string BindProblem(const Gid& address, int error) {
  std::string problem =
      "urxe: cannot bind UDP port 4791 of " + Text(address) + ": " + std::strerror(error);
  if (error == EADDRINUSE) {
    problem +=
        "; the kernel's rdma_rxe owns the port once it is loaded in this network namespace "
        "(rmmod rdma_rxe, or use its device), or a process of another user has it";
  } else if (error == EADDRNOTAVAIL) {
    problem += "; the interface has lost this address";
  }
  return problem;
}

// The next packet's bytes are fetched while this one's ICRC is computed.
void Prefetch(std::span<const std::byte> bytes) {
  for (size_t i = 0; i < bytes.size(); i += 64) __builtin_prefetch(bytes.data() + i);
}

}  // namespace

Endpoint::Endpoint(int fd, const sockaddr_storage& local, socklen_t local_length,
                   const Gid& address, unsigned interface_index, ProcessSlot& slot)
    : fd_(fd),
      address_(address),
      interface_index_(interface_index),
      slot_(slot),
      icrc_required_(ProcessSettings().settings.icrc),
      capture_(PacketCapture::OfProcess()),
      burst_(fd),
      steering_(fd, local, local_length, address, slot),
      buffer_(new std::byte[kBufferSize]) {
  arrivals_.reserve(2 * kMaxSegments);
  GuardFromFork(fd_);
  steering_.Search(MonotonicNow());
}

Endpoint::~Endpoint() { CloseGuarded(fd_); }

std::unique_ptr<Endpoint> Endpoint::Open(const Gid& address, unsigned interface_index,
                                         ProcessSlot& slot, std::string& problem) {
  socklen_t length = 0;
  const sockaddr_storage local = SocketAddress(address, interface_index, length);
  const int fd = socket(local.ss_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0 || !Configure(fd, local.ss_family == AF_INET)) {
    const int error = errno;
    problem = std::string(
                  "urxe: cannot make a UDP socket with segmentation offload (UDP_GRO, "
                  "Linux 5.0 or later): ") +
              std::strerror(error);
    if (fd >= 0) close(fd);
    errno = error;
    return nullptr;
  }
  if (bind(fd, reinterpret_cast<const sockaddr*>(&local), length) != 0) {
    const int error = errno;
    problem = BindProblem(address, error);
    close(fd);
    errno = error;
    return nullptr;
  }
  return std::unique_ptr<Endpoint>(new Endpoint(fd, local, length, address, interface_index, slot));
}

int Endpoint::Resolve(const Gid& gid, Destination& destination) const {
  if (IsIpv4(gid) != IsIpv4(address_)) return EINVAL;
  destination.address = SocketAddress(gid, interface_index_, destination.address_length);
  destination.flow = {address_, gid, kRocePort, kRocePort};
  return 0;
}

int Endpoint::Receive() {
  arrivals_.clear();
  sockaddr_storage source;
  iovec piece = {buffer_.get(), kBufferSize};
  alignas(cmsghdr) char control[2 * CMSG_SPACE(sizeof(int))];
  msghdr message = {};
  ssize_t size = 0;
  do {
    message.msg_name = &source;
    message.msg_namelen = sizeof(source);
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    size = recvmsg(fd_, &message, MSG_DONTWAIT);
  } while (size < 0 && errno == EINTR);
  if (size < 0) return 0;
  Count(&urxe_counters::receive_calls);
  Count(&urxe_counters::bytes_received, static_cast<uint64_t>(size));

  Datagram datagram;
  datagram.bytes = {buffer_.get(), static_cast<size_t>(size)};
  datagram.segment_size = datagram.bytes.size();
  for (cmsghdr* item = CMSG_FIRSTHDR(&message); item; item = CMSG_NXTHDR(&message, item)) {
    int value = 0;
    if (item->cmsg_level == IPPROTO_UDP && item->cmsg_type == UDP_GRO) {
      std::memcpy(&value, CMSG_DATA(item), sizeof(value));
      if (value > 0) datagram.segment_size = static_cast<size_t>(value);
    } else if (item->cmsg_level == IPPROTO_IP && item->cmsg_type == IP_TOS) {
      datagram.traffic_class = *CMSG_DATA(item);
    } else if (item->cmsg_level == IPPROTO_IPV6 && item->cmsg_type == IPV6_TCLASS) {
      std::memcpy(&value, CMSG_DATA(item), sizeof(value));
      datagram.traffic_class = static_cast<uint8_t>(value);
    }
  }
  datagram.flow.destination = address_;
  datagram.flow.destination_port = kRocePort;
  if (size == 0 || (message.msg_flags & MSG_TRUNC) != 0 ||
      !ReadAddress(source, datagram.flow.source, datagram.flow.source_port)) {
    Count(&urxe_counters::malformed);
    return 1;
  }
  Take(datagram, false);
  return static_cast<int>((datagram.bytes.size() - 1) / datagram.segment_size + 1);
}

void Endpoint::TakeRelayed(const FlowKey& flow, uint8_t traffic_class, size_t segment_size,
                           std::span<const std::byte> datagram) {
  arrivals_.clear();
  if (datagram.empty() || datagram.size() > kBufferSize || segment_size == 0 ||
      IsIpv4(flow.source) != IsIpv4(address_)) {
    Count(&urxe_counters::malformed);
    return;
  }
  std::memcpy(buffer_.get(), datagram.data(), datagram.size());
  Datagram copy = {flow, traffic_class, segment_size, {buffer_.get(), datagram.size()}};
  copy.flow.destination = address_;
  Take(copy, true);
}

void Endpoint::Take(const Datagram& datagram, bool relayed) {
  // A neighbouring packet's identification is one less, or the same where all are 0.
  uint16_t identification = 0;
  int strangers_slot = 0;  // bytes from `begin` on are for that other process
  size_t begin = 0;
  bool misdirected = false;
  for (size_t offset = 0; offset < datagram.bytes.size(); offset += datagram.segment_size) {
    const std::span<const std::byte> rest = datagram.bytes.subspan(offset);
    const auto packet = rest.first(std::min(rest.size(), datagram.segment_size));
    Prefetch(rest.subspan(packet.size())
                 .first(std::min(rest.size() - packet.size(), datagram.segment_size)));
    Header header;
    std::span<const std::byte> payload;
    const bool parsed = ParsePacket(packet, header, payload);
    const int slot = parsed ? static_cast<int>(header.dest_qpn >> kSlotShift) : slot_.number();
    if (slot != strangers_slot && strangers_slot != 0) {
      misdirected |=
          Relay(datagram, strangers_slot, datagram.bytes.subspan(begin, offset - begin)) &&
          begin == 0;
    }
    if (slot == slot_.number()) {
      strangers_slot = 0;
      if (parsed) {
        TakePacket(datagram, packet, header, payload, identification);
      } else if (Steering::IsProbe(packet) && !relayed) {
        steering_.AnswerProbe(datagram.flow, packet);
      } else {
        Count(&urxe_counters::malformed);
        if (capture_ != nullptr) Capture(datagram, packet, identification);
      }
    } else if (relayed || slot == 0) {  // a packet is relayed once at most
      strangers_slot = 0;
      Count(&urxe_counters::unknown_queue_pairs);
    } else if (slot != strangers_slot) {
      strangers_slot = slot;
      begin = offset;
    }
    ++identification;
  }
  if (strangers_slot != 0) {
    misdirected |= Relay(datagram, strangers_slot, datagram.bytes.subspan(begin)) && begin == 0;
  }
  // The kernel steers joined packets by the first of them, so only that one tells.
  if (misdirected) steering_.Search(MonotonicNow());
}

void Endpoint::TakePacket(const Datagram& datagram, std::span<const std::byte> packet,
                          const Header& header, std::span<const std::byte> payload,
                          uint16_t& identification) {
  const bool without = (header.hints & kHintNoIcrc) != 0 && !icrc_required_;
  const bool good = without || IcrcMatches(datagram.flow, packet, identification);
  if (capture_ != nullptr) Capture(datagram, packet, identification);
  if (good) {
    arrivals_.push_back({header, payload, datagram.flow.source, datagram.traffic_class});
  } else {
    Count(&urxe_counters::icrc_errors);
  }
}

void Endpoint::Capture(const Datagram& datagram, std::span<const std::byte> packet,
                       uint16_t identification) const {
  const iovec piece = {const_cast<std::byte*>(packet.data()), packet.size()};
  capture_->Record({datagram.flow, identification, datagram.traffic_class, kDefaultHopLimit},
                   {&piece, 1});
}

bool Endpoint::Relay(const Datagram& datagram, int slot, std::span<const std::byte> bytes) {
  MailHeader header;
  header.kind = MailHeader::kPackets;
  header.segment_size = static_cast<uint32_t>(datagram.segment_size);
  header.flow = datagram.flow;
  header.traffic_class = datagram.traffic_class;
  const size_t packets = (bytes.size() - 1) / datagram.segment_size + 1;
  const bool taken = slot_.SendTo(slot, std::as_bytes(std::span(&header, 1)), bytes);
  Count(taken ? &urxe_counters::relayed : &urxe_counters::unknown_queue_pairs, packets);
  return taken;
}

void Endpoint::TakeAnswer(std::span<const std::byte> answer) {
  steering_.TakeAnswer(answer, MonotonicNow());
}

uint64_t Endpoint::RunTimers(uint64_t now) {
  const uint64_t steering = steering_.Run(now);
  const uint64_t held = burst_.SendHeld(now);
  const uint64_t capture = capture_ != nullptr ? capture_->Run(now) : UINT64_MAX;
  return std::min({steering, held, capture});
}

}  // namespace urxe
