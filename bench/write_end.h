// One rank's end of a link that is measured: runs of messages, written into a region that the peer
// granted, with the transport, slices, credits and settings that collectives use.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "transport/bootstrap/world.h"
#include "transport/settings.h"
#include "transport/status.h"
#include "transport/transport.h"

namespace gradwire::bench {

class WriteEnd {
 public:
  // What this end does: of a stream one of both or both, of round trips both.
  WriteEnd(Transport& transport, const Settings& settings, bool sends, bool receives)
      : transport_(transport),
        timeout_(settings.op_timeout),
        slice_(static_cast<size_t>(settings.slice_bytes)),
        sends_(sends),
        receives_(receives) {}

  // Opens the link and tells the peer where to write at most `largest` bytes. Both ends call this
  // and all that follows, with the same numbers.
  absl::Status Open(int peer, size_t largest);

  // `messages` of `bytes` as fast as credits allow; seconds from this rank's first post until the
  // receiver has said that it has everything.
  absl::StatusOr<double> Stream(size_t bytes, int64_t messages);
  // One message there, one back, as often as there are `round_trips`, which become seconds on the
  // end that `begins`; the other only answers.
  absl::Status PingPong(size_t bytes, bool begins, std::span<double> round_trips);

  // The bytes that messages carry from now on, and zeros where the peer's will come.
  void Fill(size_t bytes);
  // Bytes that came and are not as sent.
  int64_t CountWrong(size_t bytes) const;

 private:
  enum Tag : uint32_t { kData, kEverythingCame, kReady, kGrant };

  // Both ends are ready for so many messages of `bytes`.
  absl::Status Begin(size_t bytes, int64_t messages, bool receives);
  absl::Status Send();
  absl::Status SendMessage();
  absl::Status ReceiveMessage();
  absl::Status Say(Tag tag, size_t length);
  absl::Status Progress();
  absl::Status Take(const Completion& arrival);

  Transport& transport_;
  const std::chrono::milliseconds timeout_;
  const size_t slice_;
  const bool sends_;
  const bool receives_;
  Link* link_ = nullptr;
  Region source_;
  Region target_;
  Region message_;
  RemoteRegion place_;
  Deadline deadline_;
  std::array<Completion, 16> completions_;

  size_t bytes_ = 0;   // of a message
  size_t pieces_ = 1;  // slices of a message
  // Slices of this run.
  uint64_t sent_ = 0, to_send_ = 0;
  uint64_t received_ = 0, to_receive_ = 0;
  uint64_t wanted_ = 0;  // received ones that end the wait of a round trip
  bool granted_ = false;
  bool ready_ = false;  // the peer has begun this run
  bool they_have_all_ = false;
};

}  // namespace gradwire::bench
