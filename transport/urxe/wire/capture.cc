#include "transport/urxe/wire/capture.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "transport/urxe/settings.h"
#include "transport/urxe/wire/packet.h"

namespace urxe {
namespace {

constexpr uint32_t kPcapMagic = 0xA1B23C4D;  // pcap with nanoseconds, host byte order
constexpr uint32_t kLinkTypeRaw = 101;       // a record begins with the IP header
constexpr uint32_t kSnapLength = 262144;
constexpr size_t kBuffer = 256 << 10;          // bytes; more is written at once
constexpr uint64_t kFlushAfter = 100'000'000;  // ns

struct FileHeader {
  uint32_t magic = kPcapMagic;
  uint16_t major = 2;
  uint16_t minor = 4;
  uint32_t zone = 0;
  uint32_t accuracy = 0;
  uint32_t snap_length = kSnapLength;
  uint32_t link_type = kLinkTypeRaw;
};

struct RecordHeader {
  uint32_t seconds = 0;
  uint32_t nanoseconds = 0;
  uint32_t captured = 0;
  uint32_t length = 0;
};

void Put16(std::byte* at, size_t value) {
  at[0] = static_cast<std::byte>(value >> 8);
  at[1] = static_cast<std::byte>(value);
}

// The Internet checksum's running sum (RFC 1071). Ranges but the last have an even length.
uint64_t Sum(uint64_t sum, const void* bytes, size_t size) {
  const auto* at = static_cast<const uint8_t*>(bytes);
  for (size_t i = 0; i + 1 < size; i += 2) sum += static_cast<uint64_t>(at[i]) << 8 | at[i + 1];
  if (size % 2 != 0) sum += static_cast<uint64_t>(at[size - 1]) << 8;
  return sum;
}
uint16_t Fold(uint64_t sum) {
  while (sum > 0xFFFF) sum = (sum & 0xFFFF) + (sum >> 16);
  return static_cast<uint16_t>(~sum);
}

// Writes IP and UDP headers; the UDP checksum is left 0. Returns their size.
size_t PutHeaders(const CapturedHeaders& headers, size_t datagram_size, std::byte* at) {
  const FlowKey& flow = headers.flow;
  std::byte* const begin = at;
  if (IsIpv4(flow.source)) {
    at[0] = std::byte{0x45};
    at[1] = std::byte{headers.traffic_class};
    Put16(at + 2, kIpv4Size + kUdpSize + datagram_size);
    Put16(at + 4, headers.identification);
    Put16(at + 6, 0x4000);  // do not fragment
    at[8] = std::byte{headers.hop_limit};
    at[9] = std::byte{17};
    Put16(at + 10, 0);
    std::memcpy(at + 12, flow.source.data() + 12, 4);
    std::memcpy(at + 16, flow.destination.data() + 12, 4);
    Put16(at + 10, Fold(Sum(0, at, kIpv4Size)));
    at += kIpv4Size;
  } else {
    at[0] = std::byte{0x60} | std::byte{headers.traffic_class} >> 4;
    at[1] = std::byte{headers.traffic_class} << 4;
    Put16(at + 2, 0);
    Put16(at + 4, kUdpSize + datagram_size);
    at[6] = std::byte{17};
    at[7] = std::byte{headers.hop_limit};
    std::memcpy(at + 8, flow.source.data(), 16);
    std::memcpy(at + 24, flow.destination.data(), 16);
    at += kIpv6Size;
  }
  Put16(at, flow.source_port);
  Put16(at + 2, flow.destination_port);
  Put16(at + 4, kUdpSize + datagram_size);
  Put16(at + 6, 0);
  return static_cast<size_t>(at + kUdpSize - begin);
}

// Over addresses, protocol and length, which also stand in the headers, and the UDP datagram.
uint16_t UdpChecksum(const FlowKey& flow, std::span<const std::byte> udp) {
  const size_t skip = IsIpv4(flow.source) ? 12 : 0;
  uint64_t sum = 17 + udp.size();
  sum = Sum(sum, flow.source.data() + skip, 16 - skip);
  sum = Sum(sum, flow.destination.data() + skip, 16 - skip);
  const uint16_t checksum = Fold(Sum(sum, udp.data(), udp.size()));
  return checksum == 0 ? 0xFFFF : checksum;  // 0 means that there is none
}

}  // namespace

PacketCapture* PacketCapture::OfProcess() {
  // Never destroyed: the progress thread may still take packets while the process exits.
  static PacketCapture* const capture = []() -> PacketCapture* {
    const std::string& path = ProcessSettings().settings.pcap;
    if (path.empty()) return nullptr;
    auto created = Create(path);
    if (created == nullptr) {
      std::fprintf(stderr, "urxe: URXE_PCAP=%s cannot be written: %s; packets are not captured\n",
                   path.c_str(), std::strerror(errno));
      return nullptr;
    }
    std::atexit([] { OfProcess()->Finish(); });
    return created.release();
  }();
  return capture;
}

std::unique_ptr<PacketCapture> PacketCapture::Create(std::string path) {
  const size_t percent = path.find("%p");
  if (percent != std::string::npos) path.replace(percent, 2, std::to_string(getpid()));
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return nullptr;
  return std::unique_ptr<PacketCapture>(new PacketCapture(fd, std::move(path)));
}

PacketCapture::PacketCapture(int fd, std::string path)
    : path_(std::move(path)), owner_(getpid()), fd_(fd) {
  const FileHeader header;
  const auto bytes = std::as_bytes(std::span(&header, 1));
  pending_.assign(bytes.begin(), bytes.end());
}

PacketCapture::~PacketCapture() { Finish(); }

void PacketCapture::Record(const CapturedHeaders& headers, std::span<const iovec> pieces) {
  size_t size = 0;
  for (const iovec& piece : pieces) size += piece.iov_len;
  timespec time;
  clock_gettime(CLOCK_REALTIME, &time);

  const std::lock_guard lock(lock_);
  if (fd_ < 0) return;
  if (pending_.size() > kBuffer) Write();
  std::byte ip[48];
  const size_t ip_size = PutHeaders(headers, size, ip);
  const RecordHeader record = {
      static_cast<uint32_t>(time.tv_sec), static_cast<uint32_t>(time.tv_nsec),
      static_cast<uint32_t>(ip_size + size), static_cast<uint32_t>(ip_size + size)};
  const auto record_bytes = std::as_bytes(std::span(&record, 1));
  pending_.insert(pending_.end(), record_bytes.begin(), record_bytes.end());
  const size_t udp = pending_.size() + ip_size - kUdpSize;
  pending_.insert(pending_.end(), ip, ip + ip_size);
  for (const iovec& piece : pieces) {
    const auto* begin = static_cast<const std::byte*>(piece.iov_base);
    pending_.insert(pending_.end(), begin, begin + piece.iov_len);
  }
  Put16(pending_.data() + udp + 6, UdpChecksum(headers.flow, std::span(pending_).subspan(udp)));
  if (due_ == UINT64_MAX) due_ = 0;
}

uint64_t PacketCapture::Run(uint64_t now) {
  const std::lock_guard lock(lock_);
  if (due_ == UINT64_MAX) return due_;
  if (due_ == 0) {
    due_ = now + kFlushAfter;
  } else if (now >= due_) {
    Write();
    due_ = UINT64_MAX;
  }
  return due_;
}

void PacketCapture::Flush() {
  const std::lock_guard lock(lock_);
  Write();
}

void PacketCapture::Finish() {
  const std::lock_guard lock(lock_);
  Write();
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

void PacketCapture::Write() {
  if (owner_ != getpid()) pending_.clear();
  for (size_t done = 0; fd_ >= 0 && done < pending_.size();) {
    const ssize_t written = write(fd_, pending_.data() + done, pending_.size() - done);
    if (written > 0) {
      done += static_cast<size_t>(written);
    } else if (written == 0 || errno != EINTR) {
      std::fprintf(stderr, "urxe: writing packets to %s failed: %s; the capture ends here\n",
                   path_.c_str(), std::strerror(written == 0 ? ENOSPC : errno));
      close(fd_);
      fd_ = -1;
    }
  }
  pending_.clear();
}

}  // namespace urxe
