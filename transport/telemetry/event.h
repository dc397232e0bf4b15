// What a rank's data path notes of itself: events of a fixed size in a ring, off by default.
//
//   Span span(Kind::kReduce, peer, 0, bytes);   // from here to the end of the block
//   Mark(Kind::kArrived, peer, sequence, bytes);
//
// Where nothing is recorded each costs a load and a branch. Events go to the ring of the thread
// that runs an operation (Attach); what other threads do is not recorded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <ctime>
#include <vector>

namespace gradwire::telemetry {

// In a recording as numbers: append, never renumber.
enum class Kind : uint8_t {
  // --- Operations ---
  kOperation = 0,  // a collective; value: its number; detail: CollectiveKind
  kOperands,       // moment, before it: value: elements, peer: root, detail: type * 16 + reduction
  kDevice,  // moment, around it; value: receiver-not-ready NAKs so far, bytes: packets sent again
  // --- Writes; peer: the other end, value: sequence number on the link, bytes: payload ---
  kWrite,    // moment: a write was handed to the link, with its credit
  kPosted,   // the doorbell with which it went to the device; over TCP unused
  kSent,     // moment, TCP: its last byte went to the kernel
  kArrived,  // moment: its immediate was taken, the bytes are visible
  // --- Flow control ---
  kCreditsTaken,  // moment: the peer gave `value` credits back
  kCompletion,    // moment: a signaled request completed; value: writes done on this link so far
  kQueueFull,     // moment: writes wait for room in the send queue
  // --- Work ---
  kReduce,
  kCopy,
  kSystemCall,  // that moved bytes; detail: SystemCall
  // --- Waiting ---
  kWait,   // for `peer`; detail: Need, value: see there
  kBlock,  // inside a wait: the thread gave up the processor
};
inline constexpr int kKindCount = static_cast<int>(Kind::kBlock) + 1;

enum class SystemCall : uint8_t { kSend = 0, kReceive };

// What a wait is for.
enum class Need : uint8_t {
  kArrival = 0,  // write number `value` of the peer
  kCredit,       // a credit for our write number `value` to the peer
  kWritten,      // the end of our write number `value` to the peer
};
// Added to kArrival's detail: a write to the right of us was ready, but had no credit.
inline constexpr uint8_t kAlsoCredit = 0x10;

struct Event {
  int64_t begin_ns = 0;  // CLOCK_MONOTONIC
  int64_t end_ns = 0;    // the same for a moment
  uint64_t value = 0;
  uint32_t bytes = 0;
  int16_t peer = -1;
  Kind kind = Kind::kOperation;
  uint8_t detail = 0;
};
static_assert(sizeof(Event) == 32, "a recording holds events as they are in memory");

// The last `capacity` events. One thread at a time.
class Ring {
 public:
  // `capacity` is rounded up to a power of two.
  explicit Ring(size_t capacity) {
    size_t size = 1;
    while (size < capacity) size *= 2;
    events_.resize(size);
  }
  void Add(const Event& event) { events_[count_++ & (events_.size() - 1)] = event; }

  uint64_t count() const { return count_; }  // ever added
  uint64_t lost() const { return count_ > events_.size() ? count_ - events_.size() : 0; }
  // In the order in which they were added.
  std::vector<Event> Take() const {
    std::vector<Event> events;
    events.reserve(static_cast<size_t>(count_ - lost()));
    for (uint64_t i = lost(); i < count_; ++i) events.push_back(events_[i & (events_.size() - 1)]);
    return events;
  }

 private:
  std::vector<Event> events_;
  uint64_t count_ = 0;
};

namespace internal {
// The ring of this thread, or none.
inline constinit thread_local Ring* ring = nullptr;
}  // namespace internal

inline bool Active() { return internal::ring != nullptr; }

inline int64_t Now() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
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
  const int64_t now = Now();
  ring->Add(
      {now, now, value, static_cast<uint32_t>(bytes), static_cast<int16_t>(peer), kind, detail});
}

class Span {
 public:
  explicit Span(Kind kind, int peer = -1, uint64_t value = 0, size_t bytes = 0, uint8_t detail = 0)
      : ring_(internal::ring) {
    if (ring_ == nullptr) return;
    event_ = {Now(), 0,     value, static_cast<uint32_t>(bytes), static_cast<int16_t>(peer),
              kind,  detail};
  }
  ~Span() {
    if (ring_ == nullptr) return;
    event_.end_ns = Now();
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
