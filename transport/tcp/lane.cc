#include "transport/tcp/lane.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "transport/tcp/link.h"
#include "transport/telemetry/span.h"

namespace gradwire::tcp {
namespace {

// Makes a call that moves bytes. One that moved none is part of whatever waits.
template <typename Call>
ssize_t Moved(telemetry::SystemCall kind, const TcpLink* link, const Call& call) {
  telemetry::Span span(telemetry::Kind::kSystemCall, link != nullptr ? link->peer() : -1, 0, 0,
                       static_cast<uint8_t>(kind));
  const ssize_t bytes = call();
  if (bytes <= 0) {
    span.Drop();
  } else {
    span.set_bytes(static_cast<size_t>(bytes));
  }
  return bytes;
}

}  // namespace

Lane::Lane(FileDescriptor fd, size_t most_payload, int queue)
    : fd_(std::move(fd)),
      most_payload_(most_payload),
      capacity_(queue),
      queue_(static_cast<size_t>(queue)) {}

void Lane::Enqueue(const FrameHeader& header, const std::byte* payload, uint64_t sequence) {
  Outgoing& frame = at(count_);
  header.Encode(frame.header);
  frame.payload = payload;
  frame.length = header.length;
  frame.data = !header.credits_only();
  frame.sequence = sequence;
  ++count_;
}

absl::Status Lane::Send(TransportCounters& counters) {
  constexpr int kFramesPerCall = 8;
  while (count_ > 0) {
    iovec parts[2 * kFramesPerCall];
    size_t part_count = 0;
    size_t total = 0;
    size_t skip = sent_;
    for (int i = 0; i < std::min(count_, kFramesPerCall); ++i) {
      Outgoing& frame = at(i);
      const size_t header_left = FrameHeader::kBytes - std::min(skip, FrameHeader::kBytes);
      if (header_left > 0) {
        parts[part_count++] = {frame.header.data() + FrameHeader::kBytes - header_left,
                               header_left};
      }
      const size_t payload_sent = skip - std::min(skip, FrameHeader::kBytes);
      if (frame.length > payload_sent) {
        parts[part_count++] = {const_cast<std::byte*>(frame.payload) + payload_sent,
                               frame.length - payload_sent};
      }
      total += FrameHeader::kBytes + frame.length - skip;
      skip = 0;
    }
    msghdr message = {};
    message.msg_iov = parts;
    message.msg_iovlen = part_count;
    ++counters.syscalls;
    const ssize_t sent = Moved(telemetry::SystemCall::kSend, link, [&] {
      return sendmsg(fd_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    });
    if (sent < 0) {
      if (errno == EAGAIN || errno == EWOULDBLOCK) return Blocked();
      if (errno == EINTR) continue;
      return Unavailable("connection lost: {}", std::generic_category().message(errno));
    }
    counters.bytes_copied += static_cast<size_t>(sent);
    blocked_ = false;
    sent_ += static_cast<size_t>(sent);
    while (count_ > 0 && sent_ >= FrameHeader::kBytes + at(0).length) {
      sent_ -= FrameHeader::kBytes + at(0).length;
      if (at(0).data) {
        telemetry::Mark(telemetry::Kind::kSent, link != nullptr ? link->peer() : -1, at(0).sequence,
                        at(0).length);
      }
      head_ = (head_ + 1) % capacity_;
      --count_;
    }
    if (static_cast<size_t>(sent) < total) return Blocked();
  }
  return absl::OkStatus();
}

absl::Status Lane::Blocked() {
  if (!std::exchange(blocked_, true)) {
    telemetry::Mark(telemetry::Kind::kSendBlocked, link != nullptr ? link->peer() : -1,
                    static_cast<uint64_t>(count_));
  }
  return absl::OkStatus();
}

std::optional<uint64_t> Lane::oldest_unsent() const {
  for (int i = 0; i < count_; ++i) {
    if (at(i).data) return at(i).sequence;
  }
  return std::nullopt;
}

absl::StatusOr<Lane::Received> Lane::Receive(RegionTable& regions, FrameHeader& header,
                                             TransportCounters& counters) {
  while (true) {
    // A header first; then its payload, from the stage as far as that goes.
    if (!current_ && stage_end_ - stage_begin_ >= FrameHeader::kBytes) {
      auto decoded = FrameHeader::Decode(stage_.data() + stage_begin_, most_payload_);
      if (!decoded.ok()) return decoded.status();
      current_ = *decoded;
      stage_begin_ += FrameHeader::kBytes;
      placed_ = 0;
      // Behind a large payload comes another large one, as a rule: do not stage its beginning.
      stage_want_ = current_->length > kStage ? FrameHeader::kBytes : kStage;
    }
    const size_t left = current_ ? current_->length - placed_ : 0;
    if (current_ && left == 0) {
      header = *current_;
      current_.reset();
      return Received::kFrame;
    }
    if (stage_begin_ == stage_end_) stage_begin_ = stage_end_ = 0;

    ssize_t got = 0;
    size_t asked = 0;
    if (current_) {
      const std::lock_guard lock(regions.mutex());
      std::byte* place = regions.Resolve(current_->key, current_->address, current_->length);
      if (place == nullptr) {
        return ProtocolError("a write of {} bytes to 0x{:x} with key 0x{:08x} was not granted",
                             current_->length, current_->address, current_->key);
      }
      const size_t staged = std::min(left, stage_end_ - stage_begin_);
      if (staged > 0) {
        std::memcpy(place + placed_, stage_.data() + stage_begin_, staged);
        counters.bytes_copied += staged;
        stage_begin_ += staged;
        placed_ += staged;
        continue;
      }
      if (std::exchange(drained_, false)) return Received::kNothing;
      iovec parts[2] = {{place + placed_, left}, {stage_.data(), stage_want_}};
      msghdr message = {};
      message.msg_iov = parts;
      message.msg_iovlen = 2;
      asked = left + stage_want_;
      ++counters.syscalls;
      got = Moved(telemetry::SystemCall::kReceive, link,
                  [&] { return recvmsg(fd_.get(), &message, MSG_DONTWAIT); });
    } else {
      if (std::exchange(drained_, false)) return Received::kNothing;
      if (stage_begin_ > 0) {  // part of a header: move it to the front
        std::memmove(stage_.data(), stage_.data() + stage_begin_, stage_end_ - stage_begin_);
        stage_end_ -= std::exchange(stage_begin_, 0);
      }
      asked = kStage - stage_end_;
      ++counters.syscalls;
      got = Moved(telemetry::SystemCall::kReceive, link,
                  [&] { return recv(fd_.get(), stage_.data() + stage_end_, asked, MSG_DONTWAIT); });
    }
    if (got < 0) {
      if (errno == EAGAIN || errno == EWOULDBLOCK) return Received::kNothing;
      if (errno == EINTR) continue;
      return Unavailable("connection lost: {}", std::generic_category().message(errno));
    }
    if (got == 0) {
      if (current_ || stage_end_ > stage_begin_) {
        return Unavailable("connection closed in the middle of a write");
      }
      return Received::kEnd;
    }
    counters.bytes_copied += static_cast<size_t>(got);
    drained_ = static_cast<size_t>(got) < asked;
    const size_t direct = std::min(left, static_cast<size_t>(got));
    placed_ += direct;
    stage_end_ += static_cast<size_t>(got) - direct;
  }
}

}  // namespace gradwire::tcp
