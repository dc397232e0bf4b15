#include "transport/urxe/wire/burst.h"

#include <netinet/udp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <vector>

#include "transport/urxe/engine/arena.h"
#include "transport/urxe/wire/clock.h"
#include "transport/urxe/wire/process_slot.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif

namespace urxe {
namespace {

// A payload up to this size is copied beside its headers: one more piece costs the kernel more.
constexpr size_t kCopyLimit = 512;
// A packet from more pieces than this is copied too, so that a burst has room for several.
constexpr size_t kMaxPiecesPerPacket = 32;
// A full socket buffer drains within this, or the packets are lost.
constexpr int kSendWaitMs = 1;

// The control messages of one sendmsg: only what differs from the socket's defaults.
class Control {
 public:
  Control(msghdr& message, const Destination& destination) : message_(message) {
    message.msg_control = nullptr;
    message.msg_controllen = 0;
    const bool ipv4 = destination.address.ss_family == AF_INET;
    const int level = ipv4 ? IPPROTO_IP : IPPROTO_IPV6;
    if (destination.traffic_class != 0) {
      Add<int>(level, ipv4 ? IP_TOS : IPV6_TCLASS, destination.traffic_class);
    }
    if (destination.hop_limit != kDefaultHopLimit) {
      Add<int>(level, ipv4 ? IP_TTL : IPV6_HOPLIMIT, destination.hop_limit);
    }
  }
  template <typename T>
  void Add(int level, int type, T value) {
    auto* header = reinterpret_cast<cmsghdr*>(buffer_ + message_.msg_controllen);
    header->cmsg_level = level;
    header->cmsg_type = type;
    header->cmsg_len = CMSG_LEN(sizeof(T));
    std::memcpy(CMSG_DATA(header), &value, sizeof(T));
    message_.msg_control = buffer_;
    message_.msg_controllen += CMSG_SPACE(sizeof(T));
  }

 private:
  msghdr& message_;
  alignas(cmsghdr) char buffer_[3 * CMSG_SPACE(sizeof(int))] = {};
};

bool Refused(int error) { return error == EINVAL || error == EIO || error == EOPNOTSUPP; }

// What a wire would do with these packets too is silent, except for what no retransmission heals.
void Complain(int error, size_t size) {
  static std::atomic<bool> said = false;
  if (error != EMSGSIZE || said.exchange(true)) return;
  std::fprintf(stderr,
               "urxe: packets of %zu bytes are larger than the MTU towards their destination and "
               "are lost; choose a smaller path MTU for the queue pairs (perftest: -m 1024)\n",
               size);
}

// Sends once more after a short wait when the socket's buffer is full. 0 or errno.
template <typename Call>
int WithPatience(int fd, Call call) {
  for (bool waited = false;;) {
    Count(&urxe_counters::send_calls);
    if (call() >= 0) return 0;
    if (errno == EINTR) continue;
    if (waited || (errno != EAGAIN && errno != ENOBUFS)) return errno;
    waited = true;
    pollfd writable = {fd, POLLOUT, 0};
    poll(&writable, 1, kSendWaitMs);
  }
}

}  // namespace

Burst::Burst(int fd)
    : fd_(fd),
      capture_(PacketCapture::OfProcess()),
      faults_([this](const Destination& destination, std::span<const std::byte> datagram) {
        SendOne(destination, datagram);
      }),
      staging_(new std::byte[kStagingSize]) {}

bool Burst::Fits(const Destination& destination, const Header& header, size_t size,
                 size_t pieces) const {
  return !closed_ && fate_.spared() && size <= segment_size_ && size_ + size <= kMaxDatagramSize &&
         count_ < kMaxSegments && num_pieces_ + pieces <= kMaxPieces &&
         header.dest_qpn >> kSlotShift == slot_ &&
         destination.flow.destination == destination_.flow.destination &&
         destination.traffic_class == destination_.traffic_class &&
         destination.hop_limit == destination_.hop_limit;
}

void Burst::Append(const void* bytes, size_t size) {
  if (num_pieces_ > 0) {
    iovec& last = pieces_[num_pieces_ - 1];
    if (static_cast<std::byte*>(last.iov_base) + last.iov_len == bytes) {
      last.iov_len += size;
      return;
    }
  }
  pieces_[num_pieces_++] = {const_cast<void*>(bytes), size};
}

std::byte* Burst::Stage(const void* bytes, size_t size) {
  std::byte* at = staging_.get() + staged_;
  std::memcpy(at, bytes, size);
  staged_ += size;
  return at;
}

void Burst::Queue(const Destination& destination, Header& header, std::span<const iovec> payload,
                  size_t payload_size, bool with_icrc) {
  header.pad = static_cast<uint8_t>(-payload_size & 3);
  header.hints =
      static_cast<uint8_t>(with_icrc ? header.hints & ~kHintNoIcrc : header.hints | kHintNoIcrc);
  std::byte headers[kMaxHeaders];
  const size_t headers_size = WriteHeaders(header, headers);
  const size_t size = headers_size + payload_size + header.pad + kIcrcSize;
  if (size > kMaxDatagramSize) return;
  // A packet that meets a fault is a burst of its own; the others go as ever.
  const Fate fate = faults_.Active() ? faults_.Draw() : Fate();
  const bool copy = payload_size <= kCopyLimit || payload.size() > kMaxPiecesPerPacket;
  if (count_ > 0 &&
      (!fate.spared() || !Fits(destination, header, size, 2 + (copy ? 0 : payload.size())))) {
    Flush();
  }
  if (count_ == 0) {
    fate_ = fate;
    destination_ = destination;
    slot_ = header.dest_qpn >> kSlotShift;
    segment_size_ = size;
  }

  const auto identification = static_cast<uint16_t>(segmentation_ ? count_ : 0);
  uint32_t icrc = 0;
  if (with_icrc) {
    icrc = IcrcOfHeaders(IcrcOfIpHeaders(destination.flow, size, identification),
                         {headers, headers_size});
  }
  const std::byte* begin = Stage(headers, headers_size);
  if (copy) {
    for (const iovec& piece : payload) Stage(piece.iov_base, piece.iov_len);
    if (with_icrc) icrc = IcrcContinue(icrc, begin + headers_size, payload_size);
  } else {
    Append(begin, headers_size);
    for (const iovec& piece : payload) {
      Append(piece.iov_base, piece.iov_len);
      if (with_icrc) icrc = IcrcContinue(icrc, piece.iov_base, piece.iov_len);
    }
    begin = staging_.get() + staged_;
  }
  std::byte tail[3 + kIcrcSize] = {};
  if (with_icrc) {
    icrc = IcrcFinish(IcrcContinue(icrc, tail, header.pad));
    for (size_t i = 0; i < kIcrcSize; ++i) {
      tail[header.pad + i] = static_cast<std::byte>(icrc >> (8 * i));
    }
  }
  Stage(tail, header.pad + kIcrcSize);
  const auto rest = static_cast<size_t>(staging_.get() + staged_ - begin);
  Append(begin, rest);
  if (capture_ != nullptr && fate_.spared()) {
    std::vector<iovec> pieces;
    if (!copy) {
      pieces.push_back({headers, headers_size});
      pieces.insert(pieces.end(), payload.begin(), payload.end());
    }
    pieces.push_back({const_cast<std::byte*>(begin), rest});
    Capture(destination, identification, pieces);
  }

  ++count_;
  size_ += size;
  closed_ = size < segment_size_;
}

void Burst::Flush() {
  if (count_ == 0) return;
  if (!fate_.spared()) {
    Suffer();
  } else {
    Count(&urxe_counters::packets_sent, count_);
    Count(&urxe_counters::bytes_sent, size_);
    Send();
    if (faults_.holds()) faults_.Overtaken(MonotonicNow());
  }
  count_ = size_ = num_pieces_ = staged_ = 0;
  closed_ = false;
}

void Burst::Capture(const Destination& destination, uint16_t identification,
                    std::span<const iovec> pieces) const {
  capture_->Record(
      {destination.flow, identification, destination.traffic_class, destination.hop_limit}, pieces);
}

void Burst::Suffer() {
  std::vector<std::byte> datagram;
  datagram.reserve(size_);
  for (const iovec& piece : std::span(pieces_, num_pieces_)) {
    const auto* begin = static_cast<const std::byte*>(piece.iov_base);
    datagram.insert(datagram.end(), begin, begin + piece.iov_len);
  }
  faults_.Suffer(fate_, destination_, std::move(datagram), MonotonicNow());
}

void Burst::SendOne(const Destination& destination, std::span<const std::byte> datagram) {
  iovec piece = {const_cast<std::byte*>(datagram.data()), datagram.size()};
  if (capture_ != nullptr) Capture(destination, 0, {&piece, 1});
  Count(&urxe_counters::packets_sent);
  Count(&urxe_counters::bytes_sent, datagram.size());
  msghdr message = {};
  message.msg_name = const_cast<sockaddr_storage*>(&destination.address);
  message.msg_namelen = destination.address_length;
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  Control control(message, destination);
  Complain(WithPatience(fd_, [&] { return sendmsg(fd_, &message, MSG_DONTWAIT | MSG_NOSIGNAL); }),
           datagram.size());
}

void Burst::Send() {
  if (count_ > 1 && !segmentation_) return SendSingly();
  msghdr message = {};
  message.msg_name = &destination_.address;
  message.msg_namelen = destination_.address_length;
  message.msg_iov = pieces_;
  message.msg_iovlen = num_pieces_;
  Control control(message, destination_);
  if (count_ > 1) control.Add(IPPROTO_UDP, UDP_SEGMENT, static_cast<uint16_t>(segment_size_));
  const int error =
      WithPatience(fd_, [&] { return sendmsg(fd_, &message, MSG_DONTWAIT | MSG_NOSIGNAL); });
  if (error != 0 && count_ > 1 && (Refused(error) || error == EMSGSIZE)) return SendSingly();
  Complain(error, segment_size_);
}

// Cuts the burst's pieces into datagrams. ICRCs that were made for the identifications of offloaded
// segments are turned into those for 0, which is what single datagrams have.
void Burst::SendSingly() {
  iovec pieces[kMaxPieces + kMaxSegments];
  mmsghdr messages[kMaxSegments] = {};
  size_t used = 0;
  size_t piece = 0;
  size_t offset = 0;  // in pieces_[piece]
  size_t left = size_;
  for (size_t i = 0; i < count_; ++i) {
    msghdr& message = messages[i].msg_hdr;
    message.msg_name = &destination_.address;
    message.msg_namelen = destination_.address_length;
    message.msg_iov = pieces + used;
    const size_t size = std::min(segment_size_, left);
    left -= size;
    for (size_t missing = size; missing > 0;) {
      iovec& from = pieces_[piece];
      const size_t take = std::min(missing, from.iov_len - offset);
      pieces[used++] = {static_cast<std::byte*>(from.iov_base) + offset, take};
      ++message.msg_iovlen;
      missing -= take;
      offset += take;
      if (offset == from.iov_len) {
        ++piece;
        offset = 0;
      }
    }
    if (segmentation_ && i > 0) {
      // The ICRC ends the datagram's last piece, which lies in staging_.
      const iovec& last = pieces[used - 1];
      std::byte* icrc = static_cast<std::byte*>(last.iov_base) + last.iov_len - kIcrcSize;
      const uint32_t difference = IcrcDifference(destination_.flow, size, static_cast<uint16_t>(i));
      for (size_t j = 0; j < kIcrcSize; ++j)
        icrc[j] ^= static_cast<std::byte>(difference >> (8 * j));
    }
  }
  Control control(messages[0].msg_hdr, destination_);
  for (size_t i = 1; i < count_; ++i) {
    messages[i].msg_hdr.msg_control = messages[0].msg_hdr.msg_control;
    messages[i].msg_hdr.msg_controllen = messages[0].msg_hdr.msg_controllen;
  }
  for (size_t sent = 0; sent < count_;) {
    int taken = 0;
    const int error = WithPatience(fd_, [&] {
      return taken = sendmmsg(fd_, messages + sent, static_cast<unsigned>(count_ - sent),
                              MSG_DONTWAIT | MSG_NOSIGNAL);
    });
    if (error != 0) return Complain(error, segment_size_);
    sent += static_cast<size_t>(taken);
    segmentation_ = false;  // single packets pass where a burst did not
  }
}

}  // namespace urxe
