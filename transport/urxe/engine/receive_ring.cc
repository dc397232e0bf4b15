#include "transport/urxe/engine/receive_ring.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <new>

namespace urxe {
namespace {

// Entries are written and read as relaxed atomic words: a consumer may read one that the owner is
// refilling; the compare-and-swap on head_ then tells that what it read is not its own.
using Word = std::atomic_ref<uint64_t>;

constexpr uint32_t kWord = sizeof(uint64_t);
constexpr uint32_t kEntryHeader = 2 * kWord;  // wr_id; num_sge
static_assert(sizeof(ibv_sge) == 2 * kWord, "address, then length and lkey");
static_assert(offsetof(Receive, sge) == kEntryHeader, "a Receive is laid out as an entry is");

uint32_t StrideOf(uint32_t max_sge) { return kEntryHeader + max_sge * sizeof(ibv_sge); }
uint32_t SlotsFor(uint32_t max_wr) { return std::bit_ceil(std::max(max_wr, 1u)); }

void CopyIn(std::byte* entry, const void* words, size_t bytes) {
  for (size_t at = 0; at < bytes; at += kWord) {
    uint64_t word = 0;
    memcpy(&word, static_cast<const std::byte*>(words) + at, kWord);
    Word(*reinterpret_cast<uint64_t*>(entry + at)).store(word, std::memory_order_relaxed);
  }
}

void CopyOut(void* words, std::byte* entry, size_t bytes) {
  for (size_t at = 0; at < bytes; at += kWord) {
    const uint64_t word =
        Word(*reinterpret_cast<uint64_t*>(entry + at)).load(std::memory_order_relaxed);
    memcpy(static_cast<std::byte*>(words) + at, &word, kWord);
  }
}

}  // namespace

size_t ReceiveRing::SizeFor(uint32_t max_wr, uint32_t max_sge) {
  return sizeof(ReceiveRing) + size_t{SlotsFor(max_wr)} * StrideOf(max_sge);
}

ReceiveRing* ReceiveRing::Make(void* memory, uint32_t max_wr, uint32_t max_sge) {
  auto* ring = new (memory) ReceiveRing;
  ring->head_.store(0, std::memory_order_relaxed);
  ring->tail_.store(0, std::memory_order_relaxed);
  ring->slots_ = SlotsFor(max_wr);
  ring->max_wr_ = max_wr;
  ring->max_sge_ = max_sge;
  ring->stride_ = StrideOf(max_sge);
  return ring;
}

bool ReceiveRing::FitsIn(size_t bytes) const {
  return std::has_single_bit(slots_) && max_sge_ <= kMaxReceiveSge &&
         stride_ == StrideOf(max_sge_) && bytes >= sizeof(ReceiveRing) &&
         (bytes - sizeof(ReceiveRing)) / stride_ >= slots_;
}

std::byte* ReceiveRing::Entry(uint32_t index) {
  return reinterpret_cast<std::byte*>(this + 1) + size_t{index & (slots_ - 1)} * stride_;
}

int ReceiveRing::Post(const ibv_recv_wr& request) {
  if (request.num_sge < 0 || static_cast<uint32_t>(request.num_sge) > max_sge_) return EINVAL;
  const uint32_t tail = tail_.load(std::memory_order_relaxed);
  if (tail - head_.load(std::memory_order_acquire) >= max_wr_) return ENOMEM;
  std::byte* entry = Entry(tail);
  const uint64_t header[] = {request.wr_id, static_cast<uint32_t>(request.num_sge)};
  CopyIn(entry, header, sizeof(header));
  CopyIn(entry + kEntryHeader, request.sg_list,
         static_cast<size_t>(request.num_sge) * sizeof(ibv_sge));
  tail_.store(tail + 1, std::memory_order_release);
  return 0;
}

bool ReceiveRing::Take(Receive& receive) {
  uint32_t head = head_.load(std::memory_order_acquire);
  while (head != tail_.load(std::memory_order_acquire)) {
    std::byte* entry = Entry(head);
    CopyOut(&receive, entry, kEntryHeader);
    // The count may be torn by a refill, or a hostile peer's: never beyond what `receive` holds.
    receive.num_sge = std::min({receive.num_sge, max_sge_, kMaxReceiveSge});
    CopyOut(receive.sge, entry + kEntryHeader, receive.num_sge * sizeof(ibv_sge));
    if (head_.compare_exchange_weak(head, head + 1, std::memory_order_acq_rel,
                                    std::memory_order_acquire)) {
      return true;
    }
  }
  return false;
}

}  // namespace urxe
