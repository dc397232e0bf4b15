// How the data path notes events: off by default.
//
//   Span span(Kind::kReduce, peer, 0, bytes);   // from here to the end of the block
//   Mark(Kind::kArrived, peer, sequence, bytes);
//
// Where nothing is recorded each costs a load and a branch. Events go to the ring of the thread
// that runs an operation (Attach); what other threads do is not recorded.
#pragma once

#include <cstddef>
#include <cstdint>

#include "transport/telemetry/event.h"
#include "transport/telemetry/ring.h"

namespace gradwire::telemetry {

namespace internal {
// The ring of this thread, or none.
inline constinit thread_local Ring* ring = nullptr;
}  // namespace internal

inline bool Active() { return internal::ring != nullptr; }
// This moment as the thread's ring counts; 0 where nothing is recorded.
inline int64_t Moment() { return Active() ? internal::ring->Now() : 0; }
// An event between two such moments.
inline void Note(Kind kind, int64_t begin, int64_t end, int peer, uint64_t value, size_t bytes) {
  if (!Active()) return;
  internal::ring->Add(
      {begin, end, value, static_cast<uint32_t>(bytes), static_cast<int16_t>(peer), kind, 0});
}

// This thread's events go to `ring` while the object lives; nullptr: nowhere.
class Attach {
 public:
  explicit Attach(Ring* ring) : before_(internal::ring) { internal::ring = ring; }
  ~Attach() { internal::ring = before_; }
  Attach(const Attach&) = delete;
  Attach& operator=(const Attach&) = delete;

 private:
  Ring* const before_;
};

inline void Mark(Kind kind, int peer, uint64_t value, size_t bytes = 0, uint8_t detail = 0) {
  Ring* const ring = internal::ring;
  if (ring == nullptr) return;
  const int64_t now = ring->Now();
  ring->Add(
      {now, now, value, static_cast<uint32_t>(bytes), static_cast<int16_t>(peer), kind, detail});
}

class Span {
 public:
  explicit Span(Kind kind, int peer = -1, uint64_t value = 0, size_t bytes = 0, uint8_t detail = 0)
      : ring_(internal::ring) {
    if (ring_ == nullptr) return;
    event_ = {ring_->Now(), 0,     value, static_cast<uint32_t>(bytes), static_cast<int16_t>(peer),
              kind,         detail};
  }
  ~Span() {
    if (ring_ == nullptr) return;
    event_.end_ns = ring_->Now();
    ring_->Add(event_);
  }
  Span(const Span&) = delete;
  Span& operator=(const Span&) = delete;

  // Changes what is known only later.
  void set_bytes(size_t bytes) { event_.bytes = static_cast<uint32_t>(bytes); }
  // Nothing is recorded after all.
  void Drop() { ring_ = nullptr; }

 private:
  Ring* ring_;
  Event event_;
};

}  // namespace gradwire::telemetry
