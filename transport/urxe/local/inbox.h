// What a same-host peer leaves for a queue pair: a ring in the receiver's arena with one producer,
// the peer's queue pair, and one consumer, the receiver's engine. Data are copied first and
// straight into place; the message then says so.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace urxe {

struct LocalMessage {
  enum class Kind : uint32_t {
    kReceived,  // a receive was taken and filled: complete it
    kRefused,  // a request was against the rules: `status` is an AETH syndrome; the connection ends
    kAtomic,   // carry out an atomic at `address` and answer here
  };
  // For kAtomic: the consumer stores kAnswered or kDenied once `original` is right.
  static constexpr uint32_t kWaiting = 0, kAnswered = 1, kDenied = 2;

  Kind kind = Kind::kReceived;
  uint32_t status = 0;     // ibv_wc_status of the receive
  uint32_t immediate = 0;  // network order
  uint32_t byte_len = 0;
  uint64_t wr_id = 0;
  uint8_t opcode = 0;  // ibv_wc_opcode
  uint8_t has_immediate = 0;
  uint8_t solicited = 0;
  uint8_t add = 0;    // kAtomic: FETCH_ADD rather than CMP_SWAP
  uint32_t rkey = 0;  // kAtomic
  uint64_t address = 0;
  uint64_t operand = 0;  // what is added or swapped in
  uint64_t compare = 0;
  uint64_t original = 0;
  uint32_t answer = kWaiting;  // accessed by Answer()

  std::atomic_ref<uint32_t> Answer() { return std::atomic_ref<uint32_t>(answer); }
};

class Inbox {
 public:
  static constexpr uint32_t kSlots = 32;

  // Null when the ring is full: the consumer has not come by for kSlots messages.
  LocalMessage* Claim() {
    const uint32_t tail = tail_.load(std::memory_order_relaxed);
    if (tail - head_.load(std::memory_order_acquire) >= kSlots) return nullptr;
    return &slots_[tail % kSlots];
  }
  // Hands the claimed message over.
  void Publish() {
    tail_.store(tail_.load(std::memory_order_relaxed) + 1, std::memory_order_release);
  }

  // The oldest message, or null.
  LocalMessage* Front() {
    const uint32_t head = head_.load(std::memory_order_relaxed);
    return head == tail_.load(std::memory_order_acquire) ? nullptr : &slots_[head % kSlots];
  }
  void Pop() { head_.store(head_.load(std::memory_order_relaxed) + 1, std::memory_order_release); }

 private:
  alignas(64) std::atomic<uint32_t> head_{0};
  alignas(64) std::atomic<uint32_t> tail_{0};
  LocalMessage slots_[kSlots];
};

}  // namespace urxe
