// What the latency algorithms share: they reduce a tensor whole, piece after piece of at most one
// slice, in registered memory.
#pragma once

#include <algorithm>
#include <cstring>

#include "collectives/algorithms.h"
#include "collectives/kernels.h"

namespace gradwire {

// Copying this much costs less than registering the tensor.
inline constexpr size_t kCopiedBytes = 8 << 10;

// Calls `reduce` with one span per piece, which holds this rank's values and must hold the
// reduction of all ranks' afterwards; an empty tensor makes one empty piece, so that the ranks
// still meet. `reduce` returns absl::Status and leaves no write of the span under way.
template <typename Reduce>
absl::Status ReducePieces(Exchange& exchange, const Tensors& tensors, const Reduce& reduce) {
  const size_t bytes = tensors.bytes();
  const bool copied = bytes <= kCopiedBytes;
  Region registered;
  const Region* memory = &registered;
  if (copied) {
    GW_ASSIGN_OR_RETURN(memory, exchange.Scratch(bytes));
  } else {
    GW_ASSIGN_OR_RETURN(registered,
                        exchange.transport().Register({tensors.out, bytes}, Access::kLocal));
  }
  std::byte* const sum = memory->bytes().data();
  if (sum != tensors.in) exchange.Copy(sum, tensors.in, bytes);
  size_t offset = 0;
  do {
    const size_t length = std::min(exchange.slice_bytes(), bytes - offset);
    GW_ASSIGN_OR_RETURN(const RegionSpan piece, memory->Span(offset, length));
    GW_RETURN_IF_ERROR(reduce(piece));
    offset += length;
  } while (offset < bytes);
  if (tensors.op == ReduceOp::kAvg) Divide(tensors.type, sum, tensors.count, exchange.size());
  if (copied) exchange.Copy(tensors.out, sum, bytes);
  return absl::OkStatus();
}

}  // namespace gradwire
